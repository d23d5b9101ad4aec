// launch_test.cpp: what each launcher's variables mean, and what is wrong with others.
#include "parallel/comm/launch.h"

#include <gtest/gtest.h>

#include <map>

#include "kernels/base/error.h"

namespace rookery {
namespace {

using Variables = std::map<std::string, std::string>;

Launch launch_of(const Variables& variables) {
  return read_launch([&](const char* name) {
    const auto it = variables.find(name);
    return it == variables.end() ? nullptr : it->second.c_str();
  });
}

TEST(Launch, WithoutALauncherThereIsOneRank) {
  const Launch l =
      launch_of({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"RANK", "3"}});  // a batch script
  EXPECT_EQ(l.starter, Launch::Starter::kNone);
  EXPECT_EQ(l.size, 1);
  EXPECT_EQ(l.rank, 0);
}

TEST(Launch, Mpirun) {
  const Launch l = launch_of({{"OMPI_COMM_WORLD_RANK", "5"},
                              {"OMPI_COMM_WORLD_SIZE", "8"},
                              {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                              {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                              {"SLURM_PROCID", "1"},  // of the daemon that srun started
                              {"SLURM_STEP_NUM_TASKS", "2"}});
  EXPECT_EQ(l.starter, Launch::Starter::kMpi);
  EXPECT_EQ(std::tuple(l.rank, l.size, l.local_rank, l.local_size), std::tuple(5, 8, 1, 4));
  EXPECT_EQ(l.told_by, "OMPI_COMM_WORLD_SIZE=8");
  const Launch m = launch_of({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}});
  EXPECT_EQ(m.starter, Launch::Starter::kMpi);
  EXPECT_EQ(std::tuple(m.rank, m.size, m.local_rank), std::tuple(1, 2, -1));
}

TEST(Launch, Torchrun) {
  Variables v{{"RANK", "2"},
              {"WORLD_SIZE", "4"},
              {"LOCAL_RANK", "0"},
              {"LOCAL_WORLD_SIZE", "2"},
              {"MASTER_ADDR", "node1"},
              {"MASTER_PORT", "29500"},
              {"SLURM_PROCID", "1"},
              {"SLURM_STEP_NUM_TASKS", "2"}};
  Launch l = launch_of(v);
  EXPECT_EQ(l.starter, Launch::Starter::kTorchrun);
  EXPECT_EQ(std::tuple(l.rank, l.size, l.local_rank, l.local_size), std::tuple(2, 4, 0, 2));
  EXPECT_EQ(l.address, "node1");
  EXPECT_EQ(l.port, 29500);
  v["TORCHELASTIC_USE_AGENT_STORE"] = "True";
  EXPECT_EQ(launch_of(v).port, 29501);
  v.erase("MASTER_ADDR");
  EXPECT_THROW(launch_of(v), Error);
}

TEST(Launch, Srun) {
  Variables v{{"SLURM_PROCID", "3"},
              {"SLURM_STEP_NUM_TASKS", "16"},
              {"SLURM_LOCALID", "3"},
              {"SLURM_JOB_ID", "123456"},
              {"SLURM_STEP_NODELIST", "gpu[003-006,9],cpu1"}};
  const Launch l = launch_of(v);
  EXPECT_EQ(l.starter, Launch::Starter::kSlurm);
  EXPECT_EQ(std::tuple(l.rank, l.size, l.local_rank), std::tuple(3, 16, 3));
  EXPECT_EQ(l.address, "gpu003");
  EXPECT_EQ(l.port, 15000 + 123456 % 15000);
  v["SLURM_STEP_NODELIST"] = "a,b[1-2]";
  EXPECT_EQ(launch_of(v).address, "a");
}

TEST(Launch, WhatIsNoNumberIsNamed) {
  for (const auto& [name, value] :
       Variables{{"RANK", "4"}, {"WORLD_SIZE", "0"}, {"LOCAL_RANK", "x"}, {"MASTER_PORT", "99999"}}) {
    Variables v{{"RANK", "2"}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "node1"}, {"MASTER_PORT", "29500"}};
    v[name] = value;
    try {
      launch_of(v);
      ADD_FAILURE() << name;
    } catch (const Error& e) {
      EXPECT_EQ(e.id(), "COMM-05");
      EXPECT_EQ(e.code(), ExitCode::kUnavailable);
      EXPECT_NE(std::string(e.what()).find(name + ": found '" + value), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace rookery
