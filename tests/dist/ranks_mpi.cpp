// ranks_mpi.cpp: the main of tests whose ranks are processes, started by mpirun. Every rank runs every test.
#include <gtest/gtest.h>

#include <memory>

#include "parallel/comm/mpi.h"
#include "tests/support/ranks.h"

namespace rookery {
namespace {

std::unique_ptr<Communicator> world;

}  // namespace

void test::on_ranks(int n, const std::function<void(Communicator&, Device&)>& body) {
  if (n > world->size()) return;
  const auto first = world->split(world->rank() < n ? 0 : -1, world->rank());
  if (first) {
    Device device(DeviceType::kCpu, 1);
    body(*first, device);
  }
  world->barrier();
}

}  // namespace rookery

int main(int argc, char** argv) {
  using namespace rookery;
  testing::InitGoogleTest(&argc, argv);
  mpi::Session session;
  Watch::Options options;
  options.timeout = std::chrono::minutes(1);
  world = session.communicator(std::make_shared<Watch>(session.rank(), session.size(), options));
  if (session.rank() > 0)
    delete testing::UnitTest::GetInstance()->listeners().Release(
        testing::UnitTest::GetInstance()->listeners().default_result_printer());
  const int failed = RUN_ALL_TESTS();
  world.reset();
  if (failed == 0) session.finish();
  return failed;
}
