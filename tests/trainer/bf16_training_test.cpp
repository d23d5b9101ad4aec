// bf16_training_test.cpp: a small Finch learns the bytes of a real text as well with bf16 products as in
// fp32.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "kernels/ops/matmul/gemm.h"
#include "trainer/loop/session.h"
#include "trainer/models/registry.h"
#include "trainer/models/rwkv6.h"
#include "trainer/optim/adamw.h"

namespace rookery::test {
namespace {

constexpr int64_t kSteps = 120, kLast = 20, kRows = 8, kSeqLen = 64;

// The loss of each step, on windows that follow each other through the text.
std::vector<double> train(const std::string& precision, const std::vector<int32_t>& text) {
  register_models();
  config::RunConfig config;
  config.precision = precision;
  config.threads = 2;
  config.model.select("rwkv6");
  auto& model = dynamic_cast<Rwkv6Config&>(*config.model);
  model.num_layers = 2;
  model.hidden_size = 64;
  model.head_size = 32;
  model.vocab_size = 256;
  loop::Session s = loop::make_session(std::move(config));
  s.model->parameters.initialize(1);
  AdamW optim(*s.store, {}, [&](const Parameter& p) { return s.model->optim_group(p); });
  std::vector<double> losses;
  for (int64_t step = 0; step < kSteps; ++step) {
    std::vector<int32_t> in, out;
    for (int64_t row = 0; row < kRows; ++row)
      for (int64_t t = 0; t < kSeqLen; ++t) {
        const size_t at = static_cast<size_t>((step * kRows + row) * kSeqLen + t);
        in.push_back(text[at % text.size()]);
        out.push_back(text[(at + 1) % text.size()]);
      }
    auto tensor = [&](const std::vector<int32_t>& ids) {
      return tensor_from(std::span<const int32_t>(ids), {kRows, kSeqLen}, DType::kI32, *s.device);
    };
    s.device->arena().begin_step("train");
    s.store->begin_step();
    {
      Tape tape;
      nn::SeqContext seq;
      nn::Context cx{&tape, seq};
      const auto loss =
          ops::linear_cross_entropy(s.model->hidden(cx, tensor(in)), cx(s.model->head()), tensor(out), {},
                                    {static_cast<double>(kRows * kSeqLen), 1e-4});
      losses.push_back(to_doubles(loss.loss.value())[0]);
      tape.backward(loss.loss);
    }
    s.store->finish_reduction();
    optim.step(4e-3);
    s.device->arena().end_step();
  }
  return losses;
}

double mean_of_last(const std::vector<double>& losses) {
  double sum = 0;
  for (size_t i = losses.size() - kLast; i < losses.size(); ++i) sum += losses[i];
  return sum / kLast;
}

TEST(Bf16Training, LossIsWithinNoiseOfFp32) {
  if (!bf16_matmul_available()) GTEST_SKIP() << "no bf16 products on this processor or in this build";
  std::ifstream in("LICENSE", std::ios::binary);
  std::vector<int32_t> text;
  for (std::istreambuf_iterator<char> ch(in), end; ch != end; ++ch)
    text.push_back(static_cast<unsigned char>(*ch));
  ASSERT_GT(text.size(), 10000u);

  const std::vector<double> fp32 = train("fp32", text), bf16 = train("bf16", text);
  EXPECT_EQ(bf16, train("bf16", text)) << "other bits the second time";
  EXPECT_NE(bf16, fp32) << "the products were not in bf16";
  EXPECT_LT(mean_of_last(fp32), 0.6 * fp32[0]) << "the run is too short to compare anything";
  // Another seed moves the mean by up to 0.03, in either precision.
  EXPECT_NEAR(mean_of_last(bf16), mean_of_last(fp32), 0.05);
}

}  // namespace
}  // namespace rookery::test
