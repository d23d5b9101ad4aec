// tasks.cpp: the table of tasks is kTasks; the functions above it are the prompts, as lm-evaluation-harness
// makes them from the published data sets.
#include "trainer/eval/tasks.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "data/tokenizer/unicode.h"
#include "data/tokenizer/utf8.h"
#include "kernels/base/io.h"
#include "kernels/base/rng.h"

namespace rookery::eval {

using Json = nlohmann::json;

class Record {
 public:
  Record(std::string_view path, int64_t line, const Json& json) : path_(path), line_(line), json_(json) {}

  [[noreturn]] void refuse(const std::string& what) const {
    fail(ExitCode::kData, "EVAL-02", path_, ":", line_, ": ", what);
  }
  std::string text(const char* field) const {
    const Json& v = at(field);
    if (!v.is_string()) refuse(str("field \"", field, "\" is no string"));
    return v;
  }
  std::vector<std::string> texts(const char* field) const { return strings(at(field), field); }
  // The strings at `list` in the object at `field`.
  std::vector<std::string> texts(const char* field, const char* list) const {
    const Json& v = at(field);
    if (!v.is_object() || !v.contains(list)) refuse(str("field \"", field, "\" has no list \"", list, "\""));
    return strings(v[list], list);
  }
  // A number from 0 to n - 1, as such or as a string.
  size_t index(const char* field, size_t n) const {
    const Json& v = at(field);
    const std::string digits = v.is_string() ? v.get<std::string>() : v.is_number_unsigned() ? v.dump() : "";
    if (digits.size() == 1 && digits[0] >= '0' && static_cast<size_t>(digits[0] - '0') < n)
      return static_cast<size_t>(digits[0] - '0');
    refuse(str("field \"", field, "\" is no number from 0 to ", n - 1));
  }

 private:
  const Json& at(const char* field) const {
    if (!json_.contains(field)) refuse(str("has no field \"", field, "\""));
    return json_[field];
  }
  std::vector<std::string> strings(const Json& list, const char* name) const {
    std::vector<std::string> all;
    if (list.is_array())
      for (const Json& v : list)
        if (v.is_string()) all.push_back(v);
    if (!list.is_array() || all.size() != list.size() || all.size() < 2)
      refuse(str("\"", name, "\" is no list of two strings or more"));
    return all;
  }
  std::string_view path_;
  int64_t line_;
  const Json& json_;
};

namespace {

constexpr uint64_t kMaxTaskFile = uint64_t{1} << 30;
constexpr int64_t kResamples = 10000;
constexpr uint64_t kResampleSeed = 1234;

// Spaces as Python's str.strip() sees them.
bool is_space(char32_t code) {
  return data::char_class(code) == data::CharClass::kSpace || (code >= 0x1C && code <= 0x1F);
}
size_t leading_spaces(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const data::Utf8Char c = data::first_utf8_char(text.substr(at));
    if (c.kind != data::Utf8Char::Kind::kValid || !is_space(c.code)) break;
    at += c.length;
  }
  return at;
}
size_t trailing_spaces(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && end - begin < 4 && (text[begin] & 0xC0) == 0x80) --begin;
    const data::Utf8Char c = data::first_utf8_char(text.substr(begin));
    if (c.kind != data::Utf8Char::Kind::kValid || c.length != end - begin || !is_space(c.code)) break;
    end = begin;
  }
  return text.size() - end;
}
std::string stripped(std::string_view text) {
  text.remove_suffix(trailing_spaces(text));
  return std::string(text.substr(leading_spaces(text)));
}

std::string replaced(std::string_view text, std::string_view what, std::string_view by) {
  std::string out;
  for (size_t found; (found = text.find(what)) != std::string_view::npos;
       text.remove_prefix(found + what.size()))
    out.append(text.substr(0, found)).append(by);
  return out.append(text);
}

// Without "[...]" that stand in one line.
std::string without_brackets(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t close = text[at] == '[' ? text.find_first_of("]\n", at) : std::string_view::npos;
    if (close != std::string_view::npos && text[close] == ']') {
      at = close + 1;
    } else {
      out += text[at++];
    }
  }
  return out;
}

std::string hellaswag_text(const std::string& text) {
  return replaced(without_brackets(replaced(stripped(text), " [title]", ". ")), "  ", " ");
}

int64_t characters(std::string_view text) {
  int64_t n = 0;
  for (; !text.empty(); ++n) text.remove_prefix(data::first_utf8_char(text).length);
  return n;
}

// One context, each choice after a space.
Question of_choices(std::string context, std::vector<std::string> choices, size_t gold) {
  Question q{{std::move(context)}, {}, std::move(choices), gold};
  for (const std::string& choice : q.choices) q.continuations.push_back(" " + choice);
  return q;
}

