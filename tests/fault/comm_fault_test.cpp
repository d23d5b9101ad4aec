// comm_fault_test.cpp: worlds of real processes (comm_rank.cpp) of which one is missing, wrong, killed or
// stopped: the others end with the documented codes, name it, and nobody is left behind.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>

#include <chrono>
#include <thread>

#include "kernels/base/str.h"
#include "parallel/comm/mpi.h"
#include "tests/support/program.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

using std::chrono::milliseconds;
using test::Environment;

constexpr int kKilled = 128 + SIGKILL;

struct Ended {
  int code = -1;
  std::string err;
};
::testing::AssertionResult ends(const Ended& e, int code, const std::vector<std::string>& parts) {
  if (e.code != code) return ::testing::AssertionFailure() << "found " << e.code << ": " << e.err;
  for (const std::string& part : parts)
    if (e.err.find(part) == std::string::npos)
      return ::testing::AssertionFailure() << e.err << "\nlacks: " << part;
  return ::testing::AssertionSuccess();
}

std::string rank_program() {
  return (fs::read_symlink("/proc/self/exe").parent_path() / "comm_rank").string();
}

// PREFIX0, PREFIX1, ..: until all are there.
void await_files(const std::string& prefix, int count) {
  for (int i = 0; i < count; ++i)
    for (int tries = 0; tries < 3000 && !fs::exists(prefix + str(i)); ++tries)
      std::this_thread::sleep_for(milliseconds(10));
}

int free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ::bind(fd, reinterpret_cast<sockaddr*>(&at), sizeof at);
  socklen_t size = sizeof at;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&at), &size);
  ::close(fd);
  return ntohs(at.sin_port);
}

// Ranks started as torchrun does it: children of this process.
class Children {
 public:
  explicit Children(std::string what = "wait", int world_size = 3)
      : what_(std::move(what)), size_(world_size) {}
  ~Children() {
    for (const pid_t pid : pids_)
      if (pid > 0) {
        ::kill(pid, SIGKILL);
        test::wait_for(pid);
      }
  }

  void start(int rank, const Environment& more = {}) {
    Environment environment{
        {"RANK", str(rank)},         {"WORLD_SIZE", str(size_)},     {"MASTER_ADDR", "127.0.0.1"},
        {"MASTER_PORT", str(port_)}, {"ROOKERY_COMM_TIMEOUT", "30"}, {"ROOKERY_COMM_START_LIMIT", "20"},
        {"TEST_HERE", here_}};
    environment.insert(environment.end(), more.begin(), more.end());
    const std::string err = (dir_.path() / str("err.", pids_.size())).string();
    pids_.push_back(
        test::start({"/bin/sh", "-c", str("exec ", rank_program(), " ", what_, " 2> ", err)}, environment));
  }
  void start_all(const Environment& more = {}) {
    for (int r = 0; r < size_; ++r) start(r, more);
  }
  void await_start() const { await_files(here_, size_); }
  pid_t pid(size_t i) const { return pids_[i]; }
  int port() const { return port_; }

  Ended wait(size_t i) {
    const test::Outcome o = test::wait_for(pids_[i]);
    pids_[i] = 0;
    return {o.signal ? 128 + o.signal : o.exit_code, test::slurp(dir_.path() / str("err.", i))};
  }
  std::vector<Ended> wait_all() {
    std::vector<Ended> all;
    for (size_t i = 0; i < pids_.size(); ++i) all.push_back(wait(i));
    return all;
  }

 private:
  std::string what_;
  int size_, port_ = free_port();
  test::TempDir dir_;
  const std::string here_ = (dir_.path() / "here").string();
  std::vector<pid_t> pids_;
};

TEST(StartFault, AWorldThatFitsTogetherStartsAndEnds) {
  Children world;
  world.start_all({{"TEST_SECONDS", "0"}});
  for (const Ended& e : world.wait_all()) EXPECT_TRUE(ends(e, 0, {}));
}

TEST(StartFault, AMissingRankIsNamed) {
  Children world("wait", 4);
  for (const int r : {0, 2}) world.start(r, {{"ROOKERY_COMM_START_LIMIT", "1"}});
  for (const Ended& e : world.wait_all())
    EXPECT_TRUE(ends(e, 77, {"error[COMM-04]: rank 1, 3 of 4 did not come", "rank 0 on", "rank 2 on"}));
}

TEST(StartFault, TwoProcessesOfOneRank) {
  Children world;
  for (const int r : {0, 1, 1}) world.start(r);
  const std::string pid = str("(process ", world.pid(1), ")"), other = str("(process ", world.pid(2), ")");
  for (const Ended& e : world.wait_all())
    EXPECT_TRUE(ends(e, 69, {"error[COMM-05]: two processes are rank 1", pid, other}));
}

