// llama.cpp: Llama-2 and Llama-3 (llama-baseline 2): RMS norm, rotary positions, grouped heads, SwiGLU; names
// as in Hugging Face's checkpoints. The model itself: transformer.cpp.
#include "trainer/models/llama.h"

#include <cmath>

namespace rookery {
namespace {

RopeOptions rope_of(const LlamaConfig& c) {
  const RopeScalingConfig& s = c.rope_scaling;
  RopeOptions rope{.pairs = RopePairs::kHalves, .theta = c.rope_theta, .scaling = {}};
  if (s.type == "linear") rope.scaling.kind = RopeScaling::Kind::kLinear;
  if (s.type == "llama3") rope.scaling.kind = RopeScaling::Kind::kLlama3;
  rope.scaling.factor = s.factor;
  rope.scaling.low_frequency = s.low_freq_factor;
  rope.scaling.high_frequency = s.high_freq_factor;
  rope.scaling.original_context = static_cast<double>(s.original_context);
  return rope;
}

}  // namespace

void RopeScalingConfig::fields(config::Visitor& v) {
  v("type", type, "none; linear: every angle divided by factor; llama3: only those of long waves (Llama 3.1)")
      .one_of({"none", "linear", "llama3"});
  v("factor", factor, "how many times longer the texts become").at_least(1);
  v("low_freq_factor", low_freq_factor, "llama3: waves longer than original_context / this are divided")
      .positive();
  v("high_freq_factor", high_freq_factor, "llama3: waves shorter than original_context / this are kept")
      .positive();
  v("original_context", original_context, "llama3: tokens of the texts that the model was first trained on")
      .positive();
}

void LlamaConfig::fields(config::Visitor& v) {
  list_fields(v);
  v("rope_scaling", rope_scaling, "rotary positions of models for longer texts");
  v("scale_residual_init", scale_residual_init,
    "initial values of o_proj and down_proj divided by sqrt(2 num_layers)");
}

void LlamaConfig::check(std::vector<config::Finding>& findings) const {
  check_sizes(findings);
  if (rope_scaling.type == "llama3" && rope_scaling.high_freq_factor <= rope_scaling.low_freq_factor)
    findings.push_back(
        {"model.rope_scaling.high_freq_factor",
         str("high_freq_factor ", rope_scaling.high_freq_factor, " is not above low_freq_factor ",
             rope_scaling.low_freq_factor, "; the models of Llama 3 have 4 and 1")});
}

std::unique_ptr<Model> make_llama(const LlamaConfig& config, const nn::Part& part) {
  LlamaConfig c = config;
  c.resolve();
  const double depth = c.scale_residual_init ? std::sqrt(2.0 * static_cast<double>(c.num_layers)) : 1;
  return std::make_unique<Transformer>(c, rope_of(c), nn::normal(c.init_std / depth), nn::Bias::kNone, part);
}

}  // namespace rookery