Question last_word(const Record& r) {
  const std::string text = r.text("text");
  const size_t cut = text.rfind(' ');
  if (cut == std::string::npos || cut == 0 || cut + 1 == text.size())
    r.refuse("\"text\" has no two words with a space between them and none at the end");
  return {{text.substr(0, cut)}, {text.substr(cut)}, {text.substr(cut + 1)}, 0};
}

Question hellaswag(const Record& r) {
  const std::string context = r.text("ctx_a") + " " + data::capitalised(r.text("ctx_b"));
  std::vector<std::string> endings = r.texts("endings");
  for (std::string& e : endings) e = hellaswag_text(e);
  const size_t gold = r.index("label", endings.size());
  return of_choices(hellaswag_text(r.text("activity_label") + ": " + context), std::move(endings), gold);
}

Question piqa(const Record& r) {
  return of_choices("Question: " + r.text("goal") + "\nAnswer:", {r.text("sol1"), r.text("sol2")},
                    r.index("label", 2));
}

// The choice whose label is the answer's.
Question labelled(const Record& r, std::string context, const std::string& answer) {
  const std::vector<std::string> labels = r.texts("choices", "label");
  std::vector<std::string> texts = r.texts("choices", "text");
  if (labels.size() != texts.size())
    r.refuse(str("\"choices\" has ", texts.size(), " texts, but ", labels.size(), " labels"));
  const auto gold = std::find(labels.begin(), labels.end(), answer);
  if (gold == labels.end()) r.refuse(str("\"answerKey\" ", answer, " is none of the labels"));
  return of_choices(std::move(context), std::move(texts), static_cast<size_t>(gold - labels.begin()));
}
Question arc(const Record& r) {
  return labelled(r, "Question: " + r.text("question") + "\nAnswer:", r.text("answerKey"));
}
Question openbookqa(const Record& r) {
  const std::string answer = r.text("answerKey");
  return labelled(r, r.text("question_stem"), answer.substr(leading_spaces(answer)));
}

Question winogrande(const Record& r) {
  const std::string sentence = r.text("sentence");
  const size_t gap = sentence.find('_');
  if (gap == std::string::npos) r.refuse("\"sentence\" has no _");
  const std::string before = sentence.substr(0, gap), answer = r.text("answer");
  if (answer != "1" && answer != "2") r.refuse("\"answer\" is neither \"1\" nor \"2\"");
  const std::vector<std::string> options{r.text("option1"), r.text("option2")};
  return {{before + options[0], before + options[1]},
          {" " + stripped(sentence.substr(gap + 1))},
          options,
          answer == "2" ? size_t{1} : 0};
}

Question sciq(const Record& r) {
  const std::string support = r.text("support");
  return of_choices(
      support.substr(leading_spaces(support)) + "\nQuestion: " + r.text("question") + "\nAnswer:",
      {r.text("distractor1"), r.text("distractor2"), r.text("distractor3"), r.text("correct_answer")}, 3);
}

Question copa(const Record& r) {
  const std::string asks = r.text("question");
  if (asks != "cause" && asks != "effect") r.refuse("\"question\" is neither \"cause\" nor \"effect\"");
  std::string premise = stripped(r.text("premise"));
  if (!premise.empty()) premise.pop_back();  // the full stop
  return of_choices(premise + (asks == "cause" ? " because" : " therefore"),
                    {r.text("choice1"), r.text("choice2")}, r.index("label", 2));
}

constexpr std::string_view kArcFields = "question, choices {text, label}, answerKey";
constexpr Task kTasks[] = {
    {"arc_challenge", kArcFields, false, true, arc},
    {"arc_easy", kArcFields, false, true, arc},
    {"copa", "premise, question, choice1, choice2, label", false, false, copa},
    {"hellaswag", "activity_label, ctx_a, ctx_b, endings, label", false, true, hellaswag},
    {"lambada_openai", "text", true, false, last_word},
    {"lambada_openai_mt_de", "text", true, false, last_word},
    {"lambada_openai_mt_en", "text", true, false, last_word},
    {"lambada_openai_mt_es", "text", true, false, last_word},
    {"lambada_openai_mt_fr", "text", true, false, last_word},
    {"lambada_openai_mt_it", "text", true, false, last_word},
    {"lambada_standard", "text", true, false, last_word},
    {"openbookqa", "question_stem, choices {text, label}, answerKey", false, true, openbookqa},
    {"piqa", "goal, sol1, sol2, label", false, true, piqa},
    {"sciq", "support, question, distractor1, distractor2, distractor3, correct_answer", false, true, sciq},
    {"winogrande", "sentence, option1, option2, answer", false, false, winogrande},
};

}  // namespace

std::span<const Task> tasks() { return kTasks; }

