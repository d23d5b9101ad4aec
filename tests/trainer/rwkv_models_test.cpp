// rwkv_models_test.cpp: Eagle, Finch and Goose beyond the golden files: published parameter counts and ranks,
// and token by token against all tokens at once.
#include <gtest/gtest.h>

#include <array>
#include <tuple>

#include "parallel/shard/param_store.h"
#include "trainer/models/rwkv5.h"
#include "trainer/models/rwkv6.h"
#include "trainer/models/rwkv7.h"

namespace rookery {
namespace {

int64_t count(Model& model, bool with_unused = false) {
  int64_t sum = 0;
  for (const Parameter* p : model.parameters.all())
    if (with_unused || !model.is_unused(*p)) sum += p->global.numel();
  return sum;
}

template <class Config>
Config sized(int64_t layers, int64_t width, int64_t vocab) {
  Config c;
  c.num_layers = layers;
  c.hidden_size = width;
  c.vocab_size = vocab;
  return c;
}

TEST(Eagle, PublishedParameterCounts) {
  for (const auto& [layers, width, parameters] : std::vector<std::array<int64_t, 3>>{{12, 768, 192807936},
                                                                                     {24, 1024, 461721600},
                                                                                     {24, 2048, 1577754624},
                                                                                     {32, 2560, 3062999040},
                                                                                     {32, 4096, 7518044160}})
    EXPECT_EQ(count(*make_rwkv5(sized<Rwkv5Config>(layers, width, 65536))), parameters);
}

TEST(Goose, PublishedParameterCounts) {
  struct Published {
    int64_t layers, width, vocab, parameters;
    std::array<int64_t, 4> ranks;  // decay, iclr, value, gate; 0: rule A
  };
  for (const Published& p : std::vector<Published>{{12, 768, 65536, 191034624, {}},
                                                   {24, 1024, 65536, 450767872, {64, 64, 32, 128}},
                                                   {24, 2048, 65536, 1527404544, {}},
                                                   {32, 2560, 65536, 2947735040, {}},
                                                   {32, 4096, 65536, 7199141888, {}},
                                                   {61, 4096, 65536, 13269245952, {192, 192, 128, 384}},
                                                   {12, 768, 50304, 167638272, {}},
                                                   {24, 1024, 50304, 421080064, {64, 64, 64, 128}},
                                                   {24, 2048, 50304, 1465014272, {}}}) {
    auto c = sized<Rwkv7Config>(p.layers, p.width, p.vocab);
    c.rank_rule = "A";
    c.decay_rank = p.ranks[0], c.iclr_rank = p.ranks[1], c.value_rank = p.ranks[2], c.gate_rank = p.ranks[3];
    EXPECT_EQ(count(*make_rwkv7(c)), p.parameters);
  }
  // As the published trainer prints it, with the tensors of layer 0 that it does not use.
  EXPECT_EQ(count(*make_rwkv7(sized<Rwkv7Config>(12, 768, 65536)), true), 191084544);
}

// Table of rwkv7-goose 7.
TEST(Goose, RanksByRule) {
  const std::vector<std::tuple<int64_t, std::array<int64_t, 4>, std::array<int64_t, 4>>> table = {
      {768, {64, 64, 32, 128}, {64, 64, 32, 128}},
      {1024, {64, 64, 32, 160}, {64, 64, 64, 160}},
      {2048, {96, 96, 64, 256}, {128, 128, 64, 224}},
      {2560, {96, 96, 64, 320}, {128, 128, 96, 256}},
      {4096, {128, 128, 96, 480}, {160, 160, 96, 320}}};
  for (const auto& [width, a, b] : table)
    for (const auto& [rule, ranks] : {std::pair("A", a), {"B", b}}) {
      auto c = sized<Rwkv7Config>(1, width, 100);
      c.rank_rule = rule;
      c = c.resolved();
      EXPECT_EQ((std::array{c.decay_rank, c.iclr_rank, c.value_rank, c.gate_rank}), ranks) << rule << width;
    }
}

// Random values in every parameter: the published initial ones make each block a no-op.
void fill_randomly(Model& model) {
  for (Parameter* p : model.parameters.all()) {
    const Philox random(3, stream_of(p->name));
    for (int64_t i = 0; i < p->master.numel(); ++i) p->master.data<double>()[i] = random.uniform(i) - 0.5;
  }
}

template <class Config>
Config small() {
  auto c = sized<Config>(3, 64, 50);
  c.head_size = 16;
  c.num_heads = 3;  // the time mixing may be narrower than the model
  return c;
}

template <class Config>
void expect_recurrent_equals_parallel(std::unique_ptr<Model> (*make)(const Config&, const nn::Part&)) {
  Device device(DeviceType::kCpu, 2);
  const std::unique_ptr<Model> owned = make(small<Config>(), {});
  Model& model = *owned;
  ParamStore store(model.parameters.all(), DType::kF64, device);
  fill_randomly(model);
  constexpr int64_t B = 2, T = 19;
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < B * T; ++i) tokens.push_back(static_cast<int32_t>((7 * i + i * i) % 50));
  const auto logits = [&](nn::SeqContext& seq, int64_t begin, int64_t end) {
    std::vector<int32_t> ids;
    for (int64_t b = 0; b < B; ++b)
      ids.insert(ids.end(), tokens.begin() + b * T + begin, tokens.begin() + b * T + end);
    nn::Context cx{nullptr, seq};
    return to_doubles(
        model.logits(cx, tensor_from(std::span<const int32_t>(ids), {B, end - begin}, DType::kI32, device))
            .value());
  };
  nn::SeqContext whole, stepwise;
  const std::vector<double> expected = logits(whole, 0, T);
  stepwise.carry = true;
  for (int64_t begin = 0, end; begin < T; begin = end) {
    end = begin < 5 ? begin + 1 : T;  // single tokens, then the rest at once
    const std::vector<double> found = logits(stepwise, begin, end);
    const int64_t V = model.vocab_size();
    for (int64_t b = 0; b < B; ++b)
      for (int64_t i = 0; i < (end - begin) * V; ++i)
        ASSERT_NEAR(found[b * (end - begin) * V + i], expected[(b * T + begin) * V + i], 1e-10) << begin;
    int64_t kept = 0;  // per layer the last input of both mixings and a matrix per head, whatever the length
    for (const auto& [slot, state] : stepwise.states()) kept += state.value().numel();
    EXPECT_EQ(kept, B * model.num_blocks() * (2 * 64 + 3 * 16 * 16)) << begin;
  }
}

TEST(Eagle, TokenByTokenEqualsAllAtOnce) { expect_recurrent_equals_parallel(make_rwkv5); }
TEST(Finch, TokenByTokenEqualsAllAtOnce) { expect_recurrent_equals_parallel(make_rwkv6); }
TEST(Goose, TokenByTokenEqualsAllAtOnce) { expect_recurrent_equals_parallel(make_rwkv7); }

}  // namespace
}  // namespace rookery
