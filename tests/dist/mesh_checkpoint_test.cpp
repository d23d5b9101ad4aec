// mesh_checkpoint_test.cpp: what one mesh saves another loads, parameters and moments bit for bit, there and
// back.
#include <fstream>

#include "tests/dist/mesh_run.h"
#include "trainer/config/writers.h"
#include "trainer/loop/checkpointing.h"

namespace rookery {
namespace fs = std::filesystem;
namespace {

namespace fs = std::filesystem;

struct Saver {
  std::string mesh;
  int64_t world;
};

const std::vector<Saver>& meshes() {
  static const std::vector<Saver> all{{"{}", 1},
                                      {"{data: 2, zero: 0}", 2},
                                      {"{data: 2, zero: 1}", 2},
                                      {"{data: 4, zero: 2}", 4},
                                      {"{data: 3, zero: 3}", 3},
                                      {"{data: 2, pipe: 2, zero: 3}", 4}};
  return all;
}

class MeshCheckpoint : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    register_models();
    register_recipes();
    runs_ = std::make_unique<test::TinyRuns>();
  }
  static void TearDownTestSuite() { runs_.reset(); }

  // Ranks of a mesh that load the newest checkpoint of a run, or begin with `steps` steps, and save what
  // they then have under another step.
  static void pass_on(const Saver& on, const fs::path& from, const fs::path& to, int64_t step,
                      bool beside = false) {
    run_ranks(static_cast<int>(on.world), [&](Communicator& comm) {
      config::RunConfig config = test::mesh_config(*runs_, test::tiny_models().at("rwkv7"), "fp64", on.mesh);
      // Batches that every number of ranks divides.
      config.recipe->micro_batch_size = 1;
      config.recipe->global_batch_size = 12;
      const Mesh mesh(config.mesh.degrees(on.world), comm);
      loop::Session session =
          loop::make_session(std::move(config), std::make_unique<Device>(DeviceType::kCpu, 1), mesh);
      const auto recipe = make_recipe(*session.config.recipe);
      const auto loader = loop::make_loader(session.config, session.model->vocab_size(), mesh);
      AdamW optim(*session.store, loop::make_adamw_config(session.config),
                  [&](const Parameter& p) { return session.model->optim_group(p); });
      loop::TrainState state;
      state.run_id = "test";
      const auto hear = [](const std::string& text) { ADD_FAILURE() << text; };
      if (!from.empty()) {
        loop::RunFolder source(from, hear, comm);
        const auto found = source.find("");
        ASSERT_TRUE(found);
        source.load(*found, *session.store, optim);
        state = found->state;
      } else {
        loop::TrainStep train(session, *recipe, optim);
        session.model->parameters.initialize(
            7, [&](const Parameter& p, const Tensor& values) { session.store->assign(p, values); });
        session.store->publish();
        for (int i = 0; i < 2; ++i) train.run(loop::read_step(*loader, session.config, mesh, 12 * i), 3e-4);
      }
      state.step = step;
      loop::RunFolder target(to, hear, comm);
      const std::string yaml = config::resolved_yaml(session.config);
      if (beside) {
        target.start_save(state, *session.store, optim, yaml, {});
        // What training does meanwhile is not in the checkpoint.
        for (const ParamStore::Part& part : session.store->parts()) fill_zero(part.master);
        target.finish_save();
      } else {
        target.save(state, *session.store, optim, yaml, {});
      }
      comm.barrier();  // before the next folder is opened
    });
  }

  static void expect_same(const fs::path& left, const fs::path& right) {
    for (const char* group : {"param", "opt/m", "opt/v"})
      EXPECT_EQ(test::values_of(left, group), test::values_of(right, group)) << group;
    EXPECT_TRUE(checkpoint::verify(right).empty());
  }

  static inline std::unique_ptr<test::TinyRuns> runs_;
};

TEST_F(MeshCheckpoint, IsTheSameBitsThroughEveryPairOfMeshes) {
  const fs::path origin = runs_->path("origin");
  pass_on(meshes()[4], "", origin, 2);
  const fs::path first = checkpoint::folder_of(origin, 2);
  for (const Saver& there : meshes()) {
    SCOPED_TRACE(there.mesh);
    const fs::path a = runs_->path("there " + there.mesh);
    pass_on(there, origin, a, 3);
    expect_same(first, checkpoint::folder_of(a, 3));
    for (const Saver& back : meshes()) {
      SCOPED_TRACE(back.mesh);
      const fs::path b = runs_->path("back " + there.mesh + back.mesh);
      pass_on(back, a, b, 4);
      expect_same(first, checkpoint::folder_of(b, 4));
    }
  }
}

TEST_F(MeshCheckpoint, SavedBesideTheTrainingItIsOfItsStep) {
  const fs::path origin = runs_->path("plain");
  pass_on(meshes()[3], "", origin, 2);
  for (const Saver& on : {meshes()[0], meshes()[3]}) {
    const fs::path copy = runs_->path("beside " + on.mesh);
    pass_on(on, origin, copy, 3, true);
    expect_same(checkpoint::folder_of(origin, 2), checkpoint::folder_of(copy, 3));
  }
}

// A disk that fails on one rank: all hear of it, nothing is left, and the next save succeeds.
TEST_F(MeshCheckpoint, AFailureOnOneRankIsOneOfAll) {
  const fs::path origin = runs_->path("good");
  pass_on(meshes()[2], "", origin, 2);
  const fs::path to = runs_->path("bad");
  fs::create_directories(to);
  std::ofstream(to / "checkpoints") << "no folder";
  EXPECT_THROW(pass_on(meshes()[2], origin, to, 3), Error);
  fs::remove(to / "checkpoints");
  pass_on(meshes()[2], origin, to, 3);
  expect_same(checkpoint::folder_of(origin, 2), checkpoint::folder_of(to, 3));
}

}  // namespace
}  // namespace rookery
