// generate.cpp: `rookery generate`: text from a trained model, printed as it is made.
#include <cmath>
#include <cstdio>
#include <iostream>

#include "data/tokenizer/stream_decoder.h"
#include "data/tokenizer/tokenizer.h"
#include "kernels/base/io.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/model_arguments.h"
#include "trainer/eval/generator.h"

namespace rookery::cli {
namespace {

constexpr uint64_t kMaxPromptBytes = uint64_t{64} << 20;

std::string read_prompt(const Arguments& a) {
  if (const auto text = a.maybe("prompt")) return *text;
  if (const auto file = a.maybe("prompt-file")) {
    if (*file == "-") {
      std::string text;
      for (int c; (c = std::cin.get()) != std::istream::traits_type::eof(); text += static_cast<char>(c))
        if (text.size() == kMaxPromptBytes)
          fail(ExitCode::kData, "GEN-07", "standard input: expected a prompt of at most ", kMaxPromptBytes,
               " bytes");
      return text;
    }
    return io::read_file(*file, kMaxPromptBytes);
  }
  return "";
}

// Prints text once it can no longer be the beginning of a stop string.
class Printer {
 public:
  explicit Printer(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  // True when a stop string is complete: it and what follows is not printed.
  bool push(const std::string& text) {
    held_ += text;
    size_t hold = 0;
    for (const std::string& stop : stops_) {
      if (const size_t at = held_.find(stop); at != std::string::npos) {
        put(held_.substr(0, at));
        held_.clear();
        return true;
      }
      for (size_t n = std::min(stop.size() - 1, held_.size()); n > hold; --n)
        if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) hold = n;
    }
    put(held_.substr(0, held_.size() - hold));
    held_.erase(0, held_.size() - hold);
    return false;
  }
  void finish() { put(held_); }

 private:
  void put(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  std::vector<std::string> stops_;
  std::string held_;
};

int run(const Arguments& a) {
  loop::Session session = load_model(a);
  const auto tokenizer = load_vocabulary(a, session);
  eval::SamplingOptions options;
  options.temperature = a.number("temperature", 0, 1e6);
  options.top_p = a.number("top-p", 0, 1);
  options.top_k = a.integer("top-k", 0);
  options.presence_penalty = a.number("presence-penalty");
  options.frequency_penalty = a.number("frequency-penalty");
  options.seed = static_cast<uint64_t>(a.integer("seed", 0));
  const int64_t max_tokens = a.integer("max-tokens", 0);
  for (const std::string& stop : a.texts("stop"))
    if (stop.empty()) fail(ExitCode::kUsage, "GEN-02", "--stop '': a stop string must not be empty");

  eval::Generator generator(*session.model, *session.device);
  const std::string prompt = read_prompt(a);
  std::vector<int32_t> ids;
  if (const auto state = a.maybe("state-in")) {
    generator.load_state(*state, session.identity);
  } else {
    ids.push_back(tokenizer->bos_id());  // as at the start of a document
  }
  for (const int32_t id : tokenizer->encode_prompt(prompt)) ids.push_back(id);
  check_ids(ids, session, "the prompt");
  generator.feed(ids);

  if (!a.flag("no-echo")) std::fwrite(prompt.data(), 1, prompt.size(), stdout);
  eval::Sampling sampling(options);
  data::StreamDecoder decoder(*tokenizer);
  Printer printer(a.texts("stop"));
  bool stopped = false;
  for (int64_t i = 0; i < max_tokens && !stopped; ++i) {
    const int32_t id = sampling.pick(generator.logits());
    if (id == tokenizer->eot_id() && !a.flag("past-end")) break;
    generator.feed(std::span<const int32_t>(&id, 1));
    stopped = printer.push(decoder.push(id));
  }
  if (!stopped) {
    printer.push(decoder.finish());
    printer.finish();
  }
  std::fputc('\n', stdout);
  if (const auto state = a.maybe("state-out")) generator.save_state(*state, session.identity);
  return 0;
}

}  // namespace

Command generate_command() {
  Command c;
  c.name = "generate";
  c.summary = "text from a trained model";
  c.details =
      "Prints the prompt and what follows, token by token, until --max-tokens, a --stop string or the end of "
      "the text. The same seed gives "
      "the same text. What the model keeps of the text, --state-out saves and --state-in goes on from: in "
      "RWKV "
      "models a state whose size does not grow with the length, in models with attention also the keys and "
      "values of every token.";
  c.options = with_model_options(
      {{"prompt", "TEXT", "what the text begins with; empty: a new text"},
       {"max-tokens", "N", "stop after N tokens", "256"},
       {"temperature", "X", "0 takes the most probable token", "1"},
       {"top-p", "X", "choose among the most probable tokens with this share together", "0.5"},
       {"seed", "N", "of the random choices", "0"},
       {"top-k", "N", "choose among the N most probable; 0: all", "0"},
       {"presence-penalty", "X", "taken from the logit of each token that has come", "0"},
       {"frequency-penalty", "X", "the same, for each time it has come", "0"},
       {"prompt-file", "FILE", "prompt from a file, - for standard input"},
       {"stop", "TEXT", "end before this text", "", true},
       {"no-echo", "", "do not print the prompt"},
       {"past-end", "", "go on after an end of text"},
       {"state-in", "FILE", "go on from a saved state"},
       {"state-out", "FILE", "save the state at the end"}});
  c.examples = {{"rookery generate --run runs/quickstart --prompt 'Debian is'", ""}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput, ExitCode::kUnavailable, ExitCode::kNumerics};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
