// comm_rank.cpp: one rank of comm_fault_test: `comm_rank WHAT` joins the world that its environment names,
// does WHAT and ends as the program does: 0, or the error's message and exit code.
//   wait     looks for an alarm for TEST_SECONDS
//   work     60 rounds of all collectives in phases; TEST_ROUND and TEST_FAULT (kill, stop, throw, loop) say
//   what
//            befalls TEST_RANK in one of them, before its barrier
//   differ   rank 1 calls something else, TEST_CALL (kind, size, shorter)
//   deaf     rank 0 throws, the others never look
// TEST_HERE names files that the rank makes, with its process id in them, when it has joined the world.
// TEST_GPU, TEST_GPU_ERROR, TEST_VERSION, TEST_CONFIG: how the rank introduces itself.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "parallel/comm/comm_stream.h"
#include "parallel/comm/world.h"

namespace rookery {
namespace {

std::string variable(const char* name, const char* otherwise = "") {
  const char* value = std::getenv(name);
  return value ? value : otherwise;
}
int number(const char* name, int otherwise) {
  return static_cast<int>(std::strtol(variable(name, str(otherwise).c_str()).c_str(), nullptr, 10));
}

void befall(const std::string& fault) {
  if (fault == "kill") ::raise(SIGKILL);
  if (fault == "stop") ::raise(SIGSTOP);
  if (fault == "throw") fail(ExitCode::kNumerics, "NUM-01", "the loss is not a number");
  while (fault == "loop") std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

void work(World& world) {
  Device device(DeviceType::kCpu, 1);
  Communicator& all = world.communicator();
  const auto behind = all.split(0, all.rank());
  const int64_t n = 1 << 16;
  const Tensor x = zeros({all.size(), n}, DType::kF32, device), part = zeros({n}, DType::kF32, device),
               y = zeros({n}, DType::kF32, device);
  const bool mine = world.rank() == number("TEST_RANK", -1);
  CommStream stream(all);
  for (int round = 0; round < 60; ++round) {
    world.watch()->set_phase(str("round ", round));
    stream.submit([&] { behind->all_reduce(y, Reduce::kSum); });
    all.reduce_scatter(x, part, Reduce::kSum);
    all.all_gather(part, x);
    all.send(part, (all.rank() + 1) % all.size());
    all.recv(part, (all.rank() + all.size() - 1) % all.size());
    if (mine && round == number("TEST_ROUND", 30)) befall(variable("TEST_FAULT"));
    all.barrier();
    stream.finish();
  }
}

void differ(World& world) {
  Device device(DeviceType::kCpu, 1);
  Communicator& all = world.communicator();
  const std::string call = variable("TEST_CALL");
  const bool other = world.rank() == 1;
  const int64_t n = !other ? 1000 : call == "size" ? 1008 : call == "shorter" ? 992 : 1000;
  const Tensor x = zeros({n}, DType::kF32, device);
  if (other && call == "kind")
    all.broadcast(x, 0);
  else
    all.all_reduce(x, Reduce::kSum);
  all.barrier();
}

int run(const std::string& what) {
  World::Options options = World::from_environment();
  options.version = variable("TEST_VERSION", "1");
  options.fingerprint = variable("TEST_CONFIG", "a");
  options.leave_limit = std::chrono::seconds(2);
  options.use_gpu = [](int) {
    if (const std::string why = variable("TEST_GPU_ERROR"); !why.empty())
      fail(ExitCode::kUnavailable, "COMM-08", why);
    return variable("TEST_GPU");
  };
  World world(options);
  if (const std::string here = variable("TEST_HERE"); !here.empty()) {
    std::ofstream(here + ".tmp" + str(world.rank())) << ::getpid();
    std::filesystem::rename(here + ".tmp" + str(world.rank()), here + str(world.rank()));
  }
  world.run([&] {
    if (what == "work") return work(world);
    if (what == "differ") return differ(world);
    if (what == "deaf") {
      if (world.rank() == 0) fail(ExitCode::kData, "DATA-01", "the data is bad");
      std::this_thread::sleep_for(std::chrono::minutes(1));
    }
    world.watch()->set_phase("waiting");
    for (int i = 0; i < 100 * number("TEST_SECONDS", 1); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      world.watch()->check();
    }
  });
  return 0;
}

}  // namespace
}  // namespace rookery

int main(int argc, char** argv) {
  try {
    return rookery::run(argc > 1 ? argv[1] : "");
  } catch (const rookery::Error& e) {
    std::fprintf(stderr, "error[%s]: %s\n", e.id().c_str(), e.what());
    return static_cast<int>(e.code());
  }
}
