// goldfinch_test.cpp: GoldFinch token by token: whatever mixture of prompts and single tokens is read, logits
// are those of one pass over the whole text, and a prompt never sees a GOLD block.
#include "trainer/models/goldfinch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/base/rng.h"
#include "parallel/shard/param_store.h"
#include "tests/support/process.h"
#include "trainer/eval/generator.h"

namespace rookery {
namespace {

struct Built {
  Device device{DeviceType::kCpu, 2};
  std::unique_ptr<Model> model;
  std::unique_ptr<ParamStore> store;

  explicit Built(GoldFinchConfig c, int64_t vocab_size = 50) {
    c.vocab_size = vocab_size;
    c.hidden_size = 32;
    c.head_size = 16;
    c.ffn_size = 32;
    model = make_goldfinch(c);
    store = std::make_unique<ParamStore>(model->parameters.all(), DType::kF64, device);
    model->parameters.initialize(1);
    // Fresh weights hold zeros that hide whole branches.
    for (Parameter* p : store->parameters()) {
      const Philox random(2, stream_of(p->name));
      for (int64_t i = 0; i < p->global.numel(); ++i)
        p->master.data<double>()[i] += 0.3 * random.normal(static_cast<uint64_t>(i));
    }
  }

  Tensor ids(int64_t rows, int64_t begin, int64_t end) {
    const Philox random(3, stream_of("text"));
    std::vector<int32_t> tokens;
    for (int64_t b = 0; b < rows; ++b)
      for (int64_t t = begin; t < end; ++t)
        tokens.push_back(static_cast<int32_t>(random.uniform(static_cast<uint64_t>(1000 * b + t)) * 50));
    return tensor_from(std::span<const int32_t>(tokens), {rows, end - begin}, DType::kI32, device);
  }

