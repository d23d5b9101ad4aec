// train_ranks_test.cpp: the program under mpirun: the same training as on one rank, one log, and what a
// killed rank leaves is gone on from on another mesh.
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>

#include "kernels/base/str.h"
#include "parallel/comm/mpi.h"
#include "tests/support/tiny_run.h"

namespace rookery {
namespace fs = std::filesystem;
namespace {

namespace fs = std::filesystem;

using test::ProgramResult;

class TrainRanks : public testing::Test {
 protected:
  static void SetUpTestSuite() { runs_ = std::make_unique<test::TinyRuns>(); }
  static void TearDownTestSuite() { runs_.reset(); }
  void SetUp() override {
    if (!mpi::built()) GTEST_SKIP() << "this build has no MPI";
  }

  // `faulty`: the rank that has the fault.
  static ProgramResult train(int ranks, const std::string& run, std::vector<std::string> more = {},
                             const std::string& fault = "", int faulty = 0) {
    const char* program = std::getenv("ROOKERY_BIN");
    std::string words = program ? program : "build/bin/rookery";
    // Global batches of 4 sequences, whatever the mesh.
    more.insert(more.end(), {"precision=fp64", "recipe.micro_batch_size=1", "optim.eps=1e-8"});
    for (const std::string& word : runs_->words(run, more)) words += " '" + word + "'";
    const std::string one =
        fault.empty() ? ""
                      : str("[ $OMPI_COMM_WORLD_RANK = ", faulty, " ] && export ROOKERY_FAULT=", fault, "; ");
    return test::run_program({"mpirun", "--oversubscribe", "-np", std::to_string(ranks), "/bin/sh", "-c",
                              str(one, "exec ", words)},
                             {{"OMPI_ALLOW_RUN_AS_ROOT", "1"},
                              {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
                              {"OMPI_MCA_btl_base_warn_component_unused", "0"},
                              {"ROOKERY_COMM_TIMEOUT", "60"}});
  }
  static ProgramResult train_alone(const std::string& run, std::vector<std::string> more = {},
                                   const std::string& fault = "") {
    more.insert(more.end(), {"precision=fp64", "recipe.micro_batch_size=1", "optim.eps=1e-8"});
    return runs_->train(run, more, fault);
  }

  // Losses and gradient norms of all steps and evaluations, and the last parameters.
  static void expect_same(const std::string& left, const std::string& right, double bound) {
    const auto l = loop::read_metrics(runs_->path(left + "/metrics.jsonl")),
               r = loop::read_metrics(runs_->path(right + "/metrics.jsonl"));
    const auto numbers = [](const std::vector<nlohmann::json>& records, const char* event, const char* key) {
      std::vector<double> values;
      for (const auto& record : records)
        if (record["event"] == event) values.push_back(record[key].get<double>());
      return values;
    };
    // Losses are logged as float32.
    for (const auto& [event, key, allowed] :
         {std::tuple{"step", "loss", 2e-7}, {"step", "grad_norm", bound}, {"eval", "loss", 2e-7}}) {
      const auto a = numbers(l, event, key), b = numbers(r, event, key);
      ASSERT_EQ(a.size(), b.size()) << event << " " << key;
      ASSERT_FALSE(a.empty());
      for (size_t i = 0; i < a.size(); ++i)
        EXPECT_NEAR(a[i], b[i], allowed * std::abs(a[i])) << event << " " << key << " " << i;
    }
    const auto x = test::values_of(runs_->checkpoint(left, 12), "param"),
               y = test::values_of(runs_->checkpoint(right, 12), "param");
    ASSERT_EQ(x.size(), y.size());
    for (const auto& [name, values] : x) {
      double squares = 0, difference = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        squares += values[i] * values[i];
        difference += (y.at(name)[i] - values[i]) * (y.at(name)[i] - values[i]);
      }
      EXPECT_LE(std::sqrt(difference), bound * std::sqrt(squares) + 1e-300) << name;
    }
  }

