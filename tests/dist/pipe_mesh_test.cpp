// pipe_mesh_test.cpp: five steps of a pipeline are those of one rank: for each architecture and number of
// stages, with other axes, recomputed blocks, cuts of unequal stages, and fewer micro-batches than stages.
#include "tests/dist/mesh_run.h"

namespace rookery {
namespace {

std::string with_layers(const std::string& model, int64_t layers) {
  const std::string key = "num_layers: ";
  const size_t at = model.find(key) + key.size();
  return model.substr(0, at) + str(layers) + model.substr(model.find(',', at));
}

struct PipeCase {
  const char *name, *mesh;
  int64_t world, layers;
  const char* recompute = "none";
  int64_t fp32_seq_len = 16;
};

class PipeTraining : public testing::TestWithParam<PipeCase> {
 protected:
  static void SetUpTestSuite() {
    register_models();
    register_recipes();
    runs_ = std::make_unique<test::TinyRuns>();
  }
  static void TearDownTestSuite() { runs_.reset(); }
  static inline std::unique_ptr<test::TinyRuns> runs_;
  static inline std::map<std::string, test::MeshRun> one_rank_;  // by precision, layers and architecture
};

TEST_P(PipeTraining, IsThatOfOneRank) {
  const PipeCase& c = GetParam();
  for (const auto& [precision, bound] : {std::pair{"fp64", 1e-10}, {"fp32", 1e-5}})
    for (const auto& [arch, tiny] : test::tiny_models()) {
      SCOPED_TRACE(str(arch, " ", precision));
      const std::string model = with_layers(tiny, c.layers);
      const int64_t seq_len = std::string(precision) == "fp32" ? c.fp32_seq_len : 16;
      auto& one = one_rank_[str(precision, c.layers, arch, seq_len)];
      if (one.losses.empty()) one = test::train_on_mesh(*runs_, model, precision, "{}", 1, seq_len);
      const auto many = test::train_on_mesh(*runs_, model, precision, c.mesh, c.world, seq_len,
                                            str("recompute: ", c.recompute));
      test::expect_same_run(one, many, bound);
    }
}

// GoldFinch of 4 blocks has 2 GOLD blocks: its borders carry the embeddings or the shared keys and values.
// The tensor axis cuts sums, whose rounding in fp32 four disturbed blocks would amplify beyond the bound.
INSTANTIATE_TEST_SUITE_P(
    Pipe, PipeTraining,
    testing::Values(PipeCase{"two", "{pipe: 2}", 2, 4}, PipeCase{"four", "{pipe: 4}", 4, 4},
                    PipeCase{"unequal", "{pipe: 2, pipe_split: [3, 1]}", 2, 4, "block"},
                    PipeCase{"three", "{pipe: 3, pipe_split: [1, 1, 2]}", 3, 4, "selective"},
                    PipeCase{"data", "{data: 2, pipe: 2}", 4, 4},
                    PipeCase{"fewer_micro_batches", "{data: 2, pipe: 4}", 8, 4},
                    PipeCase{"zero0", "{data: 2, pipe: 2, zero: 0}", 4, 4},
                    PipeCase{"zero2", "{data: 2, pipe: 2, zero: 2}", 4, 4},
                    PipeCase{"zero3", "{data: 2, pipe: 2, zero: 3}", 4, 4, "block"},
                    PipeCase{"seq", "{pipe: 3, seq: 2, pipe_split: [2, 1, 1]}", 6, 4, "selective", 64},
                    PipeCase{"tensor", "{pipe: 2, tensor: 2}", 4, 2, "selective"},
                    PipeCase{"data_tensor", "{data: 2, pipe: 2, tensor: 2}", 8, 2}),
    [](const auto& one) { return one.param.name; });

// Each stage knows where documents begin.
TEST_F(PipeTraining, OnDocumentsIsThatOfOneRank) {
  for (const auto& [arch, tiny] : test::tiny_models()) {
    const std::string model = with_layers(tiny, 4);
    const std::vector<int64_t> documents{2, 9, 12};
    const test::DocumentStep one = test::step_on_documents(*runs_, model, "{}", 1, documents, "none");
    EXPECT_NE(one.loss, test::step_on_documents(*runs_, model, "{}", 1, {}, "none").loss);
    for (const auto& [mesh, world] : {std::pair{"{pipe: 4}", 4},
                                      {"{pipe: 3, seq: 2, zero: 0, pipe_split: [1, 1, 2]}", 6},
                                      {"{pipe: 2, seq: 2, zero: 0, pipe_split: [3, 1]}", 4}}) {
      SCOPED_TRACE(str(arch, " on ", mesh));
      const test::DocumentStep many = test::step_on_documents(*runs_, model, mesh, world, documents, "block");
      EXPECT_NEAR(many.loss, one.loss, 1e-12 * one.loss);
      for (const auto& [name, gradient] : one.gradients) {
        if (test::zero_in_theory(name)) continue;
        const std::vector<double>& other = many.gradients.at(name);
        double squares = 0, difference = 0;
        for (size_t i = 0; i < gradient.size(); ++i) {
          squares += gradient[i] * gradient[i];
          difference += (other[i] - gradient[i]) * (other[i] - gradient[i]);
        }
        EXPECT_LE(std::sqrt(difference), 1e-10 * std::sqrt(squares)) << name;
      }
    }
  }
}

}  // namespace
}  // namespace rookery
