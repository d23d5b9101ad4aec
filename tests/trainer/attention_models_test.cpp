// attention_models_test.cpp: the models with attention (Llama, Qwen2, the GoldFinch paper's Llama): a text
// fed in pieces gives what it gives at once, packed documents what they give alone, saved states go on. Their
// parameter counts: plan_test.cpp.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <functional>

#include "data/hdf5/hdf5.h"
#include "kernels/base/rng.h"
#include "parallel/shard/param_store.h"
#include "trainer/eval/generator.h"
#include "trainer/models/llama.h"
#include "trainer/models/llama_paper.h"
#include "trainer/models/qwen2.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;
namespace h5 = data::h5;
using Values = std::vector<double>;

constexpr int64_t kVocab = 50;

std::unique_ptr<Model> small_llama() {
  LlamaConfig c;
  c.num_layers = 2, c.hidden_size = 24, c.num_heads = 4, c.num_kv_heads = 2, c.ffn_size = 40,
  c.vocab_size = kVocab;
  c.rope_scaling.type = "llama3", c.rope_scaling.factor = 8, c.rope_scaling.original_context = 64;
  return make_llama(c);
}
std::unique_ptr<Model> small_qwen2() {
  Qwen2Config c;
  c.num_layers = 2, c.hidden_size = 24, c.num_heads = 3, c.num_kv_heads = 1, c.ffn_size = 40,
  c.vocab_size = kVocab;
  return make_qwen2(c);
}
std::unique_ptr<Model> small_llama_paper() {
  LlamaPaperConfig c;
  c.num_layers = 2, c.hidden_size = 24, c.head_size = 8, c.vocab_size = kVocab;
  return make_llama_paper(c);
}
const std::vector<std::pair<std::string, std::function<std::unique_ptr<Model>()>>> kModels = {
    {"llama", small_llama}, {"qwen2", small_qwen2}, {"llama_paper", small_llama_paper}};

// With weights that nothing about the initial values makes special.
struct Loaded {
  Device device{DeviceType::kCpu, 2};
  std::unique_ptr<Model> model;
  std::unique_ptr<ParamStore> store;

  explicit Loaded(std::unique_ptr<Model> m)
      : model(std::move(m)),
        store(std::make_unique<ParamStore>(model->parameters.all(), DType::kF64, device)) {
    for (Parameter* p : store->parameters()) {
      const Philox random(5, stream_of(p->name));
      const bool norm = p->global.size() == 1 && p->name.ends_with(".weight");
      for (int64_t i = 0; i < p->global.numel(); ++i)
        p->master.data<double>()[i] = (norm ? 1 : 0) + 0.3 * random.normal(i);
    }
  }
  // Logits [T, V] of one row.
  Values logits(nn::SeqContext& seq, std::span<const int32_t> ids) {
    nn::Context cx{nullptr, seq};
    return to_doubles(
        model->logits(cx, tensor_from(ids, {1, static_cast<int64_t>(ids.size())}, DType::kI32, device))
            .value());
  }
};

std::vector<int32_t> random_ids(int64_t count) {
  const Philox random(9, 1);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(random.bits(i) % kVocab));
  return ids;
}

double worst(const Values& a, const Values& b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference = std::max(difference, std::abs(a[i] - b[i]));
    size = std::max(size, std::abs(b[i]));
  }
  return difference / size;
}

TEST(AttentionModels, PiecesOfATextGiveWhatTheWholeGives) {
  const std::vector<int32_t> ids = random_ids(150);
  for (const auto& [name, make] : kModels) {
    Loaded l(make());
    nn::SeqContext once;
    const Values whole = l.logits(once, ids);
    EXPECT_TRUE(once.histories().empty());
    for (const std::vector<size_t>& pieces : {std::vector<size_t>(150, 1), {100, 1, 1, 40, 8}, {3, 147}}) {
      nn::SeqContext seq;
      seq.carry = true;
      Values all;
      std::span<const int32_t> rest = ids;
      for (const size_t n : pieces) {
        const Values part = l.logits(seq, rest.first(n));
        all.insert(all.end(), part.begin(), part.end());
        rest = rest.subspan(n);
      }
      EXPECT_LE(worst(all, whole), 1e-9) << name << " in " << pieces.size();
    }
  }
}