  // Logits of tokens [begin, end) of each row, by one pass over tokens [0, end).
  std::vector<double> parallel(int64_t rows, int64_t begin, int64_t end) {
    nn::SeqContext seq;
    nn::Context cx{nullptr, seq};
    return to_doubles(nn::tokens_of(model->logits(cx, ids(rows, 0, end)).value(), begin, end - begin));
  }
};

// One call: `count` tokens, as a prompt or for their logits.
struct Step {
  bool prompt;
  int64_t count;
};

void expect_same_logits(const GoldFinchConfig& config, const std::vector<Step>& steps, int64_t rows = 1) {
  Built b(config);
  nn::SeqContext seq;
  seq.carry = true;
  nn::Context cx{nullptr, seq};
  int64_t at = 0;
  for (const Step& step : steps) {
    const Tensor ids = b.ids(rows, at, at + step.count);
    at += step.count;
    if (step.prompt) {
      b.model->prefill(cx, ids);
      continue;
    }
    const std::vector<double> got = to_doubles(b.model->logits(cx, ids).value());
    const std::vector<double> expected = b.parallel(rows, at - step.count, at);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-10) << "token " << at;
  }
}

std::vector<int32_t> to_ints(const Tensor& ids) {
  return {ids.data<int32_t>(), ids.data<int32_t>() + ids.numel()};
}

GoldFinchConfig goldfinch(int64_t layers, int64_t ratio) {
  GoldFinchConfig c;
  c.num_layers = layers;
  c.inv_other_layer_ratio = ratio;
  return c;
}

const std::vector<std::vector<Step>> kReadings = {
    {{true, 20}, {false, 1}, {false, 1}, {false, 1}},                       // a prompt, then token by token
    {{true, 1}, {true, 1}, {true, 9}, {true, 2}, {false, 1}},               // in pieces
    {{true, 3}, {false, 1}, {true, 2}, {false, 1}, {true, 5}, {false, 2}},  // prompts shorter than the window
    {{false, 5}, {true, 1}, {false, 1}, {true, 17}, {false, 3}},            // several tokens on what is there
};

TEST(GoldFinch, PromptsAndTokensGiveTheLogitsOfOnePass) {
  for (const auto& [layers, ratio] :
       {std::pair<int64_t, int64_t>{3, 3}, {4, 2}, {6, 2}, {2, 1}})  // 1, 2, 3, 2 GOLD
    for (const auto& steps : kReadings) {
      SCOPED_TRACE(str(layers, " layers, one part in ", ratio));
      expect_same_logits(goldfinch(layers, ratio), steps);
    }
}

// More tokens than the keys of one part are made of.
TEST(GoldFinch, LongTexts) {
  GoldFinchConfig c = goldfinch(3, 3);
  for (const double theta : {0.0, 10000.0}) {
    c.rotary.theta = theta;
    expect_same_logits(c, {{true, 1100}, {false, 1}, {false, 1030}, {false, 1}});
  }
}

TEST(GoldFinch, WithPositionsAndSeveralRows) {
  GoldFinchConfig c = goldfinch(4, 2);
  c.rotary = {10000, 1};
  for (const auto& steps : kReadings) expect_same_logits(c, steps, 2);
  c.rotary = {10000, 4};
  c.kv_cache_compression_ratio = 1;
  expect_same_logits(c, kReadings[0]);
}

TEST(GoldFinch, GptAlphaAboveReadsTheSameWay) {
  for (const double theta : {0.0, 10000.0})
    for (const auto& [layers, ratio] : {std::pair<int64_t, int64_t>{3, 3}, {2, 1}}) {
      GoldFinchConfig c = goldfinch(layers, ratio);
      c.upper_blocks = "gptalpha";
      c.rotary.theta = theta;
      expect_same_logits(c, kReadings[2]);
      expect_same_logits(c, kReadings[3], 2);
    }
}

// Distances change, and nothing else.
TEST(GoldFinch, RescalingChangesDistances) {
  GoldFinchConfig c = goldfinch(3, 3);
  c.rotary = {10000, 1};
  Built plain(c);
  c.rotary.rescale = 2;
  Built stretched(c);
  const auto a = plain.parallel(1, 0, 9), b = stretched.parallel(1, 0, 9);
  double far = 0, first = 0;
  for (size_t i = 0; i < a.size(); ++i)
    (i < 50 ? first : far) = std::max(i < 50 ? first : far, std::abs(a[i] - b[i]));
  EXPECT_LT(first, 1e-12);  // a token alone has no distances
  EXPECT_GT(far, 1e-3);
}

// Texts packed into rows and read in pieces, some of which start texts: logits are those of one pass that
// packs them all.
TEST(GoldFinch, PackedTextsInPieces) {
  constexpr int64_t kRows = 2, kTokens = 40;
  std::vector<uint8_t> starts(kRows * kTokens, 0);
  for (const int64_t at : {5, 6, 21, 33, 40 + 12, 40 + 39}) starts[at] = 1;
  for (const char* upper : {"gold", "gptalpha"})
    for (const double theta : {0.0, 10000.0})
      // The second reads a prompt, which starts texts, in the end one that does not.
      for (const auto& steps : std::vector<std::vector<Step>>{
               {{false, 5}, {false, 1}, {false, 14}, {false, 1}, {false, 1}, {false, 18}},
               {{true, 11}, {false, 2}, {true, 14}, {true, 5}, {false, 8}}}) {
        GoldFinchConfig c = goldfinch(4, 2);
        c.upper_blocks = upper;
        c.rotary.theta = theta;
        Built b(c);
        auto starts_of = [&](int64_t begin, int64_t end) {
          std::vector<uint8_t> some;
          for (int64_t row = 0; row < kRows; ++row)
            some.insert(some.end(), starts.begin() + row * kTokens + begin,
                        starts.begin() + row * kTokens + end);
          const bool any = std::count(some.begin(), some.end(), 1) > 0;
          return any ? tensor_from(std::span<const uint8_t>(some), {kRows, end - begin}, DType::kU8, b.device)
                     : Tensor();
        };
        nn::SeqContext once, seq;
        nn::Context at_once{nullptr, once}, cx{nullptr, seq};
        once.doc_start = starts_of(0, kTokens);
        const Tensor whole = b.model->logits(at_once, b.ids(kRows, 0, kTokens)).value();
        seq.carry = true;
        int64_t at = 0;
        for (const Step& step : steps) {
          SCOPED_TRACE(str(upper, " theta ", theta, " token ", at));
          const Tensor ids = b.ids(kRows, at, at + step.count);
          seq.doc_start = starts_of(at, at + step.count);
          if (step.prompt) {
            b.model->prefill(cx, ids);
          } else {
            const std::vector<double> got = to_doubles(b.model->logits(cx, ids).value()),
                                      expected = to_doubles(nn::tokens_of(whole, at, step.count));
            for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-10);
          }
          at += step.count;
        }
        ASSERT_EQ(at, kTokens);
      }
}

