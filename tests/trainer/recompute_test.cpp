// recompute_test.cpp: every model with recompute none, selective and block: the same losses, gradients,
// states and order of leaves to the bit, on the CPU and with the kernels of the GPU; less memory, as
// foretold.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "kernels/base/rng.h"
#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "tests/golden/models.h"

namespace rookery::test {
namespace {

constexpr int64_t kVocab = 37;
using Values = std::vector<double>;

nlohmann::json sizes(const std::string& name, int64_t layers) {
  if (name.starts_with("hf"))
    return {{"num_hidden_layers", layers},
            {"hidden_size", 32},
            {"num_attention_heads", 4},
            {"num_key_value_heads", 2},
            {"head_dim", 8},
            {"intermediate_size", 64},
            {"vocab_size", kVocab},
            {"rms_norm_eps", 1e-5},
            {"rope_theta", 1e4},
            {"tie_word_embeddings", name == "hfqwen2"}};
  return {{"n_layer", layers},
          {"n_embd", 32},
          {"head_size", 16},
          {"vocab_size", kVocab},
          {"inv_other_layer_ratio", 2},
          {"rope", 1e4},
          {"tmix2", name == "finchc2_gptalpha" ? "gptalpha" : "gold"}};
}

// A model with random values in every parameter: with the published initial ones a block does nothing.
struct Trained {
  Device& device;
  std::unique_ptr<Model> model;

  Trained(const std::string& name, int64_t layers, Device& on, DType dtype, Recompute recompute)
      : device(on), model(build(name, sizes(name, layers))) {
    model->recompute = recompute;
    for (Parameter* p : model->parameters.all()) {
      const Philox random(3, stream_of(p->name));
      Values values(static_cast<size_t>(p->global.numel()));
      for (size_t i = 0; i < values.size(); ++i) values[i] = random.uniform(i) - 0.5;
      p->master = tensor_from(std::span<const double>(values), p->global, dtype, device);
      p->grad = empty(p->global, dtype == DType::kBF16 ? DType::kF32 : dtype, device);
    }
  }

  Tensor ids(int64_t B, int64_t T, int64_t first) const {
    std::vector<int32_t> values;
    for (int64_t i = 0; i < B * T; ++i) values.push_back(static_cast<int32_t>((i * i + 7 * first) % kVocab));
    return tensor_from(std::span<const int32_t>(values), {B, T}, DType::kI32, device);
  }
  Tensor doc_start(int64_t B, int64_t T) const {
    std::vector<uint8_t> values(static_cast<size_t>(B * T), 0);
    values[5] = values[static_cast<size_t>(B * T - 20)] = 1;
    return tensor_from(std::span<const uint8_t>(values), {B, T}, DType::kU8, device);
  }
  Var loss(nn::Context& cx, const Tensor& x, int64_t first) {
    return ops::linear_cross_entropy(model->hidden(cx, x), cx(model->head()), ids(x.dim(0), x.dim(1), first),
                                     {}, {2.0 * static_cast<double>(x.numel()), 1e-4})
        .loss;
  }
};

struct Step {
  Values losses;
  std::vector<std::string> order;
  std::map<std::string, Values> gradients;
};
bool operator==(const Step& a, const Step& b) {
  return a.losses == b.losses && a.order == b.order && a.gradients == b.gradients;
}

// Two micro-batches of B sequences, the second of several documents. T is beyond a saved state of the GPU's
// recurrences.
Step step(Trained& t, int64_t B) {
  constexpr int64_t T = 70;
  Step seen;
  t.device.arena().begin_step("train");
  for (Parameter* p : t.model->parameters.all()) p->grad_written = false;
  for (const bool documents : {false, true}) {
    Tape tape;
    tape.on_leaf_ready([&](Parameter& p) { seen.order.push_back(p.name); });
    nn::SeqContext seq;
    if (documents) seq.doc_start = t.doc_start(B, T);
    nn::Context cx{&tape, seq};
    const Var loss = t.loss(cx, t.ids(B, T, documents), 2);
    tape.backward(loss);
    seen.losses.push_back(to_doubles(loss.value())[0]);
  }
  t.device.arena().end_step();
  for (Parameter* p : t.model->parameters.all())
    if (p->grad_written) seen.gradients[p->name] = to_doubles(p->grad);
  return seen;
}

class RecomputeTest : public ::testing::TestWithParam<std::string> {
 protected:
  // Emulation takes a hundred times the time: one block of GoldFinch of each kind there, one sequence, no
  // replay.
  void compare(DeviceType type, DType dtype) {
    const int64_t layers = type == DeviceType::kCpu ? 4 : 2, B = layers / 2;
    SCOPED_TRACE(str(type, " ", dtype));
    Step plain;
    size_t memory = 0;
    for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kBlock}) {
      SCOPED_TRACE(static_cast<int>(recompute));
      Device device(type, 2), meta(DeviceType::kMeta, 2);
      meta.plans_for = type;
      Trained trained(GetParam(), layers, device, dtype, recompute);
      Trained planned(GetParam(), layers, meta, dtype, recompute);
      device.arena().on_replan = [](const std::string& why) { ADD_FAILURE() << why; };
      const Step first = step(trained, B);
      if (recompute == Recompute::kNone) plain = first;
      EXPECT_TRUE(first == plain);
      if (type == DeviceType::kCpu) {
        EXPECT_TRUE(step(trained, B) == first) << "replayed";
      }
      step(planned, B);
      const Arena::Plan &found = *device.arena().plan("train"), &foretold = *meta.arena().plan("train");
      EXPECT_EQ(foretold.requests, found.requests);
      EXPECT_EQ(foretold.slab_bytes, found.slab_bytes);
      if (recompute == Recompute::kNone) {
        memory = found.peak_bytes;
      } else {
        EXPECT_LT(found.peak_bytes, memory);
      }
    }
    for (const double loss : plain.losses) EXPECT_TRUE(std::isfinite(loss));
    EXPECT_GT(plain.gradients.size(), 20U);
  }
};

