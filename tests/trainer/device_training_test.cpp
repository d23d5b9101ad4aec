// device_training_test.cpp: the training step on each GPU that is here, the emulated one at least, beside the
// CPU: every architecture, fp32 and bf16, the memory plan, the step as a graph; and whole runs of the program
// there.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>

#include "kernels/base/str.h"
#include "tests/support/op_case.h"
#include "tests/support/tiny_run.h"
#include "trainer/loop/memory_plan.h"
#include "trainer/loop/step.h"
#include "trainer/loop/trainer.h"
#include "trainer/models/registry.h"

namespace rookery {
namespace test {
void PrintTo(const TestDevice& device, std::ostream* out) { *out << device.name; }  // in the names of tests
}  // namespace test
namespace {

using test::Trace;

struct Architecture {
  const char *name, *model;
};
const Architecture kArchitectures[] = {
    {"rwkv5", "{arch: rwkv5, num_layers: 1, hidden_size: 32, head_size: 16, vocab_size: 257}"},
    {"rwkv6", "{arch: rwkv6, num_layers: 1, hidden_size: 32, head_size: 16, vocab_size: 257}"},
    {"rwkv7", "{arch: rwkv7, num_layers: 2, hidden_size: 32, head_size: 16, vocab_size: 257}"},
    {"llama", "{arch: llama, num_layers: 1, hidden_size: 32, num_heads: 2, ffn_size: 64, vocab_size: 257}"},
    {"qwen2", "{arch: qwen2, num_layers: 1, hidden_size: 32, num_heads: 2, ffn_size: 64, vocab_size: 257}"},
    {"llama_paper", "{arch: llama_paper, num_layers: 1, hidden_size: 32, head_size: 16, vocab_size: 257}"},
    {"finch_c2", "{arch: finch_c2, num_layers: 1, hidden_size: 32, head_size: 16, vocab_size: 257}"},
    {"goldfinch", "{arch: goldfinch, num_layers: 3, hidden_size: 32, head_size: 16, vocab_size: 257}"}};

// All but the CPUs.
std::vector<test::TestDevice> gpus() {
  std::vector<test::TestDevice> devices = test::op_case_devices();
  std::erase_if(devices, [](const test::TestDevice& d) { return d.type == DeviceType::kCpu; });
  return devices;
}
const test::TestDevice kCpu{"cpu", DeviceType::kCpu,
                            [](int threads) { return std::make_unique<Device>(DeviceType::kCpu, threads); }};

class DeviceTraining : public testing::TestWithParam<test::TestDevice> {
 protected:
  static void SetUpTestSuite() {
    register_models();
    register_recipes();
    runs_ = std::make_unique<test::TinyRuns>();
  }
  static void TearDownTestSuite() { runs_.reset(); }
  static std::string path(const std::string& name) { return runs_->path(name); }
  static const test::TestDevice& gpu() { return GetParam(); }

  // Two micro-batches of 2 x 16 tokens a step. eps: with a small one the rounding of a gradient that is zero
  // in theory becomes a step of full size.
  static config::RunConfig config_of(const char* model, const std::string& precision) {
    return config::parse_run(
        str("name: tiny\nrun_dir: none\nseed: 7\nthreads: 1\nprecision: ", precision, "\nmodel: ", model,
            "\ndata: {seq_len: 16, sources: [{path: ", path("tokens.h5"),
            "}]}\nrecipe: {kind: pretrain, micro_batch_size: 2, global_batch_size: 4, "
            "max_steps: 8}\noptim: {lr: 3e-3, warmup_steps: 0, eps: 1e-8}\n"),
        "the test");
  }

  static inline std::unique_ptr<test::TinyRuns> runs_;
};

// A model that trains on its own device.
struct Training {
  using Around = std::function<std::unique_ptr<Recipe>(std::unique_ptr<Recipe>)>;
  Training(config::RunConfig config, const test::TestDevice& where, const Around& around = std::identity())
      : session(loop::make_session(std::move(config), where.make(1))),
        recipe(around(make_recipe(*session.config.recipe))),
        loader(loop::make_loader(session.config, session.model->vocab_size())),
        optim(*session.store, loop::make_adamw_config(session.config),
              [this](const Parameter& p) { return session.model->optim_group(p); }),
        step(session, *recipe, optim, [this] { ++graphs; }) {
    session.model->parameters.initialize(7);
    session.store->publish();
  }
  loop::TrainStep::Report one() {
    std::vector<data::Batch> batches;
    for (int64_t i = 0; i < 2; ++i) batches.push_back(loader->read(4 * done + 2 * i, 2));
    ++done;
    return step.run(batches, 3e-3);
  }
  std::vector<double> losses(int steps) {
    std::vector<double> all;
    for (int i = 0; i < steps; ++i) all.push_back(one().loss);
    return all;
  }