  static inline std::unique_ptr<test::TinyRuns> runs_;
};

TEST_F(TrainRanks, LearnAsOneRankDoes) {
  ASSERT_EQ(train_alone("alone").code, 0);
  for (const auto& [ranks, zero] : {std::pair{2, 1}, {2, 3}, {4, 2}}) {
    const std::string run = str("ranks", ranks, "zero", zero);
    const ProgramResult done = train(ranks, run, {str("mesh.zero=", zero)});
    ASSERT_EQ(done.code, 0) << done.err;
    expect_same("alone", run, 1e-9);
    // One line per step, from one rank; the others have nothing to tell.
    size_t lines = 0;
    for (size_t at = done.err.find("step="); at != std::string::npos; at = done.err.find("step=", at + 1))
      lines += at == 0 || done.err[at - 1] == '\n';
    EXPECT_EQ(lines, 12u) << done.err;
    EXPECT_EQ(test::slurp(runs_->path(run + "/logs/rank-1.log")), "");
    for (const auto& record : loop::read_metrics(runs_->path(run + "/metrics.jsonl")))
      if (record["event"] == "step") {
        for (const char* phase : {"data", "forward", "backward", "wait", "optim"}) {
          const auto& spread = record.at("ranks").at(phase);
          EXPECT_LE(spread.at("min"), spread.at("median"));
          EXPECT_LE(spread.at("median"), spread.at("max"));
          EXPECT_LT(spread.at("slowest"), ranks);
        }
      }
  }
}

// Of Qwen2 the first and the last stage have the embedding, which is the head. One rank goes on from what
// stages saved, and they from what one rank did.
TEST_F(TrainRanks, StagesLearnAsOneRankDoes) {
  const std::string qwen2 =
      "model={arch: qwen2, num_layers: 3, hidden_size: 32, num_heads: 4, ffn_size: 64, vocab_size: 264}";
  for (const auto& [name, model] : {std::pair{"qwen2", qwen2}, {"finch", "model.num_layers=4"}}) {
    SCOPED_TRACE(name);
    const std::string one = str(name, "_alone"), stages = str(name, "_stages");
    ASSERT_EQ(train_alone(one, {model}).code, 0);
    const ProgramResult done = train(2, stages, {model, "mesh.pipe=2"});
    ASSERT_EQ(done.code, 0) << done.err;
    expect_same(one, stages, 1e-9);
    EXPECT_NE(done.err.find("pipeline: stages of "), std::string::npos) << done.err;

    const std::string killed = str(name, "_killed"), back = str(name, "_back");
    EXPECT_NE(train(2, killed, {model, "mesh.pipe=2"}, "train.loss@8:kill", 1).code, 0);
    ASSERT_EQ(train_alone(killed, {model}).code, 0);
    expect_same(one, killed, 1e-9);
    EXPECT_NE(train_alone(back, {model}, "train.loss@8:kill").code, 0);
    ASSERT_EQ(train(2, back, {model, "mesh.pipe=2"}).code, 0);
    expect_same(one, back, 1e-9);
  }
}

TEST_F(TrainRanks, TwiceTheSameBits) {
  for (const char* run : {"first", "second"}) ASSERT_EQ(train(2, run, {"mesh.zero=2"}).code, 0);
  EXPECT_EQ(runs_->trace("first"), runs_->trace("second"));
}

TEST_F(TrainRanks, AKilledRankCostsTheStepsSinceTheLastSaveOnAnyMesh) {
  if (!fs::exists(runs_->path("alone"))) {
    ASSERT_EQ(train_alone("alone").code, 0);
  }
  struct Kill {
    const char* fault;
    int rank;
    std::vector<std::string> more;
  };
  int n = 0;
  for (const Kill& kill : {Kill{"train.loss@5:kill", 1, {}}, Kill{"ckpt.shard.write@4:kill", 1, {}},
                           Kill{"ckpt.shard.write@4:kill", 0, {"checkpoint.async=true"}},
                           Kill{"ckpt.manifest.write@2:kill", 0, {}}}) {
    SCOPED_TRACE(str(kill.fault, " on rank ", kill.rank));
    const std::string run = str("killed", ++n);
    std::vector<std::string> more = kill.more;
    more.push_back("mesh.zero=2");
    EXPECT_NE(train(2, run, more, kill.fault, kill.rank).code, 0);
    for (const int64_t step : checkpoint::list_steps(runs_->path(run)))
      EXPECT_TRUE(checkpoint::verify(runs_->checkpoint(run, step)).empty());
    // On one rank, or on four.
    const ProgramResult rest = n % 2 ? train_alone(run) : train(4, run, {"mesh.zero=3"});
    ASSERT_EQ(rest.code, 0) << rest.err;
    expect_same("alone", run, 1e-9);
    EXPECT_TRUE(runs_->leftovers(run).empty());
  }
}

TEST_F(TrainRanks, WhatOneRankIsAskedAllDo) {
  const ProgramResult stopped =
      train(2, "stopped", {"recipe.max_steps=1000000", "checkpoint.every_steps=0", "--max-time=3s"});
  EXPECT_EQ(stopped.code, 75) << stopped.err;
  const auto steps = checkpoint::list_steps(runs_->path("stopped"));
  ASSERT_EQ(steps.size(), 1u);
  EXPECT_TRUE(checkpoint::verify(runs_->checkpoint("stopped", steps[0])).empty());
}

TEST_F(TrainRanks, ASlowRankIsNamed) {
  std::string delays;
  for (int step = 5; step <= 9; ++step)
    delays += str(delays.empty() ? "" : ",", "train.loss@", step, ":delay=400");
  const ProgramResult slow = train(2, "slow", {}, delays, 1);
  ASSERT_EQ(slow.code, 0) << slow.err;
  EXPECT_NE(slow.err.find("rank 1 on "), std::string::npos) << slow.err;
  EXPECT_NE(slow.err.find(" holds up the others"), std::string::npos) << slow.err;
}

}  // namespace
}  // namespace rookery
