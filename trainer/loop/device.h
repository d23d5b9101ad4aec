// device.h: what a run computes on: the key `device` of its configuration.
#pragma once

#include <memory>
#include <string>

#include "kernels/tensor/device.h"
#include "trainer/config/run_config.h"

namespace rookery::loop {

// cuda, emul: Error kUnavailable: DEV-02 to DEV-06 (kernels/cuda/device.h), or DEV-01, which names the
// operation that has no kernel. auto: the CPU.
std::unique_ptr<Device> make_device(const config::RunConfig& config);
// A device of this type for the configuration's keys, whatever has a kernel for it.
std::unique_ptr<Device> open_device(const config::RunConfig& config, DeviceType type);
// The kind of it, without making one: cuda although there may be none.
DeviceType device_type(const config::RunConfig& config);

// known_peak_tflops() of a GPU (trainer/loop/peak.h); 0: of none that is known.
double known_peak_tflops(const Device& device);

// Which operation of a training step has no kernel for `target`: the text of DEV-01; empty: all have.
std::string missing_kernel(const config::RunConfig& config, DeviceType target);

}  // namespace rookery::loop
