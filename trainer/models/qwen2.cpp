// qwen2.cpp: Qwen2 and Qwen2.5 (llama-baseline 3): the layers of Llama with biases of queries, keys and
// values; names as in Hugging Face's checkpoints. The model itself: transformer.cpp.
#include "trainer/models/qwen2.h"

namespace rookery {

std::unique_ptr<Model> make_qwen2(const Qwen2Config& config, const nn::Part& part) {
  Qwen2Config c = config;
  c.resolve();
  const RopeOptions rope{.pairs = RopePairs::kHalves, .theta = c.rope_theta, .scaling = {}};
  return std::make_unique<Transformer>(c, rope, nn::normal(c.init_std), nn::Bias::kZero, part);
}

}  // namespace rookery
