// support.h: how the tests of the emulator run a lambda as a kernel, and what they vary.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/cuda/portable.h"
#include "kernels/emul/options.h"

namespace rookery::test {

inline const Device& device() {
  static const Device cpu(DeviceType::kCpu, 1);
  return cpu;
}

inline void call(const std::function<void()>* body) { (*body)(); }
// One block of `threads` that runs `body`.
inline void run_block(unsigned threads, const std::function<void()>& body, size_t smem = 0) {
  rk::launch(device(), call, {1, threads, smem}, &body);
}
// The message of the fault that `body` ends in.
inline std::string fault_of(unsigned threads, const std::function<void()>& body, size_t smem = 0) {
  try {
    run_block(threads, body, smem);
  } catch (const Error& e) {
    return e.what();
  }
  return "no fault";
}
#define EXPECT_FAULT(message, part) EXPECT_NE((message).find(part), std::string::npos) << (message)

inline std::vector<emulator::Options> all_orders() {
  std::vector<emulator::Options> all;
  for (const emulator::Order order : {emulator::Order::kAscending, emulator::Order::kDescending,
                                      emulator::Order::kLastLanesFirst, emulator::Order::kOneWarpAhead})
    all.push_back({.order = order});
  for (const uint64_t seed : {1, 2, 3})
    all.push_back({.order = emulator::Order::kRandom, .seed = seed, .shuffle_blocks = true});
  return all;
}

}  // namespace rookery::test
