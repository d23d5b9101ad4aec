#include "trainer/plan/cache.h"

#include <algorithm>

namespace rookery::plan {
namespace {

constexpr int64_t kChunk = 4096;  // tokens of one pass

}  // namespace

CacheSize measure_cache(Model& model, Device& device, int64_t tokens) {
  const auto before = static_cast<int64_t>(device.arena().persistent_bytes());
  nn::SeqContext seq;
  seq.carry = true;
  nn::Context cx{nullptr, seq};
  for (int64_t left = tokens - 1, count = 0; left > 0; left -= count) {
    count = std::min(left, kChunk);
    model.prefill(cx, zeros({1, count}, DType::kI32, device));
  }
  model.hidden(cx, zeros({1, 1}, DType::kI32, device));
  CacheSize size;
  for (const auto& [slot, state] : seq.states()) size.used += static_cast<int64_t>(state.value().bytes());
  for (const auto& [slot, history] : seq.histories())
    size.used += static_cast<int64_t>(history.rows.bytes()) / history.rows.dim(1) * history.length;
  size.taken = static_cast<int64_t>(device.arena().persistent_bytes()) - before;
  return size;
}

double transformer_entries(int64_t layers, int64_t width) {
  return 2.0 * static_cast<double>(layers * width);
}

double goldfinch_entries(int64_t width, int64_t bytes_of_a_token_id) {
  return static_cast<double>(width) / 16 + static_cast<double>(bytes_of_a_token_id) / 2;
}

std::vector<PaperRow> paper_table() {
  constexpr int64_t L = 32, D = 4096;
  constexpr double H = 128;
  return {{"Llama2", "2 D L", transformer_entries(L, D), 128},
          {"Llama3 (GQA)", "8 d_head L", 8 * H * L, 32},
          {"DeepSeek-V2", "9/2 d_head L", 4.5 * H * L, 18},
          {"Zamba", "2/7 D L", 2.0 / 7 * D * L, 18.3},
          {"Jamba", "8/7 d_head L", 8.0 / 7 * H * L, 4},
          {"YOCO", "2 D", 2.0 * D, 4},
          {"GoldFinch", "1 + D/16", goldfinch_entries(D, 2), 0.068}};
}

}  // namespace rookery::plan