// The generator's way: a prompt, its state on disk, and on from there.
TEST(GoldFinch, SavedStates) {
  const test::TempDir dir;
  Built b(goldfinch(4, 2));
  const std::vector<int32_t> text = to_ints(b.ids(1, 0, 40));
  const std::span<const int32_t> all(text);
  eval::Generator first(*b.model, b.device), second(*b.model, b.device);
  first.feed(all.first(30));
  first.save_state(dir.path() / "state.h5", "weights");
  second.load_state(dir.path() / "state.h5", "weights");
  EXPECT_EQ(second.logits(), first.logits());
  first.feed(all.subspan(30));
  second.feed(all.subspan(30));
  EXPECT_EQ(second.logits(), first.logits());
  const std::vector<double> expected = b.parallel(1, 39, 40);
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(first.logits()[i], expected[i], 1e-10);
}

// Ids of the file index the embedding.
TEST(GoldFinch, SavedIdsAreChecked) {
  const test::TempDir dir;
  Built b(goldfinch(3, 3)), fewer(goldfinch(3, 3), 20);
  const std::vector<int32_t> text = to_ints(b.ids(1, 0, 40));
  ASSERT_GE(*std::max_element(text.begin(), text.end()), 20);
  eval::Generator generator(*b.model, b.device), other(*fewer.model, fewer.device);
  generator.feed(text);
  generator.save_state(dir.path() / "state.h5", "weights");
  try {
    other.load_state(dir.path() / "state.h5", "weights");
    FAIL() << "loaded";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("gold.ids"), std::string::npos) << e.what();
  }
}

TEST(GoldFinch, PromptsLeaveIdsAndTheCompressedCacheAlone) {
  Built b(goldfinch(6, 3));  // 4 Finch-C2, 2 GOLD
  nn::SeqContext seq;
  seq.carry = true;
  nn::Context cx{nullptr, seq};
  for (int64_t i = 0; i < 3; ++i) b.model->prefill(cx, b.ids(1, 50 * i, 50 * (i + 1)));
  for (const char* part : {"att", "ffn"})
    for (const int64_t block : {4, 5})
      EXPECT_EQ(seq.states().count(str("blocks.", block, ".", part, ".shift")), 0u);
  ASSERT_EQ(seq.histories().size(), 2u);
  EXPECT_EQ(seq.histories().at("gold.ids").length, 150);
  EXPECT_EQ(seq.histories().at("gold.cache").rows.dim(2), 2);             // 32 / 16 numbers a token
  EXPECT_EQ(seq.states().at("gold.pending").shape(), (Shape{1, 4, 32}));  // 2 tokens for each GOLD block
  b.model->logits(cx, b.ids(1, 150, 151));
  EXPECT_EQ(seq.states().count("gold.pending"), 0u);
}

}  // namespace
}  // namespace rookery
