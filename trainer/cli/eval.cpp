// eval.cpp: `rookery eval`: loss, perplexity and bits per byte of text and token sets, loss by position,
// tasks of lm-evaluation-harness and needles in real text. Conventions: docs/evaluation.md; the work:
// trainer/eval/.
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "data/dataset/token_set.h"
#include "data/text/documents.h"
#include "kernels/base/io.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/model_arguments.h"
#include "trainer/config/scalar.h"
#include "trainer/eval/needle.h"
#include "trainer/eval/positions.h"
#include "trainer/eval/scorer.h"
#include "trainer/eval/tasks.h"
#include "trainer/loop/human.h"

namespace rookery::cli {
namespace {

using eval::Score;
using loop::fixed;
using Json = nlohmann::json;

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

// What a figure is taken of: the tokens of a document, the one that it starts from in front, and its bytes.
using TakeDocument = std::function<bool(std::span<const int32_t> ids, int64_t bytes)>;

void for_each_text(const std::string& path, const data::Tokenizer& tokenizer, const TakeDocument& take) {
  for_each_document({path}, [&](std::string_view text) {
    std::vector<int32_t> ids{tokenizer.bos_id()};
    for (const int32_t id : tokenizer.encode(text)) ids.push_back(id);
    return take(ids, static_cast<int64_t>(text.size()));
  });
}

// The end of text that follows a document is not among its tokens.
void for_each_in_set(const std::string& path, loop::Session& session, const TakeDocument& take) {
  const auto set = data::open_token_set(path);
  for (int64_t k = 0; k < set->num_docs(); ++k) {
    std::vector<int32_t> ids = set->read_doc(k);
    check_ids(ids, session, path);
    if (!ids.empty() && ids.back() == set->eot_id()) ids.pop_back();
    if (set->info().bos_id < 0) ids.insert(ids.begin(), set->eot_id());
    if (!take(ids, std::max<int64_t>(0, set->doc_bytes(k)))) return;
  }
}

// Runs over the documents of one file.
using Documents = std::function<void(const TakeDocument&)>;

Json evaluate_loss(const std::string& name, const Documents& documents, eval::Scorer& scorer, int64_t limit) {
  Score total;
  int64_t count = 0, bytes = 0;
  documents([&](std::span<const int32_t> ids, int64_t document_bytes) {
    total.add(scorer.score(ids));
    bytes += document_bytes;
    return ++count != limit;
  });
  if (total.tokens == 0)
    fail(ExitCode::kData, "EVAL-01", name, ": no tokens to predict. Expected text of at least one token");
  const double loss = total.nats / static_cast<double>(total.tokens);
  Json row{{"name", name},
           {"documents", count},
           {"tokens", total.tokens},
           {"loss", loss},
           {"perplexity", std::exp(loss)}};
  if (bytes > 0) {
    row["bytes"] = bytes;
    row["bits_per_byte"] = total.nats / std::log(2.0) / static_cast<double>(bytes);
  }
  return row;
}

// Documents shorter than `length` are passed over, so that each position is a mean over the same documents.
Json evaluate_positions(const std::string& name, const Documents& documents, eval::Scorer& scorer,
                        int64_t length, int64_t width, int64_t limit) {
  auto bins = eval::position_bins(length, width);
  int64_t count = 0, shorter = 0, longest = 0;
  documents([&](std::span<const int32_t> ids, int64_t) {
    const auto tokens = static_cast<int64_t>(ids.size()) - 1;
    longest = std::max(longest, tokens);
    if (tokens < length) {
      ++shorter;
      return true;
    }
    eval::add_to_bins(bins, scorer.token_nats(ids.first(static_cast<size_t>(length) + 1)));
    return ++count != limit;
  });
  if (count == 0)
    fail(ExitCode::kData, "EVAL-06", name, ": no document has ", length, " tokens, the longest has ", longest,
         "; give longer text or a smaller --by-position");
  Json table = Json::array();
  for (const auto& bin : bins) {
    const double loss = bin.nats / static_cast<double>(bin.tokens);
    table.push_back({{"from", bin.from}, {"to", bin.to}, {"tokens", bin.tokens}, {"loss", loss}});
  }
  return {{"name", name}, {"documents", count}, {"shorter", shorter}, {"by_position", table}};
}

// NAME=FILE.
Json evaluate_task(const std::string& given, const std::string& protocol, const data::Tokenizer& tokenizer,
                   eval::Scorer& scorer, int64_t limit) {
  const size_t equals = given.find('=');
  if (equals == std::string::npos)
    fail(ExitCode::kUsage, "CLI-01", "--task: found '", loop::printable(given),
         "', expected NAME=FILE, as in piqa=piqa.jsonl");
  const eval::Task& task = eval::find_task(given.substr(0, equals));
  const std::string path = given.substr(equals + 1);
  const auto questions = eval::read_questions(task, path, limit);
  const eval::TaskResult r =
      eval::run_task(task, questions, tokenizer,
                     protocol == "rwkv" ? eval::Protocol::kRwkv : eval::Protocol::kHarness, scorer, path);
  Json row{{"name", path}, {"task", task.name}, {"protocol", protocol}, {"documents", r.documents}};
  const auto share = [&](const std::string& key, int64_t correct) {
    const double p = static_cast<double>(correct) / static_cast<double>(r.documents);
    row[key] = p;
    row[key + "_stderr"] = eval::accuracy_stderr(p, r.documents);
  };
  share("accuracy", r.correct);
  if (task.normalised) {
    share("acc_norm", r.correct_by_chars);
    share("acc_bytes", r.correct_by_bytes);
  }
  if (task.last_word) {
    double nats = 0;
    for (const double n : r.nats) nats += n;
    row["perplexity"] = std::exp(nats / static_cast<double>(r.documents));
    row["perplexity_stderr"] = eval::perplexity_stderr(r.nats);
  }
  return row;
}

// The numbers of a list such as 512,1Ki.
std::vector<int64_t> numbers(const Arguments& a, const char* option, int64_t least, int64_t most) {
  std::vector<int64_t> all;
  const std::string text = a.text(option);
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.size(), text.find(',', begin));
    std::string why;
    const auto n = config::parse_integer(text.substr(begin, comma - begin), config::Unit::kPlain, why);
    if (!n || *n < least || *n > most)
      fail(ExitCode::kUsage, "CLI-05", "--", option, " ", loop::printable(text),
           ": expected whole numbers from ", least, " to ", most, " with commas between them");
    all.push_back(*n);
    begin = comma + 1;
  }
  return all;
}

