// nccl_test.cpp: which GPU a rank takes, and NCCL with one rank where there is a GPU; without one those tests
// skip themselves.
#include "parallel/comm/nccl.h"

#include <gtest/gtest.h>

#include "kernels/cuda/device.h"
#include "parallel/comm/comm_stream.h"

namespace rookery {
namespace {

cuda::Runtime machine_with(int gpus) {
  cuda::Runtime r;
  r.built = true;
  r.toolkit = r.driver = 13000;
  r.architectures = "90a";
  for (int i = 0; i < gpus; ++i) {
    cuda::Gpu gpu;
    gpu.index = i;
    gpu.name = "H100";
    gpu.major = 9;
    gpu.uuid = str("GPU-", i);
    r.gpus.push_back(gpu);
  }
  cuda::diagnose(r);
  return r;
}

void expect_refused(const cuda::Runtime& r, int local_rank, const char* visible,
                    const std::vector<std::string>& parts) {
  try {
    cuda::gpu_of_rank(r, local_rank, visible);
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kUnavailable);
    EXPECT_EQ(e.id(), "COMM-08");
    for (const std::string& part : parts)
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what() << "\nlacks: " << part;
  }
}

TEST(GpuOfRank, IsThatOfItsPlaceOnTheMachine) {
  EXPECT_EQ(cuda::gpu_of_rank(machine_with(4), 2, nullptr).uuid, "GPU-2");
  EXPECT_EQ(cuda::gpu_of_rank(machine_with(1), 3, "3").index, 0);  // the launcher shows each rank its own
}

TEST(GpuOfRank, WhatWasSeenIsTold) {
  expect_refused(machine_with(2), 3, "0,1", {"local rank 3", "'0,1'", "GPUs are 2"});
  expect_refused(machine_with(0), 0, "", {"CUDA_VISIBLE_DEVICES is ''", "the driver shows no GPU"});
  cuda::Runtime mig = machine_with(1);
  mig.gpus[0].name = "NVIDIA H100 80GB HBM3 MIG 1g.10gb";
  EXPECT_EQ(cuda::gpu_of_rank(mig, 0, nullptr).index, 0);
  expect_refused(mig, 1, "MIG-1", {"MIG 1g.10gb", "a slice of a GPU"});
  cuda::Runtime old = machine_with(2);
  old.gpus[1].major = 7;
  cuda::diagnose(old);
  expect_refused(old, 1, nullptr, {"local rank 1", "compute capability 7.0", "not set"});
}

class OneGpu : public testing::Test {
 protected:
  void SetUp() override {
    const cuda::Runtime runtime = cuda::inspect();
    if (!runtime.problem.empty()) GTEST_SKIP() << runtime.problem;
    if (!nccl::built()) GTEST_SKIP() << "this build has no NCCL";
    device_ = cuda::make_device({});
    comm_ = nccl::communicator(*device_, nccl::unique_id(), std::make_shared<Watch>(0, 1, Watch::Options{}));
  }
  Tensor tensor(const std::vector<double>& values, DType dtype = DType::kF32) const {
    return tensor_from(std::span<const double>(values), {static_cast<int64_t>(values.size())}, dtype,
                       *device_);
  }
  std::unique_ptr<Device> device_;
  std::unique_ptr<Communicator> comm_;
};

TEST_F(OneGpu, EveryCollectiveOfOneRankKeepsWhatItHas) {
  const std::vector<double> values = {1, -2, 3.5};
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16}) {
    const Tensor x = tensor(values, dtype), y = zeros({3}, dtype, *device_);
    comm_->all_reduce(x, Reduce::kSum);
    EXPECT_EQ(to_doubles(x), values);
    for (const auto& call : std::vector<std::function<void()>>{
             [&] { comm_->reduce_scatter(x, y, Reduce::kMax); }, [&] { comm_->all_gather(x, y); },
             [&] { comm_->all_to_all(x, y, {}); },
             [&] {
               comm_->send(x, 0);
               comm_->recv(y, 0);
             }}) {
      fill_zero(y);
      call();
      EXPECT_EQ(to_doubles(y), values);
    }
    comm_->broadcast(x, 0);
    EXPECT_EQ(to_doubles(x), values);
  }
  comm_->barrier();
  EXPECT_EQ(comm_->split(-1, 0), nullptr);
  const auto part = comm_->split(3, 0);
  EXPECT_EQ(part->size(), 1);
  const Tensor x = tensor(values);
  part->all_reduce(x, Reduce::kMin);
  EXPECT_EQ(to_doubles(x), values);
}

TEST_F(OneGpu, AQueueRunsBesideTheDevicesOwnWork) {
  CommStream stream(*comm_, *device_);
  const Tensor x = tensor({1, 2, 3}), y = zeros({3}, DType::kF32, *device_);
  const auto ticket = stream.submit([&] {
    comm_->all_reduce(x, Reduce::kSum);
    copy(x, y);
  });
  stream.wait(ticket);
  EXPECT_EQ(to_doubles(sum_of(y, y)), (std::vector<double>{2, 4, 6}));
}

TEST_F(OneGpu, AnAlarmEndsTheNextCall) {
  comm_->abort("asked to");
  EXPECT_THROW(comm_->all_reduce(tensor({1}), Reduce::kSum), Error);
}

}  // namespace
}  // namespace rookery
