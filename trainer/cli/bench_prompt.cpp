// bench_prompt.cpp: `rookery bench prompt`: how the time of reading a prompt, and of the token after it,
// grows with its length.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "kernels/base/rng.h"
#include "trainer/cli/commands.h"
#include "trainer/eval/generator.h"
#include "trainer/loop/human.h"
#include "trainer/loop/session.h"

namespace rookery::cli {
namespace {

int run(const Arguments& a) {
  config::LoadedRun loaded = config::load_run({a.positional()[0]}, a.overrides());
  loaded.config.threads = a.integer("threads", 0, kMaxThreads);
  const int64_t from = a.integer("from", 2, 1 << 24), to = a.integer("to", 2, 1 << 24),
                repeat = a.integer("repeat", 1, 1000);
  loop::Session session = loop::make_session(std::move(loaded.config));
  session.model->parameters.initialize(1);
  const Philox random(1, stream_of("bench prompt"));
  std::vector<int32_t> ids;
  for (int64_t i = 0; i <= to; ++i)
    ids.push_back(static_cast<int32_t>(random.uniform(static_cast<uint64_t>(i)) *
                                       static_cast<double>(session.model->vocab_size())));
  const std::span<const int32_t> prompt(ids);

  const bool json = a.flag("json");
  nlohmann::json rows = nlohmann::json::array();
  if (!json)
    std::printf("%10s %12s %14s %14s %14s\n", "tokens", "seconds", "us per token", "next token ms",
                "state bytes");
  for (int64_t tokens = from; tokens <= to; tokens *= 2) {
    double read = 0, next = 0;
    size_t bytes = 0;
    for (int64_t i = 0; i < repeat; ++i) {  // the fastest: what else runs on the machine only adds
      eval::Generator generator(*session.model, *session.device);
      const double start = loop::steady_now();
      generator.feed(prompt.first(static_cast<size_t>(tokens)));
      const double middle = loop::steady_now();
      generator.feed(prompt.subspan(static_cast<size_t>(tokens), 1));
      const double end = loop::steady_now();
      read = i == 0 ? middle - start : std::min(read, middle - start);
      next = i == 0 ? end - middle : std::min(next, end - middle);
      bytes = generator.state_bytes();
    }
    rows.push_back({{"tokens", tokens},
                    {"seconds", read},
                    {"us_per_token", read * 1e6 / static_cast<double>(tokens)},
                    {"next_token_ms", next * 1e3},
                    {"state_bytes", bytes}});
    if (json) continue;
    std::printf("%10lld %12.3f %14.2f %14.2f %14zu\n", static_cast<long long>(tokens), read,
                read * 1e6 / static_cast<double>(tokens), next * 1e3, bytes);
    std::fflush(stdout);
  }
  if (json) std::printf("%s\n", rows.dump(2).c_str());
  return 0;
}

}  // namespace

Command bench_prompt_command() {
  Command c;
  c.name = "prompt";
  c.summary = "time per token of reading a prompt, by its length";
  c.details =
      "Reads prompts of random tokens as `rookery generate` does, with fresh weights of the "
      "configuration's model, doubling the length, and times one more token after each. The fastest of the "
      "repeats counts. A model whose time per token does not grow reads a prompt with constant work for "
      "each token.";
  c.positional = "CONFIG [key=value...]";
  c.least_positional = c.most_positional = 1;
  c.takes_overrides = true;
  c.options = {{"from", "N", "shortest prompt", "1024"},
               {"to", "N", "longest prompt", "65536"},
               {"repeat", "R", "runs of each length", "1"},
               {"threads", "N", "threads; 0: all cores", "0"},
               {"json", "", "machine-readable output"}};
  c.examples = {{"rookery bench prompt configs/small/goldfinch-quickstart.yaml --to 16384"}};
  c.exit_codes = {ExitCode::kNoInput, ExitCode::kConfig};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