Json evaluate_needles(const std::string& path, const Arguments& a, const data::Tokenizer& tokenizer,
                      eval::Scorer& scorer) {
  std::vector<int32_t> text;
  for_each_document({path}, [&](std::string_view document) {
    for (const int32_t id : tokenizer.encode(document)) text.push_back(id);
    return true;
  });
  std::vector<double> depths;
  for (const int64_t percent : numbers(a, "needle-depths", 0, 100))
    depths.push_back(static_cast<double>(percent) / 100);
  const auto cells = eval::find_needles(tokenizer, text, numbers(a, "needle-lengths", 1, int64_t{1} << 30),
                                        depths, a.integer("needle-samples", 1, 1 << 20), scorer, path);
  Json table = Json::array();
  for (const auto& cell : cells) {
    const auto n = static_cast<double>(cell.samples), accuracy = static_cast<double>(cell.found) / n;
    table.push_back({{"length", cell.length},
                     {"depth", cell.depth},
                     {"samples", cell.samples},
                     {"accuracy", accuracy},
                     {"accuracy_stderr", eval::accuracy_stderr(accuracy, cell.samples)},
                     {"logprob", -cell.nats / n},
                     {"logprob_without", -cell.nats_without / n}});
  }
  return {{"name", path}, {"needle", table}};
}

std::string cell(const Json& row, const char* key, int digits) {
  return row.contains(key) ? fixed(row[key].get<double>(), digits) : "-";
}
long long whole(const Json& row, const char* key) { return row[key].get<int64_t>(); }