  loop::Session session;
  std::unique_ptr<Recipe> recipe;
  std::unique_ptr<data::Loader> loader;
  AdamW optim;
  int graphs = 0;
  loop::TrainStep step;
  int64_t done = 0;
};

void expect_as_planned(const loop::MemoryPlan& planned, const loop::MemoryPlan& held) {
  using loop::MemoryPlan;
  for (const auto& [name, part] : {std::pair{"parameters", &MemoryPlan::parameters},
                                   {"gradients", &MemoryPlan::gradients},
                                   {"moments", &MemoryPlan::moments},
                                   {"compute copies", &MemoryPlan::copies},
                                   {"activations", &MemoryPlan::activations},
                                   {"workspaces", &MemoryPlan::workspaces}})
    EXPECT_NEAR(static_cast<double>(held.*part), static_cast<double>(planned.*part),
                0.05 * static_cast<double>(planned.*part))
        << name;
}

TEST_P(DeviceTraining, EveryArchitectureLearnsAsOnTheCpu) {
  for (const auto& [name, model] : kArchitectures) {
    SCOPED_TRACE(name);
    const std::vector<double> cpu = Training(config_of(model, "fp32"), kCpu).losses(3);
    Training fp32(config_of(model, "fp32"), gpu());
    const std::vector<double> single = fp32.losses(3);
    Training half(config_of(model, "bf16"), gpu());
    const std::vector<double> bf16 = half.losses(3);
    EXPECT_LT(cpu[2], cpu[0]);
    for (size_t i = 0; i < 3; ++i) {
      // The first loss is of equal weights; each update adds the rounding of the moments' quotient, which is
      // large where gradients are near eps.
      EXPECT_NEAR(single[i], cpu[i], i == 0 ? 2e-6 : 2e-4) << "fp32, step " << i;
      // 2^-9 of logits below 1, averaged over 64 tokens; then of updates of 3e-3 per parameter.
      EXPECT_NEAR(bf16[i], cpu[i], i == 0 ? 2e-3 : 2e-2) << "bf16, step " << i;
    }
    EXPECT_NE(bf16, single);
    const auto step_memory = [&](const char* precision, Training& t) {
      const loop::MemoryPlan planned = loop::plan_memory(config_of(model, precision), gpu().type);
      expect_as_planned(planned, loop::memory_held(*t.session.device));
      EXPECT_EQ(planned.copies, std::string(precision) == "bf16" ? planned.parameters / 2 : 0);
    };
    step_memory("fp32", fp32);
    step_memory("bf16", half);
  }
}

TEST_P(DeviceTraining, TheStepIsNotedOnceAndFollowsTheMemory) {
  auto config = [] { return config_of(kArchitectures[1].model, "bf16"); };
  config::RunConfig eager = config();
  eager.graph = "off";
  Training plain(std::move(eager), gpu());
  const std::vector<double> expected = plain.losses(7);
  EXPECT_EQ(plain.graphs, 0);

  Training noted(config(), gpu());
  Arena& arena = noted.session.device->arena();
  std::vector<double> found;
  for (int i = 0; i < 7; ++i) {
    found.push_back(noted.one().loss);
    EXPECT_EQ(noted.graphs, i < 2 ? 0 : i < 6 ? 1 : 2) << "after step " << i;
    // As an evaluation does; the second time it needs a slab of its own size, which the step then uses: once
    // to see it, then in a graph.
    if (i != 3 && i != 4) continue;
    arena.begin_step("other");
    { const Tensor large = empty({1 << 20}, DType::kF32, *noted.session.device); }
    arena.end_step();
  }
  EXPECT_EQ(found, expected);
  EXPECT_EQ(to_doubles(noted.session.store->masters()), to_doubles(plain.session.store->masters()));
}

TEST_P(DeviceTraining, EveryArchitectureHasTheSameBitsByGraph) {
  for (const auto& [name, model] : kArchitectures)
    for (const char* precision : {"fp32", "bf16"}) {
      SCOPED_TRACE(str(name, " in ", precision));
      auto config = config_of(model, precision);
      config.graph = "off";
      Training plain(std::move(config), gpu()), noted(config_of(model, precision), gpu());
      EXPECT_EQ(noted.losses(4), plain.losses(4));  // the third is noted, the fourth repeats it
      EXPECT_EQ(noted.graphs, 1);
      EXPECT_EQ(to_doubles(noted.session.store->masters()), to_doubles(plain.session.store->masters()));
    }
}

// A recipe that trains on another loss.
class Altered : public Recipe {
 public:
  using Loss =
      std::function<ops::LossOut(Recipe& recipe, const Var& hidden, Model& model, const DeviceBatch& batch,
                                 nn::Context& cx, int64_t count, int64_t accum_steps)>;
  Altered(std::unique_ptr<Recipe> recipe, Loss loss) : recipe_(std::move(recipe)), loss_(std::move(loss)) {}
  void begin(const DeviceBatch& batch, nn::Context& cx) const override { recipe_->begin(batch, cx); }
  ops::LossOut loss_of(const Var& hidden, Model& model, const DeviceBatch& batch, nn::Context& cx,
                       int64_t count, int64_t accum_steps) override {
    return loss_(*recipe_, hidden, model, batch, cx, count, accum_steps);
  }
  Evaluation judge(const Var& hidden, Model& model, const DeviceBatch& batch, nn::Context& cx) override {
    return recipe_->judge(hidden, model, batch, cx);
  }

