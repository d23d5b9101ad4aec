// tokenizer.cpp: `rookery tokenizer`: text to ids and back, a look at a vocabulary, and learning one.
// The work: data/tokenizer/.
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "data/tokenizer/text_sample.h"
#include "data/tokenizer/utf8.h"
#include "data/tokenizer/vocab_tokenizer.h"
#include "data/tokenizer/vocab_trainer.h"
#include "kernels/base/io.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/terminal.h"
#include "trainer/loop/human.h"

namespace rookery::cli {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using data::VocabTokenizer;
using loop::fixed;

constexpr uint64_t kMaxText = uint64_t{1} << 30;  // of one text that encode, decode or check takes whole

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }
void print_json(const Json& json) { print(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"); }

std::unique_ptr<data::Tokenizer> open_vocabulary(const Arguments& arguments) {
  return data::load_tokenizer(arguments.path("vocab"));
}

std::string read_stdin() {
  std::string text;
  char block[1 << 16];
  while (const size_t n = std::fread(block, 1, sizeof block, stdin)) {
    text.append(block, n);
    if (text.size() > kMaxText)
      fail(ExitCode::kData, "VOCAB-12", "standard input: more than 1 GiB; cut it into parts");
  }
  if (std::ferror(stdin)) fail(ExitCode::kIo, "VOCAB-12", "standard input cannot be read");
  return text;
}

// What a command works on: its arguments, else --file, else standard input.
std::string input_text(const Arguments& arguments) {
  std::string text;
  for (const std::string& word : arguments.positional()) text += (text.empty() ? "" : " ") + word;
  if (!arguments.given("file")) return arguments.positional().empty() ? read_stdin() : text;
  if (!arguments.positional().empty()) fail(ExitCode::kUsage, "", "expected arguments or --file, found both");
  const std::string file = arguments.text("file");
  return file == "-" ? read_stdin() : io::read_file(file, kMaxText);
}

Json statistics_json(const data::TokenStatistics& s) {
  return {{"bytes", s.bytes},
          {"tokens", s.tokens},
          {"bytes_per_token", s.bytes_per_token()},
          {"coverage", s.coverage()}};
}

int run_encode(const Arguments& arguments) {
  const auto tokenizer = open_vocabulary(arguments);
  const std::string text = input_text(arguments);
  const std::vector<int32_t> ids =
      arguments.flag("special") ? tokenizer->encode_prompt(text) : tokenizer->encode(text);
  if (arguments.flag("json")) {
    Json pieces = Json::array();
    for (int32_t id : ids) pieces.push_back(data::token_literal(tokenizer->token(id)));
    print_json({{"bytes", text.size()}, {"tokens", ids.size()}, {"ids", ids}, {"pieces", pieces}});
    return 0;
  }
  std::string line;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (arguments.flag("pieces")) {
      append_str(line, str(ids[i], ' ', data::token_literal(tokenizer->token(ids[i])), '\n'));
    } else {
      append_str(line, str(ids[i], i + 1 < ids.size() ? ' ' : '\n'));
    }
  }
  print(line);
  return 0;
}

std::vector<int32_t> parse_ids(std::string_view text) {
  std::vector<int32_t> ids;
  constexpr std::string_view kSeparators = " \t\r\n,";
  for (size_t at = text.find_first_not_of(kSeparators); at != std::string_view::npos;
       at = text.find_first_not_of(kSeparators, at)) {
    const size_t end = std::min(text.size(), text.find_first_of(kSeparators, at));
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, id);
    if (error != std::errc() || stop != text.data() + end || id < 0) {
      fail(ExitCode::kData, "VOCAB-13", "found '", printable(text.substr(at, std::min<size_t>(end - at, 40))),
           "' as id ", ids.size() + 1, ", expected whole numbers with blanks or commas between them");
    }
    ids.push_back(id);
    at = end;
  }
  return ids;
}

int run_decode(const Arguments& arguments) {
  const auto tokenizer = open_vocabulary(arguments);
  const std::vector<int32_t> ids = parse_ids(input_text(arguments));
  const std::string text = tokenizer->decode(ids);
  if (arguments.flag("json")) {
    const bool valid = data::find_invalid_utf8(text) == std::string_view::npos;
    print_json({{"tokens", ids.size()}, {"bytes", text.size()}, {"valid_utf8", valid}, {"text", text}});
  } else {
    print(text);
  }
  return 0;
}