TEST(AttentionModels, PackedDocumentsAreAsAlone) {
  const std::vector<int32_t> ids = random_ids(110);
  const std::vector<size_t> lengths = {30, 1, 64, 15};
  for (const auto& [name, make] : kModels) {
    Loaded l(make());
    nn::SeqContext packed;
    std::vector<uint8_t> starts(ids.size());
    Values alone;
    size_t at = 0;
    for (const size_t n : lengths) {
      starts[at] = 1;
      nn::SeqContext seq;
      const Values part = l.logits(seq, std::span(ids).subspan(at, n));
      alone.insert(alone.end(), part.begin(), part.end());
      at += n;
    }
    auto starts_of = [&](size_t begin, size_t count) {
      return tensor_from(std::span<const uint8_t>(starts).subspan(begin, count),
                         {1, static_cast<int64_t>(count)}, DType::kU8, l.device);
    };
    packed.doc_start = starts_of(0, 110);
    EXPECT_LE(worst(l.logits(packed, ids), alone), 1e-9) << name;
    nn::SeqContext pieces;  // which see where earlier ones started a text
    pieces.carry = true;
    Values all;
    for (size_t begin = 0; begin < ids.size(); begin += 10) {
      pieces.doc_start = starts_of(begin, 10);
      const Values part = l.logits(pieces, std::span(ids).subspan(begin, 10));
      all.insert(all.end(), part.begin(), part.end());
    }
    EXPECT_LE(worst(all, alone), 1e-9) << name << " in pieces";
  }
}

// Several rows that go on from their own past; and a pass that sees the past without adding to it.
TEST(AttentionModels, RowsKeepTheirOwnPast) {
  Loaded l(small_llama());
  const std::vector<int32_t> ids = random_ids(60);
  auto rows = [&](nn::SeqContext& seq, int64_t begin, int64_t count) {
    nn::Context cx{nullptr, seq};
    std::vector<int32_t> both(ids.begin() + begin, ids.begin() + begin + count);
    both.insert(both.end(), ids.begin() + 30 + begin, ids.begin() + 30 + begin + count);
    return to_doubles(
        l.model->logits(cx, tensor_from(std::span<const int32_t>(both), {2, count}, DType::kI32, l.device))
            .value());
  };
  nn::SeqContext once, seq;
  const Values whole = rows(once, 0, 30);
  seq.carry = true;
  for (int64_t t = 0; t < 29; ++t) rows(seq, t, 1);
  seq.carry = false;
  const Values last = rows(seq, 29, 1), again = rows(seq, 29, 1);
  EXPECT_EQ(last, again);
  Values expected(whole.begin() + 29 * kVocab, whole.begin() + 30 * kVocab);
  expected.insert(expected.end(), whole.begin() + 59 * kVocab, whole.end());
  EXPECT_LE(worst(last, expected), 1e-9);
}

TEST(AttentionModels, ATokenDoesNotCopyThePast) {
  Loaded l(small_qwen2());
  const std::vector<int32_t> ids = random_ids(300);
  nn::SeqContext seq;
  seq.carry = true;
  int moves = 0;
  const std::byte* before = nullptr;
  for (const int32_t id : ids) {
    l.logits(seq, std::span(&id, 1));
    const auto& keys = seq.histories().at("model.layers.0.self_attn.k");
    moves += keys.rows.raw() != before;
    before = keys.rows.raw();
  }
  const auto& keys = seq.histories().at("model.layers.0.self_attn.k");
  EXPECT_EQ(keys.length, 300);
  EXPECT_EQ(keys.rows.dim(1), 512);
  EXPECT_LE(moves, 10);  // 1, 2, 4, .. 512
  EXPECT_EQ(seq.histories().size(), 4u);
}

