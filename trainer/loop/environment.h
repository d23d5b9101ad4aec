// environment.h: the folder of a run, and env.json: on what, by what and how the run was started.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/base/io.h"

namespace rookery::loop {

// Makes RUN/{checkpoints,tb,eval,samples,logs}; what exists stays. Throws Error kCannotCreate or kIo (from
// io) where that is not possible.
void create_run_folder(const io::fs::path& run_dir);

struct Machine {
  std::string host, cpu, os;
  std::vector<std::string>
      instruction_sets;      // those that matter for speed: avx2, fma, avx512f, avx512_bf16, amx_bf16, ...
  int cores = 0;             // that this process may use
  int64_t memory_bytes = 0;  // of the machine
};
Machine this_machine();

// What a process may still take without swapping: MemAvailable of the system, or the limit of this process's
// control groups where that is less. Bytes.
int64_t available_memory_bytes();

// Peak resident memory of this process, in bytes.
int64_t peak_memory_bytes();

// The ROOKERY_* variables that are set, with their values, by name.
std::vector<std::pair<std::string, std::string>> rookery_variables();
// What to say of one that neither the program nor its tests read: " is not known (did you mean ...?)"; else
// "".
std::string unknown_variable(std::string_view name);

// Writes RUN/env.json: versions of the program and its libraries (name and version each), machine, command
// line, working folder, ROOKERY_* variables, time of start, and how often the run was restarted, counted on
// from the env.json that was there before. Errors: those of io::write_file_atomic.
void write_environment(const io::fs::path& run_dir, const std::vector<std::string>& command_line,
                       const std::vector<std::pair<std::string, std::string>>& versions);

}  // namespace rookery::loop
