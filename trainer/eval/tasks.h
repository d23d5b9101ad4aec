// tasks.h: the tasks of lm-evaluation-harness that ask by log-likelihood: how a record of JSON Lines becomes
// contexts and continuations (the table in tasks.cpp), how these become tokens, and what is counted.
// Log-likelihoods: scorer.h. Conventions: docs/evaluation.md.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "trainer/eval/scorer.h"

namespace rookery::eval {

// One of several continuations of a context; or one of several contexts of a continuation.
struct Question {
  std::vector<std::string> contexts;       // one, or one for each choice
  std::vector<std::string> continuations;  // one, or one for each choice, the space in front of it included
  std::vector<std::string> choices;        // the bare texts, whose lengths normalise
  size_t gold = 0;                         // the right choice
};

class Record;  // one line of a file

struct Task {
  std::string_view name;
  std::string_view fields;  // that a record must have, for help
  bool last_word = false;   // one continuation: is it the most probable one?
  bool normalised = false;  // accuracies by length are usual
  Question (*question)(const Record&);
};
std::span<const Task> tasks();
const Task& find_task(std::string_view name);  // kUsage EVAL-04 with all names

// The questions of a file, in order. Throws kNoInput, kData (EVAL-02: a line that is no record of the task).
std::vector<Question> read_questions(const Task& task, const std::filesystem::path& path, int64_t limit);

enum class Protocol {
  kHarness,  // context and continuation encoded as one, trailing spaces of the context on the other side
  kRwkv,     // encoded apart, after an end of text
};
struct Pair {
  std::vector<int32_t> context, continuation;
};
Pair encode_pair(const data::Tokenizer& tokenizer, Protocol protocol, std::string_view context,
                 std::string_view continuation);

struct TaskResult {
  int64_t documents = 0;
  int64_t correct = 0;           // by log-likelihood; the first of equal ones
  int64_t correct_by_chars = 0;  // by log-likelihood / characters of the choice (the harness's acc_norm)
  int64_t correct_by_bytes = 0;  // by log-likelihood / UTF-8 bytes of the choice
  std::vector<double> nats;      // of last words: -log p of each
};
// `place` stands in messages. Throws kData EVAL-03 where a continuation has no tokens of its own.
TaskResult run_task(const Task& task, std::span<const Question> questions, const data::Tokenizer& tokenizer,
                    Protocol protocol, Scorer& scorer, std::string_view place);

// Of a share of n: sqrt(p (1 - p) / (n - 1)); 0 for n = 1.
double accuracy_stderr(double p, int64_t n);
// Of exp(mean(nats)): the standard deviation over 10 000 resamples of the documents, seed 1234.
double perplexity_stderr(std::span<const double> nats);

}  // namespace rookery::eval
