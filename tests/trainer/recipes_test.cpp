// recipes_test.cpp: what recipes ask of a model, held against the plain formulas in fp64; and a model that
// learns to recall, through the program.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "data/synthetic/mqar.h"
#include "parallel/shard/param_store.h"
#include "tests/support/program.h"
#include "trainer/loop/metrics.h"
#include "trainer/models/rwkv6.h"
#include "trainer/recipes/mqar.h"
#include "trainer/recipes/pretrain.h"

namespace rookery::test {
namespace {

struct Tiny {
  Device device{DeviceType::kCpu, 2};
  std::unique_ptr<Model> model;
  std::unique_ptr<ParamStore> store;
  explicit Tiny(int64_t vocab_size) {
    Rwkv6Config config;
    config.num_layers = 2;
    config.hidden_size = 32;
    config.head_size = 16;
    config.vocab_size = vocab_size;
    model = make_rwkv6(config);
    store = std::make_unique<ParamStore>(model->parameters.all(), DType::kF64, device);
    model->parameters.initialize(3);
    // The blocks' outputs begin at zero; they must count here.
    for (Parameter* p : store->parameters())
      if (p->name.ends_with("output.weight") || p->name.ends_with("value.weight"))
        for (int64_t i = 0; i < p->master.numel(); ++i)
          p->master.data<double>()[i] = 0.02 * std::sin(i * 0.7);
  }
  std::map<std::string, std::vector<double>> gradients(const std::function<Var(nn::Context&)>& loss_of,
                                                       double* value) {
    Tape tape;
    nn::SeqContext seq;
    nn::Context cx{&tape, seq};
    store->begin_step();
    const Var loss = loss_of(cx);
    *value = to_doubles(loss.value())[0];
    tape.backward(loss);
    store->finish_reduction();
    std::map<std::string, std::vector<double>> all;
    for (Parameter* p : store->parameters()) all[p->name] = to_doubles(p->grad);
    return all;
  }
};

data::Batch recall_batch() {
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
  return batch;
}

TEST(Mqar, its_loss_is_that_of_all_positions_with_the_others_masked) {
  Tiny tiny(data::mqar::kVocabSize);
  const data::Batch batch = recall_batch();
  const auto recipe = make_mqar({});
  const DeviceBatch on_device = recipe->prepare(batch, tiny.device);
  ASSERT_EQ(on_device.y.numel(), 9);
  std::vector<int32_t> targets(batch.x.size(), 0);
  std::vector<double> mask(batch.x.size(), 0);
  for (int64_t row = 0; row < batch.rows; ++row)
    for (const auto& label : data::mqar::labels(
             std::span<const int32_t>(batch.x).subspan(static_cast<size_t>(row * 24), 24), "")) {
      targets[row * 24 + label.position] = label.value;
      mask[row * 24 + label.position] = 1;
    }
  double loss = 0, masked_loss = 0;
  const auto got = tiny.gradients(
      [&](nn::Context& cx) { return recipe->loss(*tiny.model, on_device, cx, 9, 1).loss; }, &loss);
  const auto expected = tiny.gradients(
      [&](nn::Context& cx) {
        return ops::linear_cross_entropy(
                   tiny.model->hidden(cx, on_device.x), cx(tiny.model->head()),
                   tensor_from(std::span<const int32_t>(targets), {3, 24}, DType::kI32, tiny.device),
                   tensor_from(std::span<const double>(mask), {3, 24}, DType::kF64, tiny.device), {9, 0})
            .loss;
      },
      &masked_loss);
  EXPECT_NEAR(loss, masked_loss, 1e-12);
  for (const auto& [name, grad] : expected)
    for (size_t i = 0; i < grad.size(); ++i) ASSERT_NEAR(got.at(name)[i], grad[i], 1e-12) << name << " " << i;

  nn::SeqContext seq;
  nn::Context cx{nullptr, seq};
  const Evaluation e = recipe->evaluate(*tiny.model, on_device, cx);
  EXPECT_EQ(e.targets, 9);
  EXPECT_NEAR(e.nats / 9, masked_loss, 1e-12);
  const std::vector<double> logits = to_doubles(tiny.model->logits(cx, on_device.x).value());
  double correct = 0;
  for (size_t t = 0; t < targets.size(); ++t) {
    const auto row = logits.begin() + static_cast<int64_t>(t) * data::mqar::kVocabSize;
    correct += mask[t] > 0 && std::max_element(row, row + data::mqar::kVocabSize) - row == targets[t];
  }
  EXPECT_EQ(e.correct, correct);
}

// Two documents in one row are judged as each alone where the recipe resets at documents, and differently
// where it does not.
TEST(Pretrain, held_out_rows_are_judged_as_trained) {
  Tiny tiny(50);
  std::vector<int32_t> tokens;
  for (int i = 0; i < 17; ++i) tokens.push_back((i * i + 3 * i) % 50);
  auto evaluate = [&](bool reset, std::span<const int32_t> x, std::span<const int32_t> y,
                      int64_t second_doc) {
    data::Batch batch;
    batch.rows = 1;
    batch.seq_len = static_cast<int64_t>(x.size());
    batch.x.assign(x.begin(), x.end());
    batch.y.assign(y.begin(), y.end());
    batch.doc_start.assign(x.size(), 0);
    batch.doc_start[0] = 1;
    if (second_doc > 0) batch.doc_start[static_cast<size_t>(second_doc)] = 1;
    batch.samples = {0};
    PretrainConfig config;
    config.reset_at_documents = reset;
    nn::SeqContext seq;
    nn::Context cx{nullptr, seq};
    const auto recipe = make_pretrain(config);
    return recipe->evaluate(*tiny.model, recipe->prepare(batch, tiny.device), cx).nats;
  };
  const std::span<const int32_t> all(tokens);
  const double alone = evaluate(true, all.subspan(0, 7), all.subspan(1, 7), 0) +
                       evaluate(true, all.subspan(7, 9), all.subspan(8, 9), 0);
  EXPECT_NEAR(evaluate(true, all.subspan(0, 16), all.subspan(1, 16), 7), alone, 1e-12);
  EXPECT_GT(std::abs(evaluate(false, all.subspan(0, 16), all.subspan(1, 16), 7) - alone), 1e-4);
}

TEST(Mqar, a_model_learns_a_few_examples_and_stops_at_the_accuracy) {
  const TempDir dir(TempDir::Place::kMemory);
  const std::string set = (dir.path() / "recall.h5").string(), run = (dir.path() / "run").string();
  ASSERT_EQ(
      run_rookery({"data", "mqar", "--seq-len", "16", "--pairs", "1", "--examples", "4", "--out", set}).code,
      0);
  const auto config =
      put(dir, "run.yaml",
          "model: {arch: rwkv6, num_layers: 1, hidden_size: 32, head_size: 16, vocab_size: 8192}\n"
          "data: {tokenizer: none, seq_len: 16, sources: [{path: " +
              set + "}], val: [{name: recall, path: " + set +
              "}]}\n"
              "recipe: {kind: mqar, micro_batch_size: 4, global_batch_size: 4, max_steps: 400}\n"
              "optim: {lr: 2e-2, lr_final: 2e-2, schedule: constant, eps: 1.0e-8}\n"
              "eval: {every_steps: 10, stop_accuracy: 1}\n");
  const std::vector<std::string> train{"train", config.string(), "run_dir=" + run};
  const auto done = run_rookery(train);
  ASSERT_EQ(done.code, 0) << done.err;
  double accuracy = 0;
  int64_t last = 0;
  for (const auto& record : loop::read_metrics(run + "/metrics.jsonl"))
    if (record["event"] == "eval") {
      accuracy = record["accuracy"].get<double>();
      last = record["step"].get<int64_t>();
    }
  EXPECT_EQ(accuracy, 1);
  EXPECT_LT(last, 400);
  const auto again = run_rookery(train);
  EXPECT_EQ(again.code, 0);
  EXPECT_NE((again.out + again.err).find("the run is complete"), std::string::npos) << again.out << again.err;
}

TEST(Mqar, a_set_of_text_is_refused) {
  const TempDir dir(TempDir::Place::kMemory);
  const std::string set = (dir.path() / "recall.h5").string();
  ASSERT_EQ(
      run_rookery({"data", "mqar", "--seq-len", "16", "--pairs", "2", "--examples", "4", "--out", set}).code,
      0);
  const auto config =
      put(dir, "run.yaml",
          "model: {arch: rwkv6, num_layers: 1, hidden_size: 32, head_size: 16, vocab_size: 8192}\n"
          "data: {tokenizer: none, seq_len: 12, sources: [{path: " +
              set +
              "}]}\n"
              "recipe: {kind: mqar, micro_batch_size: 1, global_batch_size: 1, max_steps: 2}\n"
              "optim: {warmup_steps: 0}\n");
  const auto done = run_rookery({"train", config.string(), "run_dir=" + (dir.path() / "run").string()});
  EXPECT_EQ(done.code, 65) << done.err;
  EXPECT_NE(done.err.find("MQAR-02"), std::string::npos) << done.err;
}

}  // namespace
}  // namespace rookery::test
