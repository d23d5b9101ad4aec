// ranks_mpi.cpp: the main of tests whose ranks are processes, started by mpirun. Every rank runs every test.
#include <gtest/gtest.h>

#include "parallel/comm/world.h"
#include "tests/support/ranks.h"

namespace rookery {
namespace {

World* world = nullptr;

}  // namespace

void test::on_ranks(int n, const std::function<void(Communicator&, Device&)>& body) {
  if (n > world->size()) return;
  Communicator& all = world->communicator();
  const auto first = all.split(all.rank() < n ? 0 : -1, all.rank());
  if (first) {
    Device device(DeviceType::kCpu, 1);
    body(*first, device);
  }
  all.barrier();
}

}  // namespace rookery

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  rookery::World here(rookery::World::from_environment());
  rookery::world = &here;
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (here.rank() > 0) delete listeners.Release(listeners.default_result_printer());
  const int failed = RUN_ALL_TESTS();
  if (failed == 0) here.finish();
  return failed;
}
