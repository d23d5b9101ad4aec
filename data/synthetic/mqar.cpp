#include "data/synthetic/mqar.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "data/dataset/token_set_writer.h"
#include "kernels/base/error.h"
#include "kernels/base/io.h"
#include "kernels/base/rng.h"

namespace rookery::data::mqar {
namespace {

constexpr std::string_view kPoint = "data.tokens";

// `count` different numbers of [first, last), in the order of their drawing.
std::vector<int32_t> distinct(int64_t count, int32_t first, int32_t last, const Philox& random) {
  std::vector<int32_t> drawn;
  std::set<int32_t> seen;
  for (uint64_t i = 0; static_cast<int64_t>(drawn.size()) < count; ++i) {
    const int32_t value = first + static_cast<int32_t>(random.uniform(i) * (last - first));
    if (seen.insert(value).second) drawn.push_back(value);
  }
  return drawn;
}

// `count` different slots of [0, space), drawn one after the other by weight: the smallest of exponentially
// distributed times with these rates come in that order (Efraimidis and Spirakis 2006).
std::vector<int64_t> weighted_slots(int64_t count, int64_t space, const Philox& random) {
  std::vector<std::pair<double, int64_t>> times;
  for (int64_t slot = 0; slot < space; ++slot)
    times.emplace_back(
        -std::log1p(-random.uniform(slot)) * std::pow(static_cast<double>(slot + 1), 1.0 - kPower), slot);
  std::partial_sort(times.begin(), times.begin() + count, times.end());
  std::vector<int64_t> slots;
  for (int64_t i = 0; i < count; ++i) slots.push_back(times[i].second);
  return slots;
}

}  // namespace

void check(const Options& o) {
  if (o.num_pairs >= 1 && o.num_pairs < kFirstValue && 4 * o.num_pairs <= o.seq_len) return;
  fail(ExitCode::kUsage, "MQAR-01", o.num_pairs, " pairs in ", o.seq_len,
       " tokens: expected 1 to seq_len / 4 pairs, at most ", kFirstValue - 1);
}

std::vector<int32_t> example(const Options& o, int64_t index) {
  check(o);
  const int64_t K = o.num_pairs;
  auto random = [&](const char* purpose) {
    return Philox(o.seed ^ static_cast<uint64_t>(index) << 32, stream_of(purpose));
  };
  const auto keys = distinct(K, 1, kFirstValue, random("mqar.keys"));
  const auto values = distinct(K, kFirstValue, kVocabSize, random("mqar.values"));
  const auto slots = weighted_slots(K, (o.seq_len - 2 * K) / 2, random("mqar.slots"));
  std::vector<int32_t> tokens(static_cast<size_t>(o.seq_len), 0);
  for (int64_t i = 0; i < K; ++i) {
    tokens[2 * i] = keys[i];
    tokens[2 * i + 1] = values[i];
    tokens[2 * K + 2 * slots[i]] = keys[i];
  }
  return tokens;
}

std::vector<Label> labels(std::span<const int32_t> tokens, const std::string& where) {
  auto is_key = [](int32_t t) { return t > 0 && t < kFirstValue; };
  std::map<int32_t, int32_t> value_of;
  size_t at = 0;
  for (; at + 1 < tokens.size() && is_key(tokens[at]) && tokens[at + 1] >= kFirstValue; at += 2)
    value_of[tokens[at]] = tokens[at + 1];
  std::vector<Label> found;
  for (; at < tokens.size(); ++at) {
    if (tokens[at] == 0) continue;
    const auto pair = value_of.find(tokens[at]);
    if (pair == value_of.end())
      fail(ExitCode::kData, "MQAR-02", where, ": token ", at, " is ", tokens[at],
           ", expected 0 or a key of the pairs before it: use a set written by `rookery data mqar` with its "
           "--seq-len as data.seq_len");
    found.push_back({static_cast<int64_t>(at), pair->second});
  }
  if (value_of.empty() || found.size() != value_of.size())
    fail(ExitCode::kData, "MQAR-02", where, ": ", value_of.size(), " pairs and ", found.size(),
         " keys behind them, expected as many of each: use a set written by `rookery data mqar` with its "
         "--seq-len as data.seq_len");
  return found;
}

void write(const Options& options, int64_t count, const std::filesystem::path& out, bool force,
           const std::string& created_by) {
  check(options);
  const auto files = token_set_files(out, TokenSetFormat::kHdf5);
  check_outputs(files, {}, force);
  const std::filesystem::path folder = files[0].native() + ".partial";
  if (std::filesystem::exists(folder)) io::remove_all(folder, kPoint);  // left by an interrupted call
  if (files[0].has_parent_path()) io::create_directories(files[0].parent_path());
  io::create_directories(folder);
  TokenSetMeta meta;
  meta.vocab_size = kVocabSize;
  meta.eot_id = kVocabSize;  // no token ends a document
  meta.created_by = created_by;
  meta.source =
      str("mqar seq_len ", options.seq_len, " num_pairs ", options.num_pairs, " seed ", options.seed);
  meta.has_doc_bytes = false;
  try {
    TokenSetStage stage(folder, "mqar", false);
    for (int64_t i = 0; i < count; ++i) stage.add(example(options, i), 0);
    stage.add(std::vector<int32_t>{0},
              0);  // a window is read with the token behind it: the last one needs one
    stage.publish(files, TokenSetFormat::kHdf5, meta);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
    throw;
  }
  io::remove_all(folder, kPoint);
}

}  // namespace rookery::data::mqar