TEST_P(RecomputeTest, ChangesNoBit) {
  compare(DeviceType::kCpu, DType::kF32);
  compare(DeviceType::kCpu, DType::kF64);
}

#ifdef ROOKERY_HAVE_EMUL
TEST_P(RecomputeTest, ChangesNoBitOfTheKernelsOfTheGpu) {
  compare(DeviceType::kEmul, DType::kF32);
  compare(DeviceType::kEmul, DType::kBF16);
}
#endif

INSTANTIATE_TEST_SUITE_P(Models, RecomputeTest,
                         ::testing::Values("rwkv5", "rwkv6", "rwkv7", "hfllama", "hfqwen2", "finchc2",
                                           "finchc2_gptalpha", "goldfinch", "gfllama"),
                         [](const auto& tested) { return tested.param; });

// Two chunks of a text, the first from a learned state: what each leaves for the next is left once.
TEST(RecomputeStates, CarriedAndLearnedOnesAreAsWithout) {
  for (const char* name : {"rwkv5", "rwkv6", "rwkv7", "finchc2"}) {
    SCOPED_TRACE(name);
    Device device(DeviceType::kCpu, 2);
    std::vector<Values> plain;
    for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kBlock}) {
      Trained t(name, 2, device, DType::kF32, recompute);
      const std::string learned = "blocks.1.att.wkv";
      std::vector<Values> seen;
      nn::SeqContext seq;
      seq.carry = true;
      for (const int64_t chunk : {0, 1}) {
        Tape tape;
        nn::Context cx{&tape, seq};
        Var start;
        if (chunk == 0) {
          start = tape.watch(tensor_from(std::span<const double>(Values(2 * 2 * 16 * 16, 0.01)),
                                         {2, 2, 16, 16}, DType::kF32, device));
          seq.set(learned, start);
        }
        const Var loss = t.loss(cx, t.ids(2, 19, chunk), 1);
        const auto left = [&] {
          std::map<std::string, Values> all;
          for (const auto& [slot, state] : seq.states()) all[slot] = to_doubles(state.value());
          return all;
        };
        const auto before = left();
        EXPECT_EQ(before.size(), 3U * 2U);
        tape.backward(loss);
        EXPECT_EQ(left(), before) << "the backward pass left states";
        seen.push_back(to_doubles(loss.value()));
        for (const auto& [slot, state] : before) seen.push_back(state);
        if (chunk == 0) seen.push_back(to_doubles(tape.grad(start)));
        for (Parameter* p : t.model->parameters.all())
          if (p->grad_written) seen.push_back(to_doubles(p->grad));
      }
      if (recompute == Recompute::kNone) plain = seen;
      EXPECT_EQ(seen, plain) << static_cast<int>(recompute);
    }
  }
}

}  // namespace
}  // namespace rookery::test