// The rows of one kind as a table: losses, tasks, then each table by position and each of needles.
void print_rows(const Json& rows) {
  const auto name = [](const Json& row) { return loop::printable(row["name"].get<std::string>()); };
  bool titled = false;
  for (const Json& row : rows) {
    if (!row.contains("loss")) continue;
    if (!std::exchange(titled, true))
      std::printf("%10s %12s %9s %11s %9s  %s\n", "documents", "tokens", "loss", "perplexity", "bits/byte",
                  "file");
    std::printf("%10lld %12lld %9s %11s %9s  %s\n", whole(row, "documents"), whole(row, "tokens"),
                cell(row, "loss", 4).c_str(), cell(row, "perplexity", 2).c_str(),
                cell(row, "bits_per_byte", 4).c_str(), name(row).c_str());
  }
  titled = false;
  for (const Json& row : rows) {
    if (!row.contains("task")) continue;
    if (!std::exchange(titled, true))
      std::printf("%-21s %10s %9s %8s %9s %8s %9s %11s %9s  %s\n", "task", "documents", "accuracy", "+-",
                  "acc_norm", "+-", "acc_bytes", "perplexity", "+-", "file");
    std::printf("%-21s %10lld %9s %8s %9s %8s %9s %11s %9s  %s\n", row["task"].get<std::string>().c_str(),
                whole(row, "documents"), cell(row, "accuracy", 4).c_str(),
                cell(row, "accuracy_stderr", 4).c_str(), cell(row, "acc_norm", 4).c_str(),
                cell(row, "acc_norm_stderr", 4).c_str(), cell(row, "acc_bytes", 4).c_str(),
                cell(row, "perplexity", 2).c_str(), cell(row, "perplexity_stderr", 2).c_str(),
                name(row).c_str());
  }
  for (const Json& row : rows) {
    if (row.contains("by_position")) {
      std::printf("%s: %lld documents, %lld shorter ones passed over\n%21s %12s %9s\n", name(row).c_str(),
                  whole(row, "documents"), whole(row, "shorter"), "position", "tokens", "loss");
      for (const Json& bin : row["by_position"])
        std::printf("%10lld-%-10lld %12lld %9s\n", whole(bin, "from"), whole(bin, "to"), whole(bin, "tokens"),
                    cell(bin, "loss", 4).c_str());
    }
    if (row.contains("needle")) {
      std::printf("%s: needles\n%10s %6s %8s %9s %9s %9s\n", name(row).c_str(), "length", "depth", "samples",
                  "accuracy", "logprob", "without");
      for (const Json& c : row["needle"])
        std::printf("%10lld %5s%% %8lld %9s %9s %9s\n", whole(c, "length"),
                    fixed(100 * c["depth"].get<double>(), 0).c_str(), whole(c, "samples"),
                    cell(c, "accuracy", 4).c_str(), cell(c, "logprob", 3).c_str(),
                    cell(c, "logprob_without", 3).c_str());
    }
  }
}

