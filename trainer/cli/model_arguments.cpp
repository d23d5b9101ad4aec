#include "trainer/cli/model_arguments.h"

namespace rookery::cli {

std::vector<Option> with_model_options(std::vector<Option> options) {
  options.insert(options.begin(),
                 {{"run", "RUN", "run folder (its newest whole checkpoint), or a checkpoint folder"},
                  {"weights", "FILE", "in place of a run: .pth, .safetensors or a Hugging Face folder"}});
  options.push_back({"vocab", "FILE", "vocabulary; by default the run's own"});
  options.push_back({"threads", "N", "threads; 0: all cores", "0"});
  return options;
}

loop::Session load_model(const Arguments& a) {
  if (a.given("run") == a.given("weights"))
    fail(ExitCode::kUsage, "CLI-06", a.command(),
         a.given("run") ? ": --run and --weights are both given" : ": --run is missing",
         ". Example: ", a.command(), " --run runs/quickstart");
  return loop::load_session(a.path(a.given("run") ? "run" : "weights"), a.integer("threads", 0, kMaxThreads));
}

std::unique_ptr<data::Tokenizer> load_vocabulary(const Arguments& a, loop::Session& session) {
  const auto given = a.maybe("vocab");
  const std::filesystem::path path = given                                 ? std::filesystem::path(*given)
                                     : session.config.data.has_tokenizer() ? session.config.data.tokenizer
                                                                           : std::filesystem::path();
  if (path.empty())
    fail(ExitCode::kUsage, "CLI-07",
         "the run names no vocabulary (data.tokenizer); give one by --vocab FILE");
  auto tokenizer = data::load_tokenizer(path);
  if (tokenizer->vocab_size() > session.model->vocab_size())
    fail(ExitCode::kData, "DATA-06", path.string(), ": ids up to ", tokenizer->vocab_size() - 1,
         ", but the model has vocab_size ", session.model->vocab_size(),
         ". Use the vocabulary that the run was trained with");
  return tokenizer;
}

void check_ids(std::span<const int32_t> ids, loop::Session& session, std::string_view place) {
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= session.model->vocab_size())
      fail(ExitCode::kData, "DATA-06", place, ": token ", i, " is ", ids[i],
           ", expected 0 or more and below the model's vocab_size ", session.model->vocab_size(),
           ": it was made with another vocabulary; use the one that the run was trained with");
}

}  // namespace rookery::cli