int run_check(const Arguments& arguments) {
  const auto loaded = open_vocabulary(arguments);
  const data::Tokenizer& tokenizer = *loaded;
  int64_t tokens = 0, not_utf8 = 0, unused = 0;
  size_t longest = 0;
  std::vector<bool> has_byte(256);
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view token = tokenizer.token(id);
    tokens += !token.empty();
    unused += token.empty() && id != tokenizer.eot_id();
    longest = std::max(longest, token.size());
    not_utf8 += data::find_invalid_utf8(token) != std::string_view::npos;
    if (token.size() == 1) has_byte[static_cast<unsigned char>(token[0])] = true;
  }
  std::vector<int> missing;
  for (int byte = 0; byte < 256; ++byte)
    if (!has_byte[byte]) missing.push_back(byte);
  Json j = {{"vocabulary", arguments.text("vocab")},
            {"sha256", tokenizer.sha256()},
            {"tokens", tokens},
            {"vocab_size", tokenizer.vocab_size()},
            {"end_of_text", tokenizer.eot_id()},
            {"unused_ids", unused},
            {"longest_token_bytes", longest},
            {"tokens_not_utf8", not_utf8},
            {"missing_bytes", missing},
            {"texts", Json::array()}};
  for (const std::string& path : arguments.positional()) {
    const std::string text = io::read_file(path, kMaxText);
    const std::string back = tokenizer.decode(tokenizer.encode(text));
    if (back != tokenizer.normalise(text))
      fail(ExitCode::kInternal, "", path, ": does not come back from its tokens");
    Json entry = {{"path", path}, {"changed_by_nfc", back != text}};
    entry.update(statistics_json(data::token_statistics(tokenizer, text)));
    j["texts"].push_back(entry);
  }
  if (arguments.flag("json")) {
    print_json(j);
    return 0;
  }
  print(str("vocabulary     ", printable(arguments.text("vocab")), "\nsha256         ", tokenizer.sha256(),
            "\ntokens         ", tokens, ", ids up to ", tokenizer.vocab_size() - 1, ", ", unused,
            " ids unused\nend of text    id ", tokenizer.eot_id(), "\nlongest token  ", longest,
            " bytes\nnot UTF-8      ", not_utf8, " tokens\nsingle bytes   "));
  if (missing.empty()) {
    print("all 256: every text can be encoded\n");
  } else {
    print(str(missing.size(), " of 256 are missing, so some texts cannot be encoded:"));
    for (int byte : missing) print(str(' ', byte));
    print("\n");
  }
  for (const Json& entry : j["texts"]) {
    print(str(printable(entry["path"].get<std::string>()), ": ", entry["bytes"].get<int64_t>(), " bytes, ",
              entry["tokens"].get<int64_t>(), " tokens, ", fixed(entry["bytes_per_token"].get<double>(), 3),
              " bytes/token, ", fixed(100 * entry["coverage"].get<double>(), 2),
              "% of the characters whole, comes back ",
              entry["changed_by_nfc"].get<bool>() ? "in Unicode's normal form C\n" : "as it was\n"));
  }
  return 0;
}

// The files of each language, by name, in the order in which the names first appear.
struct LanguageInputs {
  std::string name;
  std::vector<std::string> patterns;
};

std::vector<LanguageInputs> language_inputs(const Arguments& arguments) {
  std::vector<LanguageInputs> languages;
  const auto add = [&](const std::string& name, const std::string& pattern) {
    for (LanguageInputs& l : languages) {
      if (l.name == name) return l.patterns.push_back(pattern);
    }
    languages.push_back({name, {pattern}});
  };
  for (const std::string& given : arguments.texts("lang")) {
    const size_t equals = given.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == given.size())
      fail(ExitCode::kUsage, "CLI-01", "--lang: found '", printable(given),
           "', expected NAME=PATH, as in en=corpus/en.txt");
    add(given.substr(0, equals), given.substr(equals + 1));
  }
  for (const std::string& path : arguments.positional()) {
    std::set<fs::path> folders;
    if (fs::is_directory(path)) {
      for (const auto& entry : fs::directory_iterator(path)) {
        if (entry.is_directory()) folders.insert(entry.path());
      }
    }
    for (const fs::path& folder : folders) add(folder.filename().string(), folder.string());
    if (folders.empty()) add("text", path);
  }
  if (languages.empty())
    fail(ExitCode::kUsage, "",
         "no text given, expected --lang NAME=PATH, a folder with one folder per language, or files");
  return languages;
}