int run(const Arguments& a) {
  const auto texts = a.texts("text"), sets = a.texts("set"), needles = a.texts("needle");
  std::vector<std::string> wanted_tasks = a.texts("task");
  for (const auto& path : a.texts("lambada")) wanted_tasks.push_back("lambada_openai=" + path);
  if (texts.empty() && sets.empty() && wanted_tasks.empty() && needles.empty())
    fail(ExitCode::kUsage, "CLI-08",
         "rookery eval: nothing to evaluate; give --text FILE, --set TOKENS, --task NAME=FILE or --needle "
         "FILE");
  const std::string context = a.one_of("context", {"carried", "windows"}),
                    protocol = a.one_of("protocol", {"harness", "rwkv"});
  const int64_t window = a.integer("window", 1, 1 << 20), limit = a.integer("limit", 0);
  const int64_t positions = a.given("by-position") ? a.integer("by-position", 1, int64_t{1} << 40) : 0;
  const int64_t width = a.integer("bin-width", 0);
  if (positions > 0 && context != "carried")
    fail(ExitCode::kUsage, "CLI-01",
         "--by-position needs --context carried: with windows no position has more "
         "than --window tokens before it");
  loop::Session session = load_model(a);
  eval::Scorer scorer(*session.model, *session.device, window,
                      context == "carried" ? eval::ContextMode::kCarried : eval::ContextMode::kWindows);
  const auto figure = [&](const std::string& path, const Documents& documents) {
    return positions > 0 ? evaluate_positions(path, documents, scorer, positions, width, limit)
                         : evaluate_loss(path, documents, scorer, limit);
  };
  Json rows = Json::array();
  if (!texts.empty() || !wanted_tasks.empty() || !needles.empty()) {
    const auto tokenizer = load_vocabulary(a, session);
    for (const auto& path : texts)
      rows.push_back(figure(path, [&](const TakeDocument& take) { for_each_text(path, *tokenizer, take); }));
    for (const auto& task : wanted_tasks)
      rows.push_back(evaluate_task(task, protocol, *tokenizer, scorer, limit));
    for (const auto& path : needles) rows.push_back(evaluate_needles(path, a, *tokenizer, scorer));
  }
  for (const auto& path : sets)
    rows.push_back(figure(path, [&](const TakeDocument& take) { for_each_in_set(path, session, take); }));

  const Json result{{"checkpoint", session.checkpoint.string()},
                    {"step", session.step},
                    {"context", context},
                    {"window", window},
                    {"results", rows}};
  // Names of files need not be UTF-8.
  const std::string text = result.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  if (const auto out = a.maybe("out")) io::write_file_atomic(*out, text, "eval.result");
  if (a.flag("json")) {
    std::fputs(text.c_str(), stdout);
    return 0;
  }
  std::printf("%s, context %s, window %lld\n", loop::printable(session.checkpoint.string()).c_str(),
              context.c_str(), static_cast<long long>(window));
  print_rows(rows);
  return 0;
}

}  // namespace

Command eval_command() {
  std::string names;
  for (const eval::Task& task : eval::tasks()) append_str(names, str(names.empty() ? "" : ", ", task.name));
  Command c;
  c.name = "eval";
  c.summary = "a trained model: loss, bits per byte, tasks, long contexts";
  c.details =
      "Each document is scored on its own after an end of text. --context carried lets the recurrent state "
      "run through the whole document; "
      "--context windows starts each --window tokens anew, from the token before them. --by-position N tells "
      "the "
      "loss of --text and --set at positions 1 to N of documents of at least N tokens. --task reads a data "
      "set "
      "of lm-evaluation-harness as JSON Lines; the tasks are " +
      names + ". --needle puts a fact into real text and asks for it at the end.";
  c.options = with_model_options(
      {{"text", "FILE", "text or JSON Lines; may be repeated", "", true},
       {"set", "TOKENS", "token set; may be repeated", "", true},
       {"task", "NAME=FILE", "task in JSON Lines; may be repeated", "", true},
       {"lambada", "FILE", "the same as --task lambada_openai=FILE", "", true},
       {"needle", "FILE", "text to hide a fact in; may be repeated", "", true},
       {"json", "", "machine-readable output"},
       {"context", "MODE", "of --text and --set: carried or windows", "carried"},
       {"window", "N", "tokens of one pass, and of context with windows", "512"},
       {"by-position", "N", "loss by position up to N"},
       {"bin-width", "N", "positions in one figure; 0: 1, 2, 3-4, 5-8, ...", "0"},
       {"protocol", "NAME", "of --task: harness or rwkv", "harness"},
       {"needle-lengths", "N,...", "tokens of a prompt with a needle", "256,512,1024,2048"},
       {"needle-depths", "N,...", "where the needle lies, in percent of the text", "0,25,50,75,100"},
       {"needle-samples", "N", "needles for each length and depth", "8"},
       {"limit", "N", "the first N documents only; 0: all", "0"},
       {"out", "FILE", "write the result as JSON, too"}});
  c.examples = {{"rookery eval --run runs/quickstart --text held-out.txt", ""},
                {"rookery eval --run runs/quickstart --task hellaswag=hellaswag_val.jsonl", ""}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput, ExitCode::kUnavailable, ExitCode::kCannotCreate};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
