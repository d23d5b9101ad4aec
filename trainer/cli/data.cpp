// data.cpp: `rookery data`: text into token sets, and a look at them. The work: data/prepare/, data/dataset/.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "data/dataset/inspect.h"
#include "data/dataset/token_set_writer.h"
#include "data/loader/loader.h"
#include "data/prepare/prepare.h"
#include "data/sampler/sampler.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/terminal.h"
#include "trainer/cli/version.h"
#include "trainer/config/scalar.h"
#include "trainer/loop/human.h"

namespace rookery::cli {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using loop::fixed;

void print(const std::string& text) { std::fputs(text.c_str(), stdout); }
// JSON as it may be printed: names that are no UTF-8 must not stop a report.
void print_json(const Json& json) { print(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"); }
void warn(const std::vector<std::string>& warnings) {
  for (const auto& warning : warnings) std::fprintf(stderr, "warning: %s\n", printable(warning).c_str());
}

// {"512": prime, ...} for the lengths that fit.
Json magic_primes(int64_t tokens) {
  Json primes = Json::object();
  for (int64_t seq_len : {512, 1024, 2048, 4096}) {
    const int64_t prime = data::magic::prime_for(tokens, seq_len);
    if (prime > 0) primes[str(seq_len)] = prime;
  }
  return primes;
}

data::OnBad policy(const std::string& name) {
  return name == "error" ? data::OnBad::kError : name == "skip" ? data::OnBad::kSkip : data::OnBad::kReplace;
}

data::PrepareOptions prepare_options(const Arguments& arguments) {
  data::PrepareOptions options;
  options.inputs = arguments.texts("in");
  if (options.inputs.empty())
    fail(ExitCode::kUsage, "", "--in is missing, expected text files, folders or patterns");
  options.out = arguments.path("out");
  options.format = data::token_set_format_from_string(arguments.one_of("format", {"hdf5", "binidx"}));
  options.text.field = arguments.text("field");
  if (auto separator = arguments.maybe("separator")) {
    options.text.separated = true;
    options.text.separator = *separator == "blank" ? "" : *separator == "formfeed" ? "\f" : *separator;
  }
  options.text.on_bad_record = policy(arguments.one_of("on-bad-record", {"error", "skip"}));
  options.text.on_bad_text = policy(arguments.one_of("on-bad-text", {"error", "skip", "replace"}));
  options.text.max_record_bytes =
      static_cast<uint64_t>(arguments.integer("max-record-bytes", 1, int64_t{1} << 40));
  options.val_fraction = arguments.number("val-fraction", 0, 1);
  options.seed = static_cast<uint64_t>(arguments.integer("seed", 0));
  options.dedup = arguments.one_of("dedup", {"none", "exact"}) == "exact";
  options.min_tokens = arguments.integer("min-tokens", 0);
  const int64_t workers = arguments.integer("workers", 0, 4096);
  options.workers =
      static_cast<int>(workers > 0 ? workers : std::max(1u, std::thread::hardware_concurrency()));
  options.force = arguments.flag("force");
  options.commit_bytes = static_cast<uint64_t>(arguments.integer("commit-bytes", 1));
  options.created_by = "rookery " + program_version();
  return options;
}

// A line that stays in place on a terminal, a line every ten seconds elsewhere.
class ProgressLine {
 public:
  void operator()(const data::PrepareProgress& p) {
    const bool terminal = ::isatty(STDERR_FILENO) != 0;
    if (p.seconds < next_) return;
    next_ = p.seconds + (terminal ? 0.2 : 10);
    const double rate = static_cast<double>(p.bytes) / std::max(p.seconds, 1e-3);
    const double left = static_cast<double>(p.total_bytes - p.bytes) / std::max(rate, 1.0);
    std::fprintf(
        stderr, "%s%s%% %s MB/s %s tokens/s %s documents, %s left%s", terminal ? "\r" : "",
        fixed(100.0 * static_cast<double>(p.bytes) / static_cast<double>(std::max<int64_t>(1, p.total_bytes)),
              1)
            .c_str(),
        fixed(rate / 1e6, 1).c_str(),
        loop::human_count(static_cast<double>(p.tokens) / std::max(p.seconds, 1e-3)).c_str(),
        loop::human_count(static_cast<double>(p.docs)).c_str(), loop::human_duration(left).c_str(),
        terminal ? "\x1b[K" : "\n");
    open_ = terminal;
  }
  ~ProgressLine() {
    if (open_) std::fputs("\r\x1b[K", stderr);
  }

 private:
  double next_ = 1;  // seconds: short work shows nothing
  bool open_ = false;
};

Json report_json(const data::PrepareReport& report) {
  Json j;
  const char* names[] = {"train", "validation"};
  for (size_t i = 0; i < report.sets.size(); ++i) {
    const auto& set = report.sets[i];
    Json& s = j["sets"][names[i]];
    for (size_t f = 0; f < set.files.size(); ++f)
      s["files"].push_back({{"path", set.files[f].native()}, {"sha256", set.sha256[f]}});
    s["documents"] = set.docs;
    s["tokens"] = set.tokens;
    s["text_bytes"] = set.text_bytes;
    s["bytes_per_token"] = static_cast<double>(set.text_bytes) / static_cast<double>(set.tokens);
    s["magic_primes"] = magic_primes(set.tokens);
  }
  Json& skipped = j["skipped"];
  skipped["empty"] = report.skipped.empty;
  skipped["too short"] = report.too_short;
  skipped["duplicate"] = report.duplicates;
  for (size_t i = 1; i < report.skipped.bad.size(); ++i)
    skipped[std::string(to_string(static_cast<data::RecordFault>(i)))] = report.skipped.bad[i];
  j["replaced_characters"] = report.skipped.replaced;
  j["first_bad_records"] = report.skipped.locations;
  j["input_bytes"] = report.input_bytes;
  j["resumed_bytes"] = report.resumed_bytes;
  j["seconds"] = report.seconds;
  return j;
}

void print_report(const data::PrepareReport& report) {
  const Json j = report_json(report);
  for (const auto& [name, set] : j["sets"].items()) {
    print(str(name, ": ", set["documents"].get<int64_t>(), " documents, ", set["tokens"].get<int64_t>(),
              " tokens, ", fixed(set["bytes_per_token"].get<double>(), 3), " bytes/token\n"));
    for (const auto& file : set["files"])
      print(str("  ", printable(file["path"].get<std::string>()), "  sha256 ",
                file["sha256"].get<std::string>(), "\n"));
    std::string primes;
    for (const auto& [seq_len, prime] : set["magic_primes"].items())
      primes += str("  seq_len ", seq_len, ": ", prime.get<int64_t>());
    if (!primes.empty()) print("  magic primes" + primes + "\n");
  }
  std::string skipped;
  for (const auto& [reason, count] : j["skipped"].items())
    if (count.get<int64_t>() > 0)
      skipped += str(skipped.empty() ? "" : ", ", reason, " ", count.get<int64_t>());
  print(str("skipped: ", skipped.empty() ? "nothing" : skipped, "\n"));
  for (const auto& place : report.skipped.locations) print("  " + printable(place) + "\n");
  if (report.skipped.replaced > 0) print(str("replaced by U+FFFD: ", report.skipped.replaced, "\n"));
  const double done = static_cast<double>(report.input_bytes - report.resumed_bytes);
  print(str("read ", fixed(done / 1e6, 1), " MB in ", fixed(report.seconds, 1), " s (",
            fixed(done / 1e6 / std::max(report.seconds, 1e-3), 1), " MB/s)",
            report.resumed_bytes > 0
                ? str(", after ", fixed(static_cast<double>(report.resumed_bytes) / 1e6, 1),
                      " MB of an earlier run")
                : std::string(),
            "\n"));
}

int run_prepare(const Arguments& arguments) {
  const data::PrepareOptions options = prepare_options(arguments);
  const auto tokenizer = data::load_tokenizer(arguments.path("tokenizer"));
  data::PrepareReport report;
  {
    ProgressLine line;
    report = data::prepare(options, *tokenizer, [&](const data::PrepareProgress& p) { line(p); });
  }
  warn(report.warnings);
  if (arguments.flag("json"))
    print_json(report_json(report));
  else
    print_report(report);
  return 0;
}

std::string document_text(const data::TokenSet& set, int64_t k, const data::Tokenizer& tokenizer) {
  auto ids = set.read_doc(k);
  if (!ids.empty() && ids.back() == set.eot_id()) ids.pop_back();
  ids.resize(std::min<size_t>(ids.size(), 64));
  return data::excerpt(tokenizer.decode(ids), 200);
}

int run_inspect(const Arguments& arguments) {
  const auto set = data::open_token_set(arguments.positional()[0], data::TokenView::kFlat);
  warn(set->info().warnings);
  const data::TokenSetInfo& info = set->info();
  const data::InspectReport r = data::inspect_token_set(*set);
  Json j;
  for (const auto& file : info.files) j["files"].push_back(file.native());
  j["format"] = info.format;
  j["token_type"] = info.token_type;
  j["tokens"] = info.num_tokens;
  j["documents"] = info.num_docs;
  j["text_bytes"] = info.text_bytes >= 0 ? Json(info.text_bytes) : Json();
  j["vocab_size"] = info.vocab_size > 0 ? Json(info.vocab_size) : Json();
  j["eot_id"] = info.eot_id;
  j["tokenizer"] = info.tokenizer_name;
  j["tokenizer_sha256"] = info.tokenizer_sha256;
  j["created_by"] = info.created_by;
  j["source"] = info.source;
  j["magic_primes"] = magic_primes(info.num_tokens);
  j["sampled_tokens"] = r.sampled_tokens;
  j["min_id"] = r.min_id;
  j["max_id"] = r.max_id;
  j["distinct_ids"] = r.distinct_ids;
  j["longest_run"] = {{"id", r.longest_run_id}, {"length", r.longest_run}};
  j["sampled_documents"] = r.sampled_docs;
  j["document_tokens"] = {{"shortest", r.shortest_doc}, {"mean", r.mean_doc}, {"longest", r.longest_doc}};
  for (size_t i = 0; i < r.length_histogram.size(); ++i)
    if (r.length_histogram[i] > 0)
      j["document_lengths"][str(int64_t{1} << i, "-", (int64_t{2} << i) - 1)] = r.length_histogram[i];
  j["documents_without_text"] = r.bare_docs;
  j["documents_without_end_token"] = r.unended_docs;
  if (auto path = arguments.maybe("tokenizer"); path && info.num_docs > 0) {
    const auto tokenizer = data::load_tokenizer(*path);
    if (!info.tokenizer_sha256.empty() && info.tokenizer_sha256 != tokenizer->sha256())
      fail(ExitCode::kData, "DATA-11", *path, ": has sha256 ", tokenizer->sha256(), ", expected ",
           info.tokenizer_sha256, " (", info.tokenizer_name, "), with which the set was made");
    j["first_document"] = document_text(*set, 0, *tokenizer);
    j["last_document"] = document_text(*set, info.num_docs - 1, *tokenizer);
  }
  if (arguments.flag("json")) {
    print_json(j);
    return 0;
  }
  for (const auto& [key, value] : j.items()) {
    if (value.is_null() || (value.is_string() && value.get<std::string>().empty())) continue;
    std::string text = value.is_string() ? value.get<std::string>()
                                         : value.dump(-1, ' ', false, Json::error_handler_t::replace);
    print(str(key, ": ", printable(text), "\n"));
  }
  return 0;
}

int run_verify(const Arguments& arguments) {
  Json results = Json::array();
  for (const auto& path : arguments.positional()) {
    const auto set = data::open_token_set(path);
    warn(set->info().warnings);
    const std::string eot = arguments.text("eot");
    const int32_t end_token = eot == "none"   ? -1
                              : eot == "auto" ? set->eot_id()
                                              : static_cast<int32_t>(arguments.integer("eot", 0, INT32_MAX));
    const auto report =
        data::verify_token_set(*set, arguments.integer("vocab-size", 0, INT32_MAX), end_token);
    results.push_back({{"path", path},
                       {"tokens", report.tokens},
                       {"documents", report.docs},
                       {"min_id", report.min_id},
                       {"max_id", report.max_id},
                       {"checksums", report.checksummed}});
    if (!arguments.flag("json"))
      print(str(printable(path), ": good: ", report.tokens, " tokens in ", report.docs, " documents, ids ",
                report.min_id, " to ", report.max_id,
                report.checksummed ? ", checksums match" : ", no checksums in this format", "\n"));
  }
  if (arguments.flag("json")) print_json(results);
  return 0;
}

int run_convert(const Arguments& arguments) {
  const auto set = data::open_token_set(arguments.positional()[0]);
  warn(set->info().warnings);
  data::TokenSetMeta meta;
  meta.created_by = "rookery " + program_version();
  if (auto path = arguments.maybe("tokenizer")) {
    const auto tokenizer = data::load_tokenizer(*path);
    meta.tokenizer_name = tokenizer->name();
    meta.tokenizer_sha256 = tokenizer->sha256();
    meta.vocab_size = tokenizer->vocab_size();
    meta.eot_id = tokenizer->eot_id();
  }
  const auto format = data::token_set_format_from_string(arguments.one_of("format", {"hdf5", "binidx"}));
  const fs::path out = arguments.path("out");
  data::convert_token_set(*set, out, format, meta, arguments.flag("force"));
  for (const auto& file : data::token_set_files(out, format)) print(printable(file.native()) + "\n");
  return 0;
}

// "PATH=WEIGHT" or "PATH", which weighs 1.
data::LoaderSource source_of(const std::string& typed) {
  std::string path = typed, why;
  std::optional<double> weight = 1;
  if (const size_t equal = typed.rfind('='); equal != std::string::npos) {
    path = typed.substr(0, equal);
    weight = config::parse_number(typed.substr(equal + 1), config::Unit::kPlain, why);
    if (!weight)
      fail(ExitCode::kUsage, "CLI-01", "--source: found '", typed, "', expected PATH=WEIGHT: ", why);
  }
  return {data::open_token_set(path, data::TokenView::kFlat), *weight, path};
}

int run_mix_preview(const Arguments& arguments) {
  std::vector<data::LoaderSource> sources;
  std::vector<double> weights;
  std::vector<std::string> names;
  for (const std::string& typed : arguments.texts("source")) {
    sources.push_back(source_of(typed));
    weights.push_back(sources.back().weight);
    names.push_back(sources.back().name);
  }
  data::SamplerOptions options;
  options.seq_len = arguments.integer("seq-len", 1, 1 << 30);
  const int64_t samples = arguments.integer("tokens", 1) / options.seq_len;
  const std::vector<int64_t> taken = data::Mixture(weights, names).counts(samples);
  double sum = 0;
  for (const double weight : weights) sum += weight;
  Json rows = Json::array();
  for (size_t k = 0; k < sources.size(); ++k) {
    const int64_t tokens = sources[k].set->num_tokens();
    const int64_t epoch = data::make_sampler(tokens, options)->samples_per_epoch();
    rows.push_back({{"source", names[k]},
                    {"tokens", tokens},
                    {"share", weights[k] / sum},
                    {"tokens_taken", taken[k] * options.seq_len},
                    {"epochs", static_cast<double>(taken[k]) / static_cast<double>(epoch)}});
  }
  if (arguments.flag("json")) {
    print_json(rows);
    return 0;
  }
  auto line = [](std::initializer_list<std::string> cells, const std::string& name) {
    std::string text;
    for (const std::string& cell : cells)
      text += std::string(cell.size() < 10 ? 10 - cell.size() : 1, ' ') + cell;
    print(text + "  " + name + "\n");
  };
  line({"tokens", "share", "taken", "epochs"}, "source");
  for (const Json& row : rows)
    line({loop::human_count(row["tokens"].get<double>()), fixed(100 * row["share"].get<double>(), 1) + "%",
          loop::human_count(row["tokens_taken"].get<double>()), fixed(row["epochs"].get<double>(), 2)},
         printable(row["source"].get<std::string>()));
  return 0;
}

Command prepare_command() {
  Command c;
  c.name = "prepare";
  c.summary = "turn text files into a token set";
  c.details =
      "Reads .jsonl (.json, .ndjson) and .txt files, folders of them and glob patterns, and writes one token "
      "set: each document's "
      "tokens and the end token. The result depends on the input and the options only, not on --workers or "
      "on interruptions: the "
      "same command, started again after a kill, goes on where it was (OUT.partial holds the unfinished "
      "work).";
  c.options = {
      {"in", "PATH", "text file, folder or pattern (in quotes)", "", true},
      {"tokenizer", "FILE", "vocabulary file or tokenizer.json"},
      {"out", "PATH", "the new token set"},
      {"format", "FORMAT", "hdf5 | binidx (.bin and .idx of RWKV-LM and Megatron)", "hdf5"},
      {"val-fraction", "F", "share of the documents for a second set, NAME.val", "0"},
      {"seed", "N", "chooses the validation documents", "0"},
      {"dedup", "KIND", "none | exact: of equal documents keep the first", "none"},
      {"min-tokens", "N", "pass over shorter documents", "0"},
      {"workers", "N", "threads; 0: one for each core", "0"},
      {"field", "KEY", "the text field of JSON lines", "text"},
      {"separator", "LINE", "cut .txt files at lines equal to LINE, or at: blank | formfeed"},
      {"on-bad-record", "POLICY", "JSON that is broken or lacks the field: error | skip", "error"},
      {"on-bad-text", "POLICY", "invalid UTF-8, lone surrogates: error | skip | replace", "error"},
      {"max-record-bytes", "N", "longest line or document", "1Gi"},
      {"commit-bytes", "N", "input between two states to go on from", "256Mi"},
      {"force", "", "replace what is there, forget unfinished work"},
      {"json", "", "print the report as JSON"},
  };
  c.examples = {{"rookery data prepare --tokenizer vocab.txt --in 'raw/*.jsonl' --out mine"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput, ExitCode::kCannotCreate};
  c.run = run_prepare;
  return c;
}

Command inspect_command() {
  Command c;
  c.name = "inspect";
  c.summary = "show what a token set holds";
  c.details =
      "Header, counts, document lengths, range of ids, signs of trouble. Large sets are sampled; verify "
      "reads everything.";
  c.positional = "SET";
  c.least_positional = c.most_positional = 1;
  c.options = {{"tokenizer", "FILE", "show the first and last document as text"},
               {"json", "", "print as JSON"}};
  c.examples = {{"rookery data inspect data/mine.h5 --tokenizer vocab.txt"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput};
  c.run = run_inspect;
  return c;
}

Command verify_command() {
  Command c;
  c.name = "verify";
  c.summary = "read token sets in full and check them";
  c.details =
      "Checks that every id is below the vocabulary size, that each document ends with the end token, and "
      "the checksums.";
  c.positional = "SET...";
  c.least_positional = 1;
  c.most_positional = Command::kAny;
  c.options = {{"vocab-size", "N", "ids must be below N; 0: what the set tells", "0"},
               {"eot", "ID", "the end token; auto: what the set tells; none: do not ask", "auto"},
               {"json", "", "print as JSON"}};
  c.examples = {{"rookery data verify data/mine.h5"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput};
  c.run = run_verify;
  return c;
}

Command convert_command() {
  Command c;
  c.name = "convert";
  c.summary = "copy a token set into another format";
  c.positional = "SET";
  c.least_positional = c.most_positional = 1;
  c.options = {{"out", "PATH", "the new token set"},
               {"format", "FORMAT", "hdf5 | binidx", "hdf5"},
               {"tokenizer", "FILE", "the vocabulary it was made with, where the set does not tell"},
               {"force", "", "replace what is there"}};
  c.examples = {{"rookery data convert minipile --out minipile.h5 --tokenizer vocab.txt"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput, ExitCode::kCannotCreate};
  c.run = run_convert;
  return c;
}

Command mix_preview_command() {
  Command c;
  c.name = "mix-preview";
  c.summary = "how often a run would read each of several token sets";
  c.details =
      "For a budget of tokens and weights as in data.sources: what is taken from each source, and how many "
      "times over that is.";
  c.options = {{"source", "PATH=WEIGHT", "token set and its weight (without: 1); repeat it", "", true},
               {"tokens", "N", "of the whole run, e.g. 1.5B"},
               {"seq-len", "N", "tokens of a sequence", "512"},
               {"json", "", "print as JSON"}};
  c.examples = {{"rookery data mix-preview --source en.h5=2 --source ja.h5=1 --tokens 300M"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput, ExitCode::kConfig};
  c.run = run_mix_preview;
  return c;
}

}  // namespace

Command data_command() {
  Command c;
  c.name = "data";
  c.summary = "prepare, inspect, verify, convert and mix token sets";
  c.children = {prepare_command(), inspect_command(),     verify_command(),
                convert_command(), mix_preview_command(), data_mqar_command()};
  c.examples = {{"rookery data prepare --tokenizer vocab.txt --in raw/ --out data/mine"}};
  return c;
}

}  // namespace rookery::cli