TEST(StartFault, AProcessTooMany) {
  Children world("wait", 2);
  world.start_all({{"TEST_SECONDS", "30"}});
  world.await_start();
  world.start(1);
  EXPECT_TRUE(ends(world.wait(2), 69, {"error[COMM-05]: rank 1", "all 2 ranks are there already"}));
  for (size_t i = 0; i < 2; ++i) ::kill(world.pid(i), SIGKILL);
}

TEST(StartFault, OtherWorldSize) {
  Children world;
  world.start(0);
  world.start(1, {{"WORLD_SIZE", "2"}});
  for (const Ended& e : world.wait_all())
    EXPECT_TRUE(ends(e, 69, {"error[COMM-05]", "was told of 3 ranks", "rank 1", "of 2"}));
}

TEST(StartFault, OtherConfigurationOrProgram) {
  for (const auto& [name, code, text] : {std::tuple{"TEST_CONFIG", 78, "different configurations (a and b)"},
                                         {"TEST_VERSION", 69, "runs b"}}) {
    Children world;
    world.start(0);
    world.start(1);
    world.start(2, {{name, "b"}});
    for (const Ended& e : world.wait_all())
      EXPECT_TRUE(ends(e, code, {"error[COMM-06]: rank 0 on", "rank 2 on", text}));
  }
}

TEST(StartFault, TwoRanksOnOneGpu) {
  Children world;
  for (const int r : {0, 1, 2}) world.start(r, {{"TEST_GPU", r == 0 ? "GPU-a" : "GPU-b"}});
  for (const Ended& e : world.wait_all())
    EXPECT_TRUE(ends(e, 69, {"error[COMM-08]", "rank 1 on", "rank 2 on", "use one GPU, GPU-b"}));
}

TEST(StartFault, ARankWithoutAGpu) {
  Children world;
  for (const int r : {0, 1, 2}) world.start(r, {{"TEST_GPU_ERROR", r == 1 ? "found 1 GPU, expected 2" : ""}});
  const auto all = world.wait_all();
  EXPECT_TRUE(ends(all[1], 69, {"error[COMM-08]: found 1 GPU, expected 2"}));
  for (const size_t i : {0, 2})
    EXPECT_TRUE(ends(all[i], 76, {"error[COMM-03]: rank 1 on", "cannot start: found 1 GPU, expected 2"}));
}