// Fails before the work if the result could not be written, or would replace what must stay.
void check_output(const fs::path& out, bool force) {
  const fs::path folder = out.has_parent_path() ? out.parent_path() : ".";
  if (!fs::is_directory(folder))
    fail(ExitCode::kCannotCreate, "VOCAB-14", printable(out.string()), ": the folder ",
         printable(folder.string()), " does not exist; make it first");
  if (fs::exists(out) && !force)
    fail(ExitCode::kCannotCreate, "VOCAB-14", printable(out.string()),
         ": exists already; name another file, or replace it with --force");
}

int run_train(const Arguments& arguments) {
  const fs::path out = arguments.path("out");
  check_output(out, arguments.flag("force"));
  data::VocabTraining training;
  training.vocab_size = static_cast<int32_t>(arguments.integer("size", 258, data::kMaxTokenId + 1));
  training.equal_languages = arguments.one_of("balance", {"equal", "size"}) == "equal";
  const int64_t sample_bytes = arguments.integer("sample", 1 << 10, int64_t{1} << 30);
  const int64_t threads = arguments.integer("threads", 0, kMaxThreads);
  data::TextOptions text_options;
  text_options.field = arguments.text("field");
  text_options.on_bad_text = arguments.one_of("on-bad-text", {"error", "skip"}) == "error"
                                 ? data::OnBad::kError
                                 : data::OnBad::kSkip;

  struct Source {
    std::string name;
    data::TextInputs inputs;
    int64_t bytes = 0;
  };
  std::vector<Source> sources;
  int64_t total_bytes = 0;
  for (const LanguageInputs& language : language_inputs(arguments)) {
    Source source{language.name, data::collect_inputs(language.patterns)};
    for (const std::string& warning : source.inputs.warnings)
      std::fprintf(stderr, "warning: %s\n", printable(warning).c_str());
    for (const data::TextInput& input : source.inputs.files) {
      source.bytes += static_cast<int64_t>(input.size);
      std::error_code missing;  // then they are not the same file
      if (fs::equivalent(input.path, out, missing))
        fail(ExitCode::kUsage, "VOCAB-14", printable(out.string()),
             ": is an input, expected another file for --out");
    }
    total_bytes += source.bytes;
    sources.push_back(std::move(source));
  }
  std::vector<data::LanguageSample> samples;
  for (const Source& s : sources) {
    const double share = training.equal_languages
                             ? 1.0 / static_cast<double>(sources.size())
                             : static_cast<double>(s.bytes) / static_cast<double>(total_bytes);
    const auto wanted = std::max<int64_t>(1, static_cast<int64_t>(share * static_cast<double>(sample_bytes)));
    samples.push_back(data::sample_language(s.name, s.inputs.files, text_options, wanted));
  }

  if (::isatty(STDERR_FILENO))
    training.progress = [](const std::string& line) { std::fprintf(stderr, "\r\x1b[K%s", line.c_str()); };
  ThreadPool pool(
      static_cast<int>(threads > 0 ? threads : std::clamp(std::thread::hardware_concurrency(), 1u, 64u)));
  const std::string file = data::format_vocabulary(data::train_vocabulary(samples, training, pool));
  if (training.progress) std::fputs("\r\x1b[K", stderr);
  io::write_file_atomic(out, file, "tokenizer.vocab");

  const VocabTokenizer tokenizer(file, out.filename().string());
  Json j = {{"vocabulary", out.string()},
            {"sha256", tokenizer.sha256()},
            {"tokens", tokenizer.num_tokens()},
            {"vocab_size", tokenizer.vocab_size()},
            {"languages", Json::array()}};
  for (const data::LanguageSample& sample : samples) {
    Json entry = {{"language", sample.name}};
    entry.update(statistics_json(data::token_statistics(tokenizer, sample.text)));
    j["languages"].push_back(entry);
  }
  if (arguments.flag("json")) {
    print_json(j);
    return 0;
  }
  print(str(printable(out.string()), ": ", tokenizer.num_tokens(), " tokens for a vocab_size of ",
            tokenizer.vocab_size(), "\nsha256 ", tokenizer.sha256(),
            "\n\nlanguage     sampled bytes   bytes/token   coverage\n"));
  for (const Json& entry : j["languages"]) {
    char line[160];
    std::snprintf(line, sizeof line, "%-10.40s %15lld %13s %9s%%\n",
                  printable(entry["language"].get<std::string>()).c_str(),
                  static_cast<long long>(entry["bytes"].get<int64_t>()),
                  fixed(entry["bytes_per_token"].get<double>(), 3).c_str(),
                  fixed(100 * entry["coverage"].get<double>(), 2).c_str());
    print(line);
  }
  print(
      "\ncoverage: characters that no token cuts; the sampled text is what the vocabulary was learned "
      "from\n");
  return 0;
}

