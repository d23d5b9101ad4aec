// mqar.h: multi-query associative recall (recipes.md 3): K pairs of key and value, later the keys alone, in
// any order; each must be answered with its value. Written as a token set of one document per example; the
// recipe `mqar` asks labels() for the answers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace rookery::data::mqar {

inline constexpr int32_t kVocabSize = 8192;  // 0 fills; keys are 1 .. 4095, values 4096 .. 8191
inline constexpr int32_t kFirstValue = kVocabSize / 2;
inline constexpr double kPower = 0.01;  // slot s is drawn with weight (s + 1)^(kPower - 1): mostly early ones

struct Options {
  int64_t seq_len = 64, num_pairs = 4;
  uint64_t seed = 0;
};

// Throws kUsage (MQAR-01) unless 1 <= num_pairs and the pairs and as many later slots fit into seq_len.
void check(const Options& options);

// Example `index`: tokens [seq_len], a pure function of its arguments.
std::vector<int32_t> example(const Options& options, int64_t index);

struct Label {
  int64_t position;
  int32_t value;  // to be predicted at that position itself
};
// What is asked in one example, read from its tokens alone: each key behind the pairs. Throws kData (MQAR-02)
// naming `where` if they are no example.
std::vector<Label> labels(std::span<const int32_t> tokens, const std::string& where);

// Examples 0 .. count as a token set.
void write(const Options& options, int64_t count, const std::filesystem::path& out, bool force,
           const std::string& created_by);

}  // namespace rookery::data::mqar
