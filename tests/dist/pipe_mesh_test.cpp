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
      auto& one = one_rank_[str(precision, c.layers, arch)];
      if (one.losses.empty()) one = test::train_on_mesh(*runs_, model, precision, "{}", 1);
      const auto many =
          test::train_on_mesh(*runs_, model, precision, c.mesh, c.world, 16, str("recompute: ", c.recompute));
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
                    PipeCase{"tensor", "{pipe: 2, tensor: 2}", 4, 2, "selective"},
                    PipeCase{"data_tensor", "{data: 2, pipe: 2, tensor: 2}", 8, 2}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace rookery