const Option kVocab = {"vocab", "FILE",
                       "vocabulary file (rookery's own, RWKV World), or tokenizer.json (byte-level BPE)"};
const Option kFile = {"file", "FILE", "read this file; - is standard input"};
const Option kJson = {"json", "", "print as JSON"};

Command encode_command() {
  Command c;
  c.name = "encode";
  c.summary = "turn text into token ids";
  c.details =
      "Takes the TEXT of the command line, else --file, else standard input, byte for byte: a line end at "
      "the end of the input is encoded too.";
  c.positional = "[TEXT...]";
  c.most_positional = Command::kAny;
  c.options = {kVocab,
               kFile,
               {"pieces", "", "one token a line, with its text"},
               {"special", "", "special tokens spelled in the text, such as <|endoftext|>, become tokens"},
               kJson};
  c.examples = {{"rookery tokenizer encode --vocab vocab.txt --pieces 'Hello world!'"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput};
  c.run = run_encode;
  return c;
}

Command decode_command() {
  Command c;
  c.name = "decode";
  c.summary = "turn token ids into text";
  c.details =
      "Takes the IDs of the command line, else --file, else standard input; blanks or commas stand between "
      "them. Writes the bytes of the tokens and nothing else; id 0, the end of text, is nothing.";
  c.positional = "[ID...]";
  c.most_positional = Command::kAny;
  c.options = {kVocab, kFile, kJson};
  c.examples = {{"rookery tokenizer decode --vocab vocab.txt 33155 40213 34"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput};
  c.run = run_decode;
  return c;
}

Command check_command() {
  Command c;
  c.name = "check";
  c.summary = "check a vocabulary file and how it cuts texts";
  c.details =
      "Reads the whole vocabulary, tells its identity (SHA-256) and whether single bytes are "
      "missing; "
      "encodes each TEXT file, makes sure that it comes back, and tells bytes per token.";
  c.positional = "[TEXT...]";
  c.most_positional = Command::kAny;
  c.options = {kVocab, kJson};
  c.examples = {{"rookery tokenizer check --vocab vocab.txt README.md"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput};
  c.run = run_check;
  return c;
}

Command train_tokenizer_command() {
  Command c;
  c.name = "train";
  c.summary = "learn a vocabulary from text";
  c.details =
      "Learns N - 1 tokens for greedy longest match, all 256 single bytes among them (id 0 is the end of "
      "text), and "
      "writes them in the grammar of the RWKV World vocabulary. Texts are .txt and .jsonl files, folders of "
      "them and "
      "patterns, grouped by language with --lang; or a FOLDER in which each folder is a language. The result "
      "does not "
      "depend on the number of threads.";
  c.positional = "[FOLDER | FILE...]";
  c.most_positional = Command::kAny;
  c.options = {
      {"lang", "NAME=PATH", "text of a language: file, folder or pattern (in quotes)", "", true},
      {"out", "FILE", "the new vocabulary"},
      {"size", "N", "vocab_size of the model, 258 to 65536", "8192"},
      {"sample", "BYTES", "text to learn from, all languages together", "4Mi"},
      {"balance", "KIND", "equal: each language weighs the same | size: by its bytes", "equal"},
      {"field", "KEY", "the text field of JSON lines", "text"},
      {"on-bad-text", "POLICY", "invalid UTF-8: error | skip", "error"},
      {"threads", "N", "threads; 0: one for each core", "0"},
      {"force", "", "replace the file that is there"},
      kJson,
  };
  c.examples = {{"rookery tokenizer train --out vocab.txt --lang en=en.txt --lang 'ja=ja/*.txt'"},
                {"rookery tokenizer train --out vocab.txt corpus/", "one folder per language"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput, ExitCode::kCannotCreate};
  c.run = run_train;
  return c;
}

}  // namespace

Command tokenizer_command() {
  Command c;
  c.name = "tokenizer";
  c.summary = "encode, decode, check and learn vocabularies";
  c.children = {encode_command(), decode_command(), check_command(), train_tokenizer_command()};
  c.examples = {{"rookery tokenizer encode --vocab vocab.txt 'Hello world!'"}};
  return c;
}

}  // namespace rookery::cli
