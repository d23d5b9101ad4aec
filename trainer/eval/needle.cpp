#include "trainer/eval/needle.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/base/error.h"
#include "kernels/base/rng.h"

namespace rookery::eval {
namespace {

constexpr std::array<std::string_view, 16> kNames = {"Oslo",  "Lima",   "Cairo", "Delhi", "Paris", "Quito",
                                                     "Tokyo", "Sofia",  "Accra", "Dakar", "Hanoi", "Kyiv",
                                                     "Rome",  "Vienna", "Seoul", "Bern"};
constexpr uint64_t kSeed = 1234;
constexpr int64_t kNear = 64;  // tokens that the fact may move back

std::vector<int32_t>& append(std::vector<int32_t>& ids, std::span<const int32_t> more) {
  ids.insert(ids.end(), more.begin(), more.end());
  return ids;
}

// The place at or before `at` where a line or a sentence ends, if one is near; else `at`.
int64_t end_of_sentence(const data::Tokenizer& tokenizer, std::span<const int32_t> filler, int64_t at) {
  for (int64_t i = at; i > std::max<int64_t>(0, at - kNear); --i) {
    const std::string_view token = tokenizer.token(filler[i - 1]);
    if (token.ends_with('.') || token.ends_with('\n')) return i;
  }
  return at;
}

}  // namespace

Needle needle(int64_t sample) {
  const Philox random(kSeed, stream_of("needle"));
  const auto draw = random.block(static_cast<uint64_t>(sample));
  std::string digits;
  for (uint32_t left = draw[0], i = 0; i < 5; ++i, left /= 10) digits += static_cast<char>('0' + left % 10);
  const std::string question = str("The secret code of ", kNames[draw[1] % kNames.size()], " is");
  return {question + " " + digits + ".", question, " " + digits};
}

std::vector<int32_t> needle_prompt(const data::Tokenizer& tokenizer, const Needle& needle,
                                   std::span<const int32_t> filler, int64_t length, double depth) {
  const std::vector<int32_t> question = tokenizer.encode("\n" + needle.question);
  std::vector<int32_t> fact;
  if (depth >= 0) fact = tokenizer.encode("\n" + needle.fact + "\n");
  const int64_t words = length - 1 - static_cast<int64_t>(question.size() + fact.size());
  RK_CHECK(words >= 0 && words <= static_cast<int64_t>(filler.size()), "[needle_prompt] ", length,
           " tokens from a filler of ", filler.size());
  int64_t at = 0;
  if (depth >= 0) {
    at = std::lround(depth * static_cast<double>(words));
    if (at < words) at = end_of_sentence(tokenizer, filler, at);
  }
  std::vector<int32_t> ids{tokenizer.bos_id()};
  append(ids, filler.first(static_cast<size_t>(at)));
  append(ids, fact);
  append(ids, filler.subspan(static_cast<size_t>(at), static_cast<size_t>(words - at)));
  return append(ids, question);
}

std::vector<NeedleCell> find_needles(const data::Tokenizer& tokenizer, std::span<const int32_t> text,
                                     std::span<const int64_t> lengths, std::span<const double> depths,
                                     int64_t samples, Scorer& scorer, std::string_view place) {
  const auto total = static_cast<int64_t>(text.size());
  std::vector<NeedleCell> cells;
  for (const int64_t length : lengths) {
    if (total < length)
      fail(ExitCode::kData, "EVAL-05", place, ": has ", total, " tokens, expected at least ", length,
           ", the longest context; give more text or shorter lengths");
    const size_t first = cells.size();
    for (const double depth : depths) cells.push_back({length, depth});
    for (int64_t i = 0; i < samples; ++i) {
      const Needle n = needle(i);
      const std::vector<std::vector<int32_t>> answer{tokenizer.encode(n.answer)};
      const auto filler = text.subspan(static_cast<size_t>((total - length) * i / samples));
      const auto ask = [&](double depth) {
        return scorer.continuations(needle_prompt(tokenizer, n, filler, length, depth), answer)[0];
      };
      const int64_t least =
          static_cast<int64_t>(tokenizer.encode("\n" + n.fact + "\n\n" + n.question).size()) + 1;
      if (length < least)
        fail(ExitCode::kUsage, "EVAL-05", "a needle's context of ", length, " tokens, expected at least ",
             least, ": the fact and the question must fit");
      const double without = ask(-1).nats;
      for (size_t k = 0; k < depths.size(); ++k) {
        NeedleCell& cell = cells[first + k];
        const Continuation c = ask(depths[k]);
        ++cell.samples;
        cell.found += c.greedy;
        cell.nats += c.nats;
        cell.nats_without += without;
      }
    }
  }
  return cells;
}

}  // namespace rookery::eval
