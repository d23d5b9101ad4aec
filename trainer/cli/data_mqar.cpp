// data_mqar.cpp: `rookery data mqar`: examples of associative recall. The task: data/synthetic/mqar.h.
#include <cstdio>

#include "data/synthetic/mqar.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/version.h"
#include "trainer/loop/human.h"

namespace rookery::cli {
namespace {

int run(const Arguments& a) {
  data::mqar::Options options;
  options.seq_len = a.integer("seq-len", 4, 1 << 20);
  options.num_pairs = a.integer("pairs", 1);
  options.seed = static_cast<uint64_t>(a.integer("seed", 0));
  const int64_t examples = a.integer("examples", 1, int64_t{1} << 32);
  const std::filesystem::path out = a.path("out");
  data::mqar::write(options, examples, out, a.flag("force"), "rookery " + program_version());
  std::printf("%s: %lld examples of %lld tokens with %lld pairs\n", loop::printable(out.native()).c_str(),
              static_cast<long long>(examples), static_cast<long long>(options.seq_len),
              static_cast<long long>(options.num_pairs));
  return 0;
}

}  // namespace

Command data_mqar_command() {
  Command c;
  c.name = "mqar";
  c.summary = "make a token set of associative recall (MQAR)";
  c.details =
      "Each example is a document of --seq-len tokens: pairs of key and value, then each key once more, "
      "which the "
      "model must answer with its value at that position. Train on it with recipe.kind: mqar and "
      "data.seq_len as "
      "here; validation then reports the accuracy.";
  c.options = {{"seq-len", "N", "tokens of an example", "64"},
               {"pairs", "N", "pairs in each, at most seq-len / 4", "4"},
               {"examples", "N", "examples to make", "100000"},
               {"seed", "N", "other seeds give other examples", "0"},
               {"out", "PATH", "the new token set"},
               {"force", "", "replace what is there"}};
  c.examples = {{"rookery data mqar --seq-len 128 --pairs 8 --out mqar-128-8"}};
  c.exit_codes = {ExitCode::kCannotCreate};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
