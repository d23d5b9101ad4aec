// eval.cpp: `rookery eval`: loss, perplexity and bits per byte of text and token sets, and last-word
// prediction. Conventions: docs/evaluation.md.
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "data/dataset/token_set.h"
#include "data/text/documents.h"
#include "kernels/base/io.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/model_arguments.h"
#include "trainer/eval/scorer.h"
#include "trainer/loop/human.h"

namespace rookery::cli {
namespace {

using eval::Score;

// Calls `document` with each text of the files, until it returns false.
void for_each_document(const std::vector<std::string>& patterns,
                       const std::function<bool(std::string_view)>& document) {
  const auto inputs = data::collect_inputs(patterns);
  const data::TextOptions options;
  data::TextChunkReader reader(inputs.files, options, {});
  data::TextChunk chunk;
  data::TextCounts counts;
  bool more = true;
  while (more && reader.next(chunk))
    data::parse_documents(inputs.files, options, chunk, counts,
                          [&](std::string_view text) { more = more && document(text); });
}

// A row of the result: sums, and what follows from them.
nlohmann::json row_of(const std::string& name, const Score& score, int64_t documents, int64_t bytes) {
  if (score.tokens == 0)
    fail(ExitCode::kData, "EVAL-01", name, ": no tokens to predict. Expected text of at least one token");
  const double loss = score.nats / static_cast<double>(score.tokens);
  nlohmann::json row{{"name", name},
                     {"documents", documents},
                     {"tokens", score.tokens},
                     {"loss", loss},
                     {"perplexity", std::exp(loss)}};
  if (bytes > 0) {
    row["bytes"] = bytes;
    row["bits_per_byte"] = score.nats / std::log(2.0) / static_cast<double>(bytes);
  }
  return row;
}

// Each document on its own, after an end of text; the end of text that follows it is not predicted.
nlohmann::json evaluate_text(const std::string& path, const data::Tokenizer& tokenizer,
                             loop::Session& session, eval::Scorer& scorer, int64_t limit) {
  Score total;
  int64_t documents = 0, bytes = 0;
  for_each_document({path}, [&](std::string_view text) {
    std::vector<int32_t> ids{0};
    for (const int32_t id : tokenizer.encode(text)) ids.push_back(id);
    check_ids(ids, session, path);
    total.add(scorer.score(ids));
    bytes += static_cast<int64_t>(text.size());
    return ++documents != limit;
  });
  return row_of(path, total, documents, bytes);
}

nlohmann::json evaluate_set(const std::string& path, loop::Session& session, eval::Scorer& scorer,
                            int64_t limit) {
  const auto set = data::open_token_set(path);
  Score total;
  int64_t bytes = 0, documents = 0;
  for (; documents < set->num_docs() && (limit == 0 || documents < limit); ++documents) {
    std::vector<int32_t> ids = set->read_doc(documents);
    check_ids(ids, session, path);
    if (!ids.empty() && ids.back() == set->eot_id()) ids.pop_back();
    ids.insert(ids.begin(), 0);
    total.add(scorer.score(ids));
    bytes += std::max<int64_t>(0, set->doc_bytes(documents));
  }
  return row_of(path, total, documents, bytes);
}

// LAMBADA: the last word of a passage, given the rest. Accuracy: every token of it is the most probable one;
// perplexity is per word.
nlohmann::json evaluate_last_word(const std::string& path, const std::string& protocol,
                                  const data::Tokenizer& tokenizer, loop::Session& session,
                                  eval::Scorer& scorer, int64_t limit) {
  int64_t documents = 0, correct = 0;
  double nats = 0;
  for_each_document({path}, [&](std::string_view text) {
    ++documents;
    const size_t cut = text.rfind(' ');
    if (cut == std::string_view::npos || cut == 0 || cut + 1 == text.size())
      fail(ExitCode::kData, "EVAL-02", path, ": document ", documents,
           ": expected at least two words separated by a space, and none at the end");
    std::vector<int32_t> ids{0};
    size_t from = 0;
    if (protocol == "rwkv") {  // context and word are encoded separately
      for (const int32_t id : tokenizer.encode(text.substr(0, cut))) ids.push_back(id);
      from = ids.size();
      for (const int32_t id : tokenizer.encode(text.substr(cut))) ids.push_back(id);
    } else {  // encoded as one; the word is what comes after as many tokens as the context alone has. It has
              // tokens in front, so needs no prefix.
      ids = tokenizer.encode(text);
      from = tokenizer.encode(text.substr(0, cut)).size();
    }
    check_ids(ids, session, path);
    if (from < 1 || from >= ids.size())
      fail(ExitCode::kData, "EVAL-03", path, ": document ", documents,
           ": the last word has no tokens of its own in this vocabulary");
    const Score score = scorer.score(ids, static_cast<int64_t>(from), true);
    nats += score.nats;
    correct += score.greedy;
    return documents != limit;
  });
  if (documents == 0) fail(ExitCode::kData, "EVAL-01", path, ": no documents");
  const double n = static_cast<double>(documents), accuracy = static_cast<double>(correct) / n;
  return {{"name", path},
          {"task", "lambada"},
          {"protocol", protocol},
          {"documents", documents},
          {"accuracy", accuracy},
          {"accuracy_stderr", n > 1 ? std::sqrt(accuracy * (1 - accuracy) / (n - 1)) : 0},
          {"perplexity", std::exp(nats / n)}};
}

std::string cell(const nlohmann::json& row, const char* key, int digits) {
  return row.contains(key) ? loop::fixed(row[key].get<double>(), digits) : "-";
}

int run(const Arguments& a) {
  const auto texts = a.texts("text"), sets = a.texts("set"), lambada = a.texts("lambada");
  if (texts.empty() && sets.empty() && lambada.empty())
    fail(ExitCode::kUsage, "CLI-08",
         "rookery eval: nothing to evaluate; give --text FILE, --set TOKENS or --lambada FILE");
  const std::string context = a.one_of("context", {"carried", "windows"}),
                    protocol = a.one_of("protocol", {"harness", "rwkv"});
  const int64_t window = a.integer("window", 1, 1 << 20), limit = a.integer("limit", 0);
  loop::Session session = load_model(a);
  eval::Scorer scorer(*session.model, *session.device, session.store->dtype(), window,
                      context == "carried" ? eval::ContextMode::kCarried : eval::ContextMode::kWindows);
  nlohmann::json rows = nlohmann::json::array();
  if (!texts.empty() || !lambada.empty()) {
    const auto tokenizer = load_vocabulary(a, session);
    for (const auto& path : texts) rows.push_back(evaluate_text(path, *tokenizer, session, scorer, limit));
    for (const auto& path : lambada)
      rows.push_back(evaluate_last_word(path, protocol, *tokenizer, session, scorer, limit));
  }
  for (const auto& path : sets) rows.push_back(evaluate_set(path, session, scorer, limit));

  const nlohmann::json result{{"checkpoint", session.checkpoint.string()},
                              {"step", session.step},
                              {"context", context},
                              {"window", window},
                              {"results", rows}};
  if (const auto out = a.maybe("out")) io::write_file_atomic(*out, result.dump(2) + "\n", "eval.result");
  if (a.flag("json")) {
    std::printf("%s\n", result.dump(2).c_str());
    return 0;
  }
  std::printf("%s, context %s, window %lld\n", session.checkpoint.string().c_str(), context.c_str(),
              static_cast<long long>(window));
  std::printf("%10s %12s %9s %11s %9s %9s  %s\n", "documents", "tokens", "loss", "perplexity", "bits/byte",
              "accuracy", "file");
  for (const auto& row : rows)
    std::printf("%10s %12s %9s %11s %9s %9s  %s\n", row["documents"].dump().c_str(),
                row.contains("tokens") ? row["tokens"].dump().c_str() : "-", cell(row, "loss", 4).c_str(),
                cell(row, "perplexity", 2).c_str(), cell(row, "bits_per_byte", 4).c_str(),
                cell(row, "accuracy", 4).c_str(), loop::printable(row["name"].get<std::string>()).c_str());
  return 0;
}

}  // namespace

Command eval_command() {
  Command c;
  c.name = "eval";
  c.summary = "a trained model: loss, bits per byte, last-word accuracy";
  c.details =
      "Each document is scored on its own after an end of text. --context carried lets the recurrent state "
      "run through the whole document; "
      "--context windows starts each --window tokens anew, from the token before them. --lambada reads JSON "
      "Lines with a field \"text\" and asks for "
      "the last word.";
  c.options =
      with_model_options({{"text", "FILE", "text or JSON Lines; may be repeated", "", true},
                          {"set", "TOKENS", "token set; may be repeated", "", true},
                          {"lambada", "FILE", "last-word task in JSON Lines; may be repeated", "", true},
                          {"json", "", "machine-readable output"},
                          {"context", "MODE", "carried or windows", "carried"},
                          {"window", "N", "tokens of one pass, and of context with windows", "512"},
                          {"protocol", "NAME", "of --lambada: harness or rwkv", "harness"},
                          {"limit", "N", "the first N documents only; 0: all", "0"},
                          {"out", "FILE", "write the result as JSON, too"}});
  c.examples = {{"rookery eval --run runs/quickstart --text held-out.txt", ""}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput, ExitCode::kUnavailable, ExitCode::kCannotCreate};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
