// finch_c2.cpp: Finch-C2 (arXiv 2407.12077): all blocks recurrent. Its time mixing: goldfinch_parts.cpp.
#include "trainer/models/finch_c2.h"

namespace rookery {
namespace {

class FinchC2 : public RwkvStack {
 public:
  FinchC2(const GoldFinchSizes& c, const nn::Part& part)
      : RwkvStack(part, c.num_layers, c.hidden_size, c.vocab_size,
                  [&](const nn::Scope& s, const LayerInit& init) {
                    return goldfinch_block<FinchC2TimeMix>(s, c, init);
                  }),
        flops_(static_cast<double>(c.num_layers) * c.recurrent_flops()) {}
  OptimGroup optim_group(const Parameter& p) const override { return goldfinch_group(p); }
  double mixer_flops_per_token(int64_t) const override { return flops_; }

 private:
  double flops_;
};

}  // namespace

std::unique_ptr<Model> make_finch_c2(const FinchC2Config& config, const nn::Part& part) {
  GoldFinchSizes c = config;
  c.resolve();
  return std::make_unique<FinchC2>(c, part);
}

}  // namespace rookery