TEST(StartFault, PortsAndNames) {
  Children world("wait", 2);
  const int taken = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  at.sin_port = htons(static_cast<uint16_t>(world.port()));
  ASSERT_EQ(::bind(taken, reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
  const Environment brief{{"ROOKERY_COMM_START_LIMIT", "0.5"}};
  world.start(0, brief);
  world.start(1, brief);
  world.start(1, {{"ROOKERY_COMM_START_LIMIT", "0.5"}, {"MASTER_ADDR", "no-such-host.invalid"}});
  const auto all = world.wait_all();
  ::close(taken);
  const std::string port = str(":", world.port());
  EXPECT_TRUE(ends(all[0], 69, {"error[COMM-07]", "127.0.0.1" + port, "errno 98"}));
  EXPECT_TRUE(ends(all[1], 69, {"error[COMM-07]: rank 1", "127.0.0.1" + port, "errno 111"}));
  EXPECT_TRUE(ends(all[2], 69, {"error[COMM-07]: rank 1", "no-such-host.invalid" + port}));
}

// Without MPI there is nothing that carries tensors between ranks on the CPU.
TEST(StartFault, RanksThatMpiDidNotStart) {
  Children world("work", 2);
  world.start_all();
  const auto all = world.wait_all();
  int refused = 0;
  for (const Ended& e : all) {
    refused += e.code == 69;
    EXPECT_TRUE(ends(e, 69, {"error[COMM-09]", "WORLD_SIZE=2", "mpirun"}) || ends(e, 76, {"COMM-09"}));
  }
  EXPECT_GE(refused, 1);
}

TEST(StartFault, VariablesThatAreNoNumbers) {
  Children world;
  world.start(0, {{"RANK", "7"}});
  world.start(0, {{"WORLD_SIZE", "many"}});
  world.start(0, {{"ROOKERY_COMM_TIMEOUT", "soon"}});
  const auto all = world.wait_all();
  EXPECT_TRUE(ends(all[0], 69, {"error[COMM-05]: RANK: found '7', expected a number from 0 to 2"}));
  EXPECT_TRUE(ends(all[1], 69, {"error[COMM-05]: WORLD_SIZE: found 'many'"}));
  EXPECT_TRUE(ends(all[2], 64, {"error[COMM-10]: ROOKERY_COMM_TIMEOUT: found 'soon'"}));
}

TEST(LifeFault, AKilledRankIsMissedAtOnce) {
  for (const size_t victim : {0, 1}) {
    Children world;
    world.start_all({{"TEST_SECONDS", "60"}, {"ROOKERY_COMM_TIMEOUT", "60"}});
    world.await_start();
    const auto begin = std::chrono::steady_clock::now();
    ::kill(world.pid(victim), SIGKILL);
    const auto all = world.wait_all();
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
    for (size_t i = 0; i < 3; ++i)
      if (i == victim) {
        EXPECT_TRUE(ends(all[i], kKilled, {}));
      } else {
        EXPECT_TRUE(
            ends(all[i], 76, {"error[COMM-03]: ", str("rank ", victim, " on "), "is gone; it was in: "}));
      }
  }
}

TEST(LifeFault, AStoppedRankIsNamedAfterTheTimeLimit) {
  for (const size_t victim : {0, 2}) {
    Children world;
    world.start_all({{"TEST_SECONDS", "60"}, {"ROOKERY_COMM_TIMEOUT", "2"}});
    world.await_start();
    ::kill(world.pid(victim), SIGSTOP);
    for (size_t i = 0; i < 3; ++i) {
      if (i == victim) continue;
      EXPECT_TRUE(ends(world.wait(i), 77,
                       {"error[COMM-01]: ", str("rank ", victim, " on "), "no sign of life", "waiting"}));
    }
    // When it goes on it sees that it is late, and leaves.
    ::kill(world.pid(victim), SIGCONT);
    const Ended late = world.wait(victim);
    EXPECT_TRUE(late.code == 76 || late.code == 77) << late.code << late.err;
  }
}

TEST(LifeFault, AProcessThatDoesNotLookIsEndedByForce) {
  Children world("deaf");
  world.start_all();
  const auto all = world.wait_all();
  EXPECT_TRUE(ends(all[0], 65, {"error[DATA-01]: the data is bad"}));
  for (const size_t i : {1, 2})
    EXPECT_TRUE(ends(all[i], 76, {"error[COMM-03]: rank 0 on", "DATA-01: the data is bad", "by itself"}));
}

// Ranks that mpirun started; each ends by itself, whatever befalls the others.
class MpiFault : public testing::Test {
 protected:
  void SetUp() override {
    if (!mpi::built()) GTEST_SKIP() << "this build has no MPI";
  }
  // --enable-recovery: mpirun leaves the others alone when one fails.
  std::vector<std::string> command(const std::string& what, int ranks, bool recovery = true) const {
    const std::string to = dir_.path().string();
    std::vector<std::string> words{"/usr/bin/env", "mpirun", "--oversubscribe"};
    if (recovery) words.push_back("--enable-recovery");
    for (const std::string& w :
         {std::string("-np"), str(ranks), std::string("sh"), std::string("-c"),
          str(rank_program(), " ", what, " 2> ", to, "/err.$OMPI_COMM_WORLD_RANK; echo $? > ", to,
              "/code.$OMPI_COMM_WORLD_RANK")})
      words.push_back(w);
    return words;
  }
  static Environment environment(Environment more) {
    more.insert(more.end(), {{"OMPI_ALLOW_RUN_AS_ROOT", "1"},
                             {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
                             {"ROOKERY_COMM_START_LIMIT", "30"}});
    return more;
  }
  Ended ended(int rank) const {
    const std::string code = test::slurp(dir_.path() / str("code.", rank));
    return {code.empty() ? -1 : std::stoi(code), test::slurp(dir_.path() / str("err.", rank))};
  }
  std::vector<Ended> run(const std::string& what, int ranks, const Environment& more) {
    fs::remove_all(dir_.path());
    fs::create_directory(dir_.path());
    test::run_program(command(what, ranks), environment(more));
    std::vector<Ended> all;
    for (int r = 0; r < ranks; ++r) all.push_back(ended(r));
    return all;
  }
  test::TempDir dir_;
};

TEST_F(MpiFault, WithoutAFaultAllEndWell) {
  for (const char* verify : {"0", "1"})
    for (const Ended& e : run("work", 3, {{"ROOKERY_COMM_VERIFY", verify}})) EXPECT_TRUE(ends(e, 0, {}));
}

TEST_F(MpiFault, AKilledRank) {
  for (const int victim : {0, 2}) {
    const auto all = run("work", 3, {{"TEST_FAULT", "kill"}, {"TEST_RANK", str(victim)}});
    for (int r = 0; r < 3; ++r)
      if (r == victim) {
        EXPECT_TRUE(ends(all[r], kKilled, {}));
      } else {
        EXPECT_TRUE(ends(all[r], 76, {"error[COMM-03]: ", str("rank ", victim, " on "), "is gone"}));
      }
  }
}

// Before its n-th collective of any kind, on either of its threads.
TEST_F(MpiFault, KilledBeforeEachKindOfCollective) {
  for (const int nth : {1, 2, 3, 4, 5, 6, 7, 8}) {
    const auto all = run("work", 2, {{"ROOKERY_FAULT", str("comm.collective@", nth, ":kill")}});
    for (const Ended& e : all) EXPECT_TRUE(ends(e, kKilled, {}) || ends(e, 76, {"COMM-03", "is gone"}));
  }
}

TEST_F(MpiFault, ARankThatHangs) {
  const auto all =
      run("work", 3, {{"TEST_FAULT", "loop"}, {"TEST_RANK", "1"}, {"ROOKERY_COMM_TIMEOUT", "2"}});
  for (const int r : {0, 2})
    EXPECT_TRUE(ends(all[r], 77, {"error[COMM-01]: ", "waits in barrier", "for rank 1 on", "round 30"}));
  EXPECT_TRUE(ends(all[1], 77, {"by itself"}));
}

TEST_F(MpiFault, AStoppedRank) {
  const std::string here = (dir_.path() / "here").string();
  const pid_t mpirun = test::start(
      command("work", 3),
      environment(
          {{"TEST_FAULT", "stop"}, {"TEST_RANK", "1"}, {"TEST_HERE", here}, {"ROOKERY_COMM_TIMEOUT", "2"}}));
  await_files(here, 3);
  for (int tries = 0; tries < 3000 && (ended(0).code < 0 || ended(2).code < 0); ++tries)
    std::this_thread::sleep_for(milliseconds(10));
  ::kill(std::stoi(test::slurp(here + "1")), SIGKILL);
  test::wait_for(mpirun);
  for (const int r : {0, 2}) EXPECT_TRUE(ends(ended(r), 77, {"error[COMM-01]: ", "rank 1 on", "round 30"}));
}

// As users run it: mpirun ends what does not end by itself.
TEST_F(MpiFault, NobodyIsLeftBehind) {
  const std::string here = (dir_.path() / "here").string();
  const auto done = test::run_program(
      command("work", 3, false),
      environment(
          {{"TEST_FAULT", "stop"}, {"TEST_RANK", "1"}, {"TEST_HERE", here}, {"ROOKERY_COMM_TIMEOUT", "2"}}));
  EXPECT_NE(done.code, 0);
  for (int r = 0; r < 3; ++r) {
    const pid_t pid = std::stoi(test::slurp(here + str(r)));
    for (int tries = 0; tries < 1000 && ::kill(pid, 0) == 0; ++tries)
      std::this_thread::sleep_for(milliseconds(10));
    EXPECT_NE(::kill(pid, 0), 0) << "rank " << r;
  }
}

TEST_F(MpiFault, ARankThatFails) {
  const auto all = run("work", 3, {{"TEST_FAULT", "throw"}, {"TEST_RANK", "1"}});
  EXPECT_TRUE(ends(all[1], 79, {"error[NUM-01]"}));
  for (const int r : {0, 2}) EXPECT_TRUE(ends(all[r], 76, {"error[COMM-03]: rank 1 on", "failed: "}));
}

TEST_F(MpiFault, DifferentCollectivesAreNamedWhereTheyAreVerified) {
  for (const auto& [call, text] :
       {std::pair{"kind", "broadcast 1000 f32 from rank 0"}, {"size", "all_reduce (sum) of 1008 f32"}}) {
    const auto all = run("differ", 3, {{"TEST_CALL", call}, {"ROOKERY_COMM_VERIFY", "1"}});
    int found = 0;
    for (const Ended& e : all) {
      EXPECT_TRUE(e.code == 70 || e.code == 76) << e.code << e.err;
      EXPECT_NE(e.err.find("rank 1 on"), std::string::npos) << e.err;
      EXPECT_NE(e.err.find(text), std::string::npos) << e.err;
      found += e.code == 70;
    }
    EXPECT_GE(found, 1);
  }
}

TEST_F(MpiFault, DifferentSizesAreFoundAnyway) {
  for (const char* call : {"size", "shorter"}) {
    const auto all = run("differ", 2, {{"TEST_CALL", call}});
    int found = 0;
    for (const Ended& e : all) {
      EXPECT_TRUE(e.code == 70 || e.code == 76) << e.code << e.err;
      EXPECT_NE(e.err.find("ROOKERY_COMM_VERIFY=1"), std::string::npos) << e.err;
      found += e.code == 70;
    }
    EXPECT_GE(found, 1);
  }
}

// The variables of another MPI's launcher: this one sees a single rank.
TEST_F(MpiFault, AnotherKindOfMpi) {
  const auto done = test::run_program({rank_program(), "wait"}, {{"PMI_RANK", "0"}, {"PMI_SIZE", "8"}});
  EXPECT_TRUE(ends({done.code, done.err}, 69, {"error[COMM-05]", "PMI_SIZE=8", "sees 1 rank"}));
}

}  // namespace
}  // namespace rookery