const Task& find_task(std::string_view name) {
  std::string names;
  for (const Task& task : kTasks) {
    if (task.name == name) return task;
    append_str(names, str(names.empty() ? "" : ", ", task.name));
  }
  fail(ExitCode::kUsage, "EVAL-04", "no task '", name, "', expected one of ", names);
}

std::vector<Question> read_questions(const Task& task, const std::filesystem::path& path, int64_t limit) {
  const std::string file = io::read_file(path, kMaxTaskFile);
  std::vector<Question> questions;
  std::string_view left = file;
  for (int64_t line = 1; !left.empty(); ++line) {
    if (limit > 0 && static_cast<int64_t>(questions.size()) == limit) break;
    const std::string_view text = left.substr(0, left.find('\n'));
    left.remove_prefix(std::min(left.size(), text.size() + 1));
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const Json json = Json::parse(text, nullptr, false);
    const Record record(path.native(), line, json);
    if (!json.is_object()) record.refuse("is no JSON object");
    questions.push_back(task.question(record));
  }
  if (questions.empty()) fail(ExitCode::kData, "EVAL-01", path.native(), ": no documents");
  return questions;
}

Pair encode_pair(const data::Tokenizer& tokenizer, Protocol protocol, std::string_view context,
                 std::string_view continuation) {
  Pair pair;
  if (protocol == Protocol::kRwkv) {
    pair.context = tokenizer.encode(context);
    pair.context.insert(pair.context.begin(), tokenizer.bos_id());
    pair.continuation = tokenizer.encode(continuation);
    return pair;
  }
  const std::string whole = str(context, continuation);
  context.remove_suffix(trailing_spaces(context));
  pair.context = tokenizer.encode(context);
  const std::vector<int32_t> all = tokenizer.encode(whole);
  if (all.size() > pair.context.size())
    pair.continuation.assign(all.begin() + static_cast<std::ptrdiff_t>(pair.context.size()), all.end());
  // Nothing to predict the first token from.
  if (pair.context.empty()) pair.context.push_back(tokenizer.bos_id());
  return pair;
}

TaskResult run_task(const Task& task, std::span<const Question> questions, const data::Tokenizer& tokenizer,
                    Protocol protocol, Scorer& scorer, std::string_view place) {
  TaskResult result;
  for (const Question& q : questions) {
    ++result.documents;
    std::vector<Continuation> scores;
    for (const std::string& context : q.contexts) {
      std::vector<int32_t> read;
      std::vector<std::vector<int32_t>> choices;
      for (const std::string& continuation : q.continuations) {
        Pair pair = encode_pair(tokenizer, protocol, context, continuation);
        if (pair.continuation.empty())
          fail(ExitCode::kData, "EVAL-03", place, ": document ", result.documents, ": the continuation '",
               continuation, "' has no tokens of its own in this vocabulary");
        read = std::move(pair.context);  // the same for each
        choices.push_back(std::move(pair.continuation));
      }
      for (const Continuation& c : scorer.continuations(read, choices)) scores.push_back(c);
    }
    if (task.last_word) {
      result.correct += scores[0].greedy;
      result.nats.push_back(scores[0].nats);
      continue;
    }
    // The choice of the least nats, the first of equal ones, each divided by what `length` says.
    const auto is_right = [&](auto length) {
      size_t best = 0;
      for (size_t i = 1; i < scores.size(); ++i)
        if (scores[i].nats / length(q.choices[i]) < scores[best].nats / length(q.choices[best])) best = i;
      return best == q.gold;
    };
    result.correct += is_right([](const std::string&) { return 1.0; });
    result.correct_by_chars +=
        is_right([](const std::string& c) { return static_cast<double>(characters(c)); });
    result.correct_by_bytes += is_right([](const std::string& c) { return static_cast<double>(c.size()); });
  }
  return result;
}

double accuracy_stderr(double p, int64_t n) {
  return n > 1 ? std::sqrt(p * (1 - p) / static_cast<double>(n - 1)) : 0;
}

double perplexity_stderr(std::span<const double> nats) {
  const Philox random(kResampleSeed, stream_of("bootstrap"));
  const auto n = static_cast<double>(nats.size());
  double mean = 0, squares = 0;  // by Welford
  uint64_t draw = 0;
  for (int64_t i = 0; i < kResamples; ++i) {
    double sum = 0;
    for (size_t k = 0; k < nats.size(); ++k) sum += nats[static_cast<size_t>(random.uniform(draw++) * n)];
    const double value = std::exp(sum / n), off = value - mean;
    mean += off / static_cast<double>(i + 1);
    squares += off * (value - mean);
  }
  return std::sqrt(squares / static_cast<double>(kResamples - 1));
}

}  // namespace rookery::eval