class SavedStates : public testing::Test {
 protected:
  SavedStates() {
    fs::create_directories(folder_);
    first_.feed(random_ids(300));
    first_.save_state(path("state.h5"), "weights");
  }
  ~SavedStates() override { fs::remove_all(folder_); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  // The saved state with one history cut to `length` tokens of `heads` heads.
  std::string altered(uint64_t length, uint64_t heads) {
    const h5::Reader from(path("state.h5"));
    h5::Writer to(path("altered.h5"), "state");
    for (const char* key : {"format", "weights"}) to.attribute("/", key, from.text("/", key));
    to.attribute("/", "format_version", uint32_t{1});
    for (const auto& [name, info] : from.datasets()) {
      h5::Shape shape = info.shape;
      if (name.ends_with(".1.self_attn.v")) shape[0] = length, shape[1] = heads;
      uint64_t numel = 1;
      for (const uint64_t d : shape) numel *= d;
      to.dataset(name, info.type, shape, std::vector<std::byte>(numel * h5::size_of(info.type)));
    }
    to.close();
    return path("altered.h5");
  }

  fs::path folder_ = fs::temp_directory_path() / str("rookery-attention-", getpid());
  Loaded l_{small_llama()};
  eval::Generator first_{*l_.model, l_.device};
};

TEST_F(SavedStates, GoOnAsIfNothingHadBeen) {
  eval::Generator second(*l_.model, l_.device);
  second.load_state(path("state.h5"), "weights");
  EXPECT_EQ(second.logits(), first_.logits());
  const std::vector<int32_t> more = random_ids(40);
  for (const int32_t id : more) {
    first_.feed(std::span(&id, 1));
    second.feed(std::span(&id, 1));
    EXPECT_LE(worst(second.logits(), first_.logits()), 1e-12);
  }
  second.load_state(path("state.h5"), "weights");  // replaces what was read since
  first_.load_state(path("state.h5"), "weights");
  EXPECT_EQ(second.logits(), first_.logits());
}

TEST_F(SavedStates, OtherShapesAreRefused) {
  eval::Generator second(*l_.model, l_.device);
  EXPECT_NO_THROW(second.load_state(altered(300, 2), "weights"));
  for (const auto& [length, heads] : std::vector<std::pair<uint64_t, uint64_t>>{{299, 2}, {0, 2}, {300, 3}}) {
    try {
      second.load_state(altered(length, heads), "weights");
      ADD_FAILURE() << length << " tokens, " << heads << " heads";
    } catch (const Error& e) {
      EXPECT_EQ(e.id(), "GEN-06") << e.what();
      EXPECT_NE(std::string(e.what()).find("model.layers.1.self_attn.v"), std::string::npos) << e.what();
    }
  }
}

// Scores and weighted values, a multiply-add each per key, head channel and layer: 2 FLOPs.
TEST(AttentionModels, FlopsOfAttentionAreThoseOfTheMeanToken) {
  double sum = 0;
  const int64_t T = 37, layers = 2, width = 24;
  for (int64_t t = 0; t < T; ++t) sum += static_cast<double>(2 * 2 * (t + 1) * width * layers);
  for (const auto& [name, make] : kModels)
    EXPECT_DOUBLE_EQ(make()->mixer_flops_per_token(T), sum / static_cast<double>(T)) << name;
}

// Initial values of llama-baseline 1 and 2.
TEST(AttentionModels, InitialValues) {
  LlamaConfig c;
  c.num_layers = 2, c.hidden_size = 64, c.num_heads = 4, c.ffn_size = 128, c.vocab_size = 200;
  c.scale_residual_init = true;
  const auto model = make_llama(c);
  Device device(DeviceType::kCpu, 1);
  ParamStore store(model->parameters.all(), DType::kF32, device);
  model->parameters.initialize(3);
  for (const Parameter* p : store.parameters()) {
    const Values x = to_doubles(p->master);
    double squares = 0;
    for (const double v : x) squares += v * v;
    const double deviation = std::sqrt(squares / static_cast<double>(x.size()));
    if (p->global.size() == 1) {
      EXPECT_EQ(x, Values(64, 1.0)) << p->name;
    } else {
      const bool output = p->name.ends_with("o_proj.weight") || p->name.ends_with("down_proj.weight");
      const double expected = output ? 0.02 / 2 : 0.02;  // sqrt(2 x 2 layers)
      EXPECT_NEAR(deviation / expected, 1, 0.06) << p->name;
    }
    EXPECT_EQ(model->optim_group(*p).decay, p->global.size() == 2) << p->name;
  }
}

}  // namespace
}  // namespace rookery