 private:
  std::unique_ptr<Recipe> recipe_;
  Loss loss_;
};
Training::Around altered(const Altered::Loss& loss) {
  return [=](std::unique_ptr<Recipe> recipe) { return std::make_unique<Altered>(std::move(recipe), loss); };
}

// A number of the host that is another at each call: a mistake that the comparisons above must see.
TEST_P(DeviceTraining, AGraphHasTheNumbersOfTheStepThatWasNoted) {
  std::vector<std::vector<double>> losses;
  for (const char* graph : {"off", "auto"}) {
    auto config = config_of(kArchitectures[1].model, "fp32");
    config.graph = graph;
    int64_t calls = 0;
    Training t(std::move(config), gpu(),
               altered([&](Recipe& recipe, const Var& hidden, Model& model, const DeviceBatch& batch,
                           nn::Context& cx, int64_t count, int64_t accum_steps) {
                 return recipe.loss_of(hidden, model, batch, cx, count + ++calls, accum_steps);
               }));
    losses.push_back(t.losses(4));
  }
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(losses[1][i], losses[0][i]) << i;
  EXPECT_NE(losses[1][3], losses[0][3]);
}

TEST_P(DeviceTraining, AStepThatAsksTheHostIsNoGraph) {
  Training t(config_of(kArchitectures[1].model, "fp32"), gpu(),
             altered([](Recipe& recipe, const Var& hidden, Model& model, const DeviceBatch& batch,
                        nn::Context& cx, int64_t count, int64_t accum_steps) {
               const ops::LossOut out = recipe.loss_of(hidden, model, batch, cx, count, accum_steps);
               EXPECT_TRUE(std::isfinite(to_doubles(out.loss.value())[0]));
               return out;
             }));
  t.losses(2);
  try {
    t.one();
    ADD_FAILURE() << "the third step waited for the host";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("graph: a step could not be noted: "), std::string::npos)
        << e.what();
    EXPECT_NE(std::string(e.what()).find("a graph cannot wait for the host"), std::string::npos) << e.what();
  }
}

// The bf16 copies are the masters, rounded: of trained and of frozen parameters.
TEST_P(DeviceTraining, CopiesFollowTheMasters) {
  Training t(config_of(kArchitectures[1].model, "bf16"), gpu());
  Parameter& frozen = t.session.model->embedding();
  frozen.trainable = false;
  const std::vector<double> before = to_doubles(frozen.master),
                            head = to_doubles(t.session.model->head().master);
  EXPECT_TRUE(t.one().update.finite);
  EXPECT_EQ(to_doubles(frozen.master), before);
  EXPECT_NE(to_doubles(t.session.model->head().master), head);
  for (const Parameter* p : t.session.store->parameters()) {
    const std::vector<double> master = to_doubles(p->master), copy = to_doubles(p->compute);
    for (size_t i = 0; i < master.size(); ++i)
      ASSERT_EQ(copy[i], static_cast<double>(float(bf16(static_cast<float>(master[i]))))) << p->name;
  }
}

// Parts that came later have counts of their own, and norms are told as on the CPU.
TEST_P(DeviceTraining, SegmentsAndNormsAsOnTheCpu) {
  std::vector<std::vector<AdamW::Norms>> norms;
  std::vector<std::vector<double>> heads;
  for (const test::TestDevice& device : {kCpu, gpu()}) {
    Training t(config_of(kArchitectures[1].model, "fp32"), device);
    const size_t last = t.session.store->parameters().size() - 1;
    t.optim.set_segments(last, {{0, 0, 100, 50}, {0, 100, 257, 2}});
    t.one();
    EXPECT_EQ(t.optim.segments(last)[0].steps, 51);
    EXPECT_EQ(t.optim.segments(last)[1].steps, 3);
    heads.push_back(to_doubles(t.session.store->parameters()[last]->master));
    norms.push_back(t.optim.norms(3e-3, [](const Parameter& p) { return p.name; }));
  }
  for (size_t i = 0; i < heads[0].size(); ++i) ASSERT_NEAR(heads[1][i], heads[0][i], 2e-5) << i;
  ASSERT_EQ(norms[0].size(), norms[1].size());
  for (size_t i = 0; i < norms[0].size(); ++i) {
    EXPECT_EQ(norms[1][i].part, norms[0][i].part);
    EXPECT_NEAR(norms[1][i].param, norms[0][i].param, 1e-3 * norms[0][i].param + 1e-6);
    EXPECT_NEAR(norms[1][i].grad, norms[0][i].grad, 1e-3 * norms[0][i].grad + 1e-6) << norms[0][i].part;
    EXPECT_NEAR(norms[1][i].change, norms[0][i].change, 1e-2 * norms[0][i].change + 1e-5) << norms[0][i].part;
  }
}

std::vector<std::string> on(const std::string& device, const std::string& precision) {
  return {"device=" + device, "precision=" + precision, "recipe.max_steps=6", "eval.every_steps=3",
          "optim.eps=1e-8"};
}

TEST_P(DeviceTraining, AKilledRunEndsWithTheSameBits) {
  for (const char* precision : {"fp32", "bf16"}) {
    SCOPED_TRACE(precision);
    const std::string whole = str("whole-", precision), killed = str("killed-", precision);
    const auto clean = runs_->train(whole, on(gpu().name, precision));
    ASSERT_EQ(clean.code, 0) << clean.err;
    const Trace expected = runs_->trace(whole);
    EXPECT_EQ(expected.step, 6);
    EXPECT_NE(test::slurp(path(whole + "/train.log")).find("graph: step 3 is noted as a whole and replayed"),
              std::string::npos);
    EXPECT_EQ(test::slurp(path(whole + "/train.log")).find("another than was planned"), std::string::npos);
    // In the fifth step, after the save at the third.
    const auto fault = runs_->train(killed, on(gpu().name, precision), "train.loss@5:kill");
    EXPECT_NE(fault.code, 0);
    EXPECT_EQ(runs_->trace(killed).step, 3);
    const auto again = runs_->train(killed, on(gpu().name, precision));
    ASSERT_EQ(again.code, 0) << again.err;
    EXPECT_EQ(runs_->trace(killed), expected);
  }
}

TEST_P(DeviceTraining, CheckpointsGoBetweenDevices) {
  const auto losses = [&](const std::string& run) {
    std::vector<double> all;
    for (const auto& record : loop::read_metrics(path(run + "/metrics.jsonl")))
      if (record.contains("loss")) all.push_back(record["loss"].get<double>());
    return all;
  };
  const auto all_cpu = runs_->train("all-cpu", on("cpu", "fp32"));
  ASSERT_EQ(all_cpu.code, 0) << all_cpu.err;
  const std::vector<double> expected = losses("all-cpu");
  for (const auto& [first, second] : {std::pair{gpu().name, kCpu.name}, {kCpu.name, gpu().name}}) {
    SCOPED_TRACE(first);
    const std::string run = str("from-", first);
    EXPECT_NE(runs_->train(run, on(first, "fp32"), "train.loss@5:kill").code, 0);
    const auto rest = runs_->train(run, on(second, "fp32"));
    ASSERT_EQ(rest.code, 0) << rest.err;
    const std::vector<double> found = losses(run);
    ASSERT_EQ(found.size(), expected.size());  // evaluations too
    for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 2e-3) << i;
  }
}

