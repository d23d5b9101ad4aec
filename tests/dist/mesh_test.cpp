// mesh_test.cpp: five steps on every kind of mesh are those of one rank, for each architecture.
#include <algorithm>

#include "data/synthetic/mqar.h"
#include "tests/dist/mesh_run.h"
#include "trainer/loop/memory_plan.h"
#include "trainer/recipes/mqar.h"

namespace rookery {
namespace {

struct MeshCase {
  const char* mesh;
  int64_t world;
  int64_t fp32_seq_len = 16;
};

// "data2zero0".
std::string name_of(std::string_view mesh) {
  std::string name;
  for (const char ch : mesh)
    if (std::isalnum(static_cast<unsigned char>(ch))) name += ch;
  return name;
}

class MeshTraining : public testing::TestWithParam<MeshCase> {
 protected:
  static void SetUpTestSuite() {
    register_models();
    register_recipes();
    runs_ = std::make_unique<test::TinyRuns>();
  }
  static void TearDownTestSuite() { runs_.reset(); }
  static inline std::unique_ptr<test::TinyRuns> runs_;
  static inline std::map<std::string, test::MeshRun> one_rank_;  // by precision and architecture
};

TEST_P(MeshTraining, IsThatOfOneRank) {
  for (const auto& [precision, bound] : {std::pair{"fp64", 1e-10}, {"fp32", 1e-5}})
    for (const auto& [arch, model] : test::tiny_models()) {
      SCOPED_TRACE(str(arch, " ", precision));
      const int64_t seq_len = std::string(precision) == "fp32" ? GetParam().fp32_seq_len : 16;
      auto& one = one_rank_[str(precision, arch, seq_len)];
      if (one.losses.empty()) one = test::train_on_mesh(*runs_, model, precision, "{}", 1, seq_len);
      const auto many =
          test::train_on_mesh(*runs_, model, precision, GetParam().mesh, GetParam().world, seq_len);
      test::expect_same_run(one, many, bound);
    }
}

INSTANTIATE_TEST_SUITE_P(Zero, MeshTraining,
                         testing::Values(MeshCase{"{data: 2, zero: 0}", 2}, MeshCase{"{data: 2}", 2},
                                         MeshCase{"{data: 2, zero: 2}", 2}, MeshCase{"{data: 2, zero: 3}", 2},
                                         MeshCase{"{data: 4, zero: 0}", 4}, MeshCase{"{data: 4, zero: 1}", 4},
                                         MeshCase{"{data: 4, zero: 3}", 4}),
                         [](const auto& one) { return name_of(one.param.mesh); });
// In fp32 with shards of 16 tokens or more: where a recurrence is cut there, its rounding is that of one
// rank.
INSTANTIATE_TEST_SUITE_P(Sequence, MeshTraining,
                         testing::Values(MeshCase{"{seq: 2}", 2, 64}, MeshCase{"{seq: 4}", 4, 64},
                                         MeshCase{"{seq: 2, seq_method: scan}", 2, 64},
                                         MeshCase{"{seq: 4, seq_method: scan}", 4, 64},
                                         MeshCase{"{data: 2, seq: 2}", 4, 64}),
                         [](const auto& one) { return name_of(one.param.mesh); });

INSTANTIATE_TEST_SUITE_P(Tensor, MeshTraining,
                         testing::Values(MeshCase{"{tensor: 2}", 2}, MeshCase{"{tensor: 4}", 4},
                                         MeshCase{"{data: 2, tensor: 2, zero: 0}", 4},
                                         MeshCase{"{data: 2, tensor: 2}", 4},
                                         MeshCase{"{data: 2, tensor: 2, zero: 3}", 4},
                                         MeshCase{"{seq: 2, tensor: 2}", 4, 64},
                                         MeshCase{"{data: 2, seq: 2, tensor: 2}", 8, 64}),
                         [](const auto& one) { return name_of(one.param.mesh); });

// Where the configuration changes what is cut: grouped key heads, heads that do not fill the residual stream,
// an untied head, GPTAlpha blocks, the parts of Finch-C2 that can be left out.
TEST_F(MeshTraining, VariantsOnTheTensorAxis) {
  for (const char* model :
       {"{arch: llama, num_layers: 2, hidden_size: 32, num_heads: 8, num_kv_heads: 2, head_size: 6, "
        "ffn_size: "
        "64, vocab_size: 264, tie_embeddings: true}",
        "{arch: qwen2, num_layers: 2, hidden_size: 32, num_heads: 4, num_kv_heads: 2, ffn_size: 64, "
        "vocab_size: 264, tie_embeddings: false}",
        "{arch: rwkv5, num_layers: 2, hidden_size: 24, head_size: 8, num_heads: 2, ffn_size: 40, vocab_size: "
        "264}",
        "{arch: rwkv6, num_layers: 2, hidden_size: 24, head_size: 8, num_heads: 2, ffn_size: 40, vocab_size: "
        "264}",
        "{arch: rwkv7, num_layers: 2, hidden_size: 24, head_size: 8, num_heads: 2, ffn_size: 40, vocab_size: "
        "264}",
        "{arch: finch_c2, num_layers: 2, hidden_size: 32, head_size: 8, vocab_size: 264, use_v2: false, "
        "use_one_minus_w: false}",
        "{arch: goldfinch, num_layers: 3, hidden_size: 32, head_size: 8, vocab_size: 264, upper_blocks: "
        "gptalpha, rope_theta: 10000}",
        "{arch: goldfinch, num_layers: 3, hidden_size: 32, head_size: 8, vocab_size: 264, rope_theta: "
        "10000}"}) {
    SCOPED_TRACE(model);
    const auto one = test::train_on_mesh(*runs_, model, "fp64", "{}", 1);
    test::expect_same_run(one, test::train_on_mesh(*runs_, model, "fp64", "{tensor: 2}", 2), 1e-10);
  }
}

std::vector<int32_t> likeliest(Model& model, const DeviceBatch& batch, nn::Context& cx) {
  const Tensor logits = model.logits(cx, batch.x).value();
  const int64_t V = model.vocab_size();
  std::vector<int32_t> words;
  for (const double row : to_doubles(batch.rows)) {
    const std::vector<double> of_row =
        to_doubles(logits.reshape({logits.numel() / V, V}).narrow(static_cast<int64_t>(row), 1));
    words.push_back(static_cast<int32_t>(std::ranges::max_element(of_row) - of_row.begin()));
  }
  return words;
}

// Head and loss on some positions; answers are the first of the largest logits of all words.
TEST_F(MeshTraining, RecallOnTheTensorAxis) {
  data::Batch batch;
  batch.rows = 3;
  batch.seq_len = 24;
  for (int64_t i = 0; i < batch.rows; ++i) {
    const auto tokens = data::mqar::example({24, 3, 5}, i);
    batch.x.insert(batch.x.end(), tokens.begin(), tokens.end());
    batch.samples.push_back(i);
  }
  batch.y.assign(batch.x.size(), 0);
  batch.doc_start.assign(batch.x.size(), 0);
  const std::string model = "{arch: rwkv6, num_layers: 2, hidden_size: 32, head_size: 8, vocab_size: 8192}";
  std::vector<int32_t> answers;  // what one rank holds to be the likeliest
  const auto evaluate = [&](const char* mesh_text, int world) {
    std::vector<Evaluation> of_rank(static_cast<size_t>(world));
    run_ranks(world, [&](Communicator& comm) {
      config::RunConfig config = test::mesh_config(*runs_, model, "fp64", mesh_text);
      const Mesh mesh(config.mesh.degrees(world), comm);
      loop::Session session =
          loop::make_session(std::move(config), std::make_unique<Device>(DeviceType::kCpu, 1), mesh);
      session.model->parameters.initialize(7);
      test::disturb(session);
      const auto recipe = make_mqar({});
      DeviceBatch on_device = recipe->prepare(batch, *session.device);
      nn::SeqContext seq;
      nn::Context cx{nullptr, seq, mesh};
      if (answers.empty()) answers = likeliest(*session.model, on_device, cx);
      on_device.y =
          tensor_from(std::span<const int32_t>(answers), on_device.y.shape(), DType::kI32, *session.device);
      Evaluation& e = of_rank[static_cast<size_t>(comm.rank())];
      e = recipe->evaluate(*session.model, on_device, cx);
      const double loss = to_doubles(recipe->loss(*session.model, on_device, cx, 9, 1).loss.value())[0];
      EXPECT_NEAR(loss, e.nats / 9, 1e-12 * loss);
    });
    for (const Evaluation& e : of_rank) EXPECT_EQ(e.nats, of_rank[0].nats);
    return of_rank[0];
  };
  const Evaluation one = evaluate("{}", 1), two = evaluate("{tensor: 2}", 2);
  EXPECT_NEAR(two.nats, one.nats, 1e-10 * one.nats);
  EXPECT_EQ(two.targets, one.targets);
  EXPECT_EQ(one.correct, 9);
  EXPECT_EQ(two.correct, 9);
}

// Of the whole tensors, by one micro-batch.
std::map<std::string, std::vector<double>> gradients(const test::TinyRuns& runs, const std::string& model,
                                                     const std::string& precision,
                                                     const std::string& mesh_text, int64_t world,
                                                     DeviceType device) {
  std::map<std::string, std::vector<double>> whole;
  std::mutex mutex;
  run_ranks(static_cast<int>(world), [&](Communicator& comm) {
    config::RunConfig config = test::mesh_config(runs, model, precision, mesh_text);
    const Mesh mesh(config.mesh.degrees(world), comm);
    loop::Session session = loop::make_session(std::move(config), std::make_unique<Device>(device, 1), mesh);
    const auto recipe = make_recipe(*session.config.recipe);
    session.model->parameters.initialize(7);
    test::disturb(session);
    session.store->publish();
    session.store->begin_step();
    const auto loader = loop::make_loader(session.config, session.model->vocab_size());
    const DeviceBatch batch = recipe->prepare(loader->read(0, 2), *session.device);
    Tape tape;
    nn::SeqContext seq;
    nn::Context cx{&tape, seq, mesh};
    tape.backward(recipe->loss(*session.model, batch, cx, 32, 1).loss);
    session.store->finish_reduction();
    for (const Parameter* p : session.store->parameters()) {
      const std::vector<double> mine = to_doubles(p->grad);
      const std::lock_guard lock(mutex);
      std::vector<double>& values = whole[p->name];
      values.resize(static_cast<size_t>(p->global.numel()));
      test::for_each_run(*p, [&](int64_t here, int64_t there, int64_t n) {
        std::copy_n(mine.begin() + here, n, values.begin() + there);
      });
    }
  });
  return whole;
}

// The kernels of a GPU on slices: two ranks are as near to fp64 as one is.
TEST_F(MeshTraining, BfloatOnAnEmulatedGpu) {
  const std::string& model = test::tiny_models().at("rwkv6");
  const auto exact = gradients(*runs_, model, "fp64", "{}", 1, DeviceType::kCpu),
             one = gradients(*runs_, model, "bf16", "{}", 1, DeviceType::kEmul),
             two = gradients(*runs_, model, "bf16", "{tensor: 2}", 2, DeviceType::kEmul);
  for (const auto& [name, values] : exact) {
    const auto error = [&, &v = values](const std::vector<double>& others) {
      double squares = 0, difference = 0;
      for (size_t i = 0; i < v.size(); ++i) {
        squares += v[i] * v[i];
        difference += (others[i] - v[i]) * (others[i] - v[i]);
      }
      return std::sqrt(difference / squares);
    };
    EXPECT_LE(error(two.at(name)), 2 * error(one.at(name)) + 2e-3) << name;
  }
}

// The meta device asks for the memory that a rank of the mesh then holds.
TEST_F(MeshTraining, AMeshIsPlannedWithoutItsRanks) {
  for (const auto& [arch, model] : test::tiny_models()) {
    SCOPED_TRACE(arch);
    const auto plan = [&](const char* mesh) {
      return loop::plan_memory(test::mesh_config(*runs_, model, "fp32", mesh));
    };
    const loop::MemoryPlan one = plan("{}"), two = plan("{tensor: 2}");
    EXPECT_LT(two.parameters, one.parameters);
    EXPECT_LT(two.activations, one.activations);
    run_ranks(2, [&](Communicator& comm) {
      config::RunConfig config = test::mesh_config(*runs_, model, "fp32", "{tensor: 2}");
      const Mesh mesh(config.mesh.degrees(2), comm);
      const loop::Session session =
          loop::make_session(std::move(config), std::make_unique<Device>(DeviceType::kCpu, 1), mesh);
      const loop::MemoryPlan held = loop::memory_held(*session.device);
      EXPECT_EQ(held.parameters, two.parameters);
      EXPECT_EQ(held.gradients, two.gradients);
    });
  }
}

// Heads, hidden channels and words in equal shares, or the reason why not.
TEST_F(MeshTraining, WhatRanksShareMustDivide) {
  for (const auto& [arch, model] : test::tiny_models()) {
    const config::RunConfig config = test::mesh_config(*runs_, model, "fp32", "{tensor: 5}");
    try {
      config.validate(5);
      ADD_FAILURE() << arch << ": 264 words over 5 ranks";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("tensor 5 does not divide model.vocab_size 264 = 52 x 5 + 4; use "
                                           "vocab_size 260 or 265, or another degree"),
                std::string::npos)
          << arch << ": " << e.what();
      const bool heads = std::string(e.what()).find(" 4 = 0 x 5 + 4") != std::string::npos;
      EXPECT_TRUE(heads) << arch << ": 4 heads over 5 ranks: " << e.what();
    }
    test::mesh_config(*runs_, model, "fp32", "{tensor: 4}").validate(4);
  }
}

// What is computed again calls the same collectives in the same order on all ranks.
TEST_F(MeshTraining, RecomputesOnTheTensorAxis) {
  for (const char* recompute : {"selective", "block"})
    for (const auto& [arch, model] : test::tiny_models()) {
      SCOPED_TRACE(str(arch, " ", recompute));
      const auto one = test::train_on_mesh(*runs_, model, "fp64", "{}", 1, 16, "recompute: none", 2);
      test::expect_same_run(
          one,
          test::train_on_mesh(*runs_, model, "fp64", "{tensor: 2}", 2, 16, str("recompute: ", recompute), 2),
          1e-10);
    }
}

}  // namespace
}  // namespace rookery
