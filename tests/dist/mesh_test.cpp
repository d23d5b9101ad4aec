// mesh_test.cpp: five steps on every kind of mesh are those of one rank, for each architecture.
#include "tests/dist/mesh_run.h"

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

}  // namespace
}  // namespace rookery