TEST_P(DeviceTraining, AStepThatIsNotFiniteIsNotApplied) {
  Training t(config_of(kArchitectures[1].model, "fp32"), gpu());
  t.one();
  const std::vector<double> before = to_doubles(t.session.store->masters());
  // An infinite weight of the head: no loss is finite.
  const Tensor head = t.session.model->head().master;
  const std::vector<double> values = to_doubles(head);
  std::vector<double> broken = values;
  broken[3] = INFINITY;
  copy(tensor_from(std::span<const double>(broken), head.shape(), DType::kF32, head.device()), head);
  const auto report = t.one();
  EXPECT_FALSE(std::isfinite(report.loss));
  EXPECT_FALSE(report.update.finite);
  copy(tensor_from(std::span<const double>(values), head.shape(), DType::kF32, head.device()), head);
  EXPECT_EQ(to_doubles(t.session.store->masters()), before);
  EXPECT_TRUE(t.one().update.finite);
}

TEST_P(DeviceTraining, DoublePrecisionIsForTheCpu) {
  const auto run = runs_->train("double", {"device=" + gpu().name, "precision=fp64"});
  EXPECT_EQ(run.code, static_cast<int>(ExitCode::kConfig));
  EXPECT_NE(run.err.find("precision fp64 is for the CPU, the device is " + gpu().name), std::string::npos)
      << run.err;
}

INSTANTIATE_TEST_SUITE_P(On, DeviceTraining, testing::ValuesIn(gpus()),
                         [](const auto& tested) { return tested.param.name; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(DeviceTraining);

}  // namespace
}  // namespace rookery
