#include "trainer/eval/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/base/error.h"

namespace rookery::eval {

int32_t Sampling::pick(std::span<const double> raw) {
  std::vector<double> logits(raw.begin(), raw.end());
  for (const double v : logits)
    if (!std::isfinite(v))
      fail(ExitCode::kNumerics, "GEN-03",
           "the model's output is not finite, expected numbers: the weights or the state are damaged; use an "
           "earlier checkpoint");
  for (const auto& [id, count] : seen_)
    logits[id] -= options_.presence_penalty + options_.frequency_penalty * static_cast<double>(count);

  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  size_t keep = order.size();
  if (options_.top_k > 0) keep = std::min<size_t>(keep, static_cast<size_t>(options_.top_k));
  if (options_.temperature == 0 || options_.top_p == 0) keep = 1;

  // Nucleus by the probabilities before the temperature, as RWKV's programs do.
  double total = 0;
  for (const double v : logits) total += std::exp(v - logits[order[0]]);
  double share = 0;
  for (size_t i = 0; i < keep; ++i) {
    share += std::exp(logits[order[i]] - logits[order[0]]) / total;
    if (share >= options_.top_p) keep = i + 1;
  }
  std::vector<double> weights(keep);
  double sum = 0;
  for (size_t i = 0; i < keep; ++i)
    sum += weights[i] =
        keep == 1 ? 1 : std::exp((logits[order[i]] - logits[order[0]]) / options_.temperature);
  double at = random_.uniform(draws_++) * sum;
  size_t chosen = 0;
  while (chosen + 1 < keep && at >= weights[chosen]) at -= weights[chosen++];
  ++seen_[order[chosen]];
  return order[chosen];
}

}  // namespace rookery::eval
