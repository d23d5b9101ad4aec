// doctor.cpp: `rookery doctor`: does what a run needs work on this machine? Each check is a line with what
// was found.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <span>

#include "data/hdf5/hdf5.h"
#include "kernels/base/fault.h"
#include "kernels/base/io.h"
#include "kernels/cuda/device.h"
#include "kernels/ops/matmul/product.h"
#include "trainer/checkpoint/run_lock.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/terminal.h"
#include "trainer/cli/version.h"
#include "trainer/loop/environment.h"

namespace rookery::cli {

namespace {

namespace fs = std::filesystem;

struct Check {
  std::string name, found;
  bool ok = true;
};

std::string gib(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f GiB", bytes / double(1 << 30));
  return text;
}

// A folder of its own below `parent`, gone at the end of the scope.
class ScratchFolder {
 public:
  explicit ScratchFolder(const fs::path& parent) {
    std::string pattern = (parent / "rookery-doctor-XXXXXX").string();
    if (!mkdtemp(pattern.data()))
      fail(ExitCode::kCannotCreate, "DOC-01", parent.string(), ": no folder can be made here");
    path_ = pattern;
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// What checkpoints do: a file written, synced and renamed, and read back.
std::string hdf5_round_trip(const fs::path& parent) {
  ScratchFolder folder(parent);
  const fs::path file = folder.path() / "probe.h5";
  std::vector<float> values(4096);
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(i) / 3;
  data::h5::Writer writer(file, "doctor");
  writer.dataset("/probe", std::span<const float>(values));
  writer.close();
  data::h5::Reader reader(file);
  if (reader.read_vector<float>("/probe", values.size()) != values) {
    fail(ExitCode::kIo, "DOC-02", file.string(), ": other numbers came back than were written");
  }
  return str("wrote, synced and read back ", values.size(), " numbers in ", parent.string());
}

// What keeps two processes out of one run folder. A file system that does not know locks is served by the
// lock's text, so this tells and does not fail.
std::string lock_check(const fs::path& parent) {
  ScratchFolder folder(parent);
  const checkpoint::RunLock held(folder.path());
  try {
    const checkpoint::RunLock second(folder.path());
  } catch (const Error&) {
    return str("a lock in ", parent.string(), " keeps a second one out");
  }
  return str("the file system of ", parent.string(),
             " has no locks between processes; a run there is told by the text of its lock file");
}

Check guarded(const std::string& name, const std::function<std::string()>& body) {
  try {
    return {name, body()};
  } catch (const std::exception& e) {
    return {name, e.what(), false};
  }
}

// What every step needs of a GPU: memory, a kernel, a matrix product, and the way back.
std::string gpu_work(int index) {
  cuda::DeviceOptions options;
  options.index = index;
  options.num_threads = 1;
  const auto device = cuda::make_device(options);
  constexpr int64_t n = 256;
  const std::vector<double> ones(n * n, 1);
  const Tensor a = tensor_from(std::span<const double>(ones), {n, n}, DType::kF32, *device),
               b = rookery::empty({n, n}, DType::kBF16, *device),
               c = rookery::empty({n, n}, DType::kBF16, *device);
  copy(a, b);
  product(n, n, n, {b, n}, {b, n}, false, {c, n});
  for (const double value : to_doubles(c))
    if (value != n)
      fail(ExitCode::kUnavailable, "DOC-03", "a product of ones: found ", value, ", expected ", n,
           "; the GPU or its driver is at fault");
  const Accelerator::Memory memory = device->accelerator().memory();
  return str("a kernel and a bf16 product are right, ", gib(double(memory.free)), " of ",
             gib(double(memory.total)), " are free");
}

// That there is no GPU is no fault; one that is there and cannot be used is.
void add_gpus(std::vector<Check>& checks) {
  const cuda::Runtime runtime = cuda::inspect();
  checks.push_back(
      {"CUDA", runtime.built
                   ? str(cuda::version_text(runtime.toolkit), ", kernels for ", runtime.architectures,
                         ", driver for ", runtime.driver == 0 ? "none" : cuda::version_text(runtime.driver))
                   : "not built in"});
  std::vector<int> usable;
  for (const cuda::Gpu& gpu : runtime.gpus) {
    Check check{str("GPU ", gpu.index),
                str(gpu.name, ", ", gib(double(gpu.total_bytes)), ", ", gpu.multiprocessors,
                    " multiprocessors, compute capability ", gpu.major, ".", gpu.minor),
                gpu.problem.empty()};
    if (!check.ok) {
      check.found += ": " + gpu.problem;
    } else {
      for (const cuda::Finding& finding : cuda::findings(gpu, cuda::try_gpu(gpu.index))) {
        check.found += ": " + finding.text;
        check.ok = check.ok && !finding.fatal;
      }
    }
    if (check.ok) usable.push_back(gpu.index);
    checks.push_back(std::move(check));
  }
  if (runtime.problem.empty()) checks.push_back(guarded("cuBLASLt", cuda::blas_version));
  for (const int index : usable)
    checks.push_back(guarded(str("GPU ", index, " at work"), [&] { return gpu_work(index); }));
  if (runtime.gpus.empty() && runtime.built)
    checks.push_back({"GPU", "none: " + runtime.problem, runtime.problem_id != "DEV-03"});
}

std::vector<Check> run_checks() {
  std::vector<Check> checks = {{"rookery", program_version() + ", revision " + source_revision()}};
  for (const auto& [name, version] : component_versions()) checks.push_back({name, version});
  const loop::Machine machine = loop::this_machine();
  checks.push_back({"system", machine.os});
  checks.push_back(
      {"processor", str(machine.cpu, ", ", machine.cores, machine.cores == 1 ? " core" : " cores")});
  checks.push_back({"instruction sets", instruction_sets()});
  checks.push_back({"memory", gib(double(machine.memory_bytes))});
  add_gpus(checks);
  const fs::path here = fs::current_path();
  checks.push_back(guarded("HDF5 round trip", [&] { return hdf5_round_trip(fs::temp_directory_path()); }));
  checks.push_back(guarded("working folder", [&] {
    ScratchFolder folder(here);
    io::write_file_atomic(folder.path() / "probe", "probe", "doctor");
    return str(here.string(), " can be written, ", gib(double(io::free_bytes(here))), " free");
  }));
  checks.push_back(guarded("file locks", [&] { return lock_check(here); }));
  for (const auto& [name, value] : loop::rookery_variables()) {
    const std::string unknown = loop::unknown_variable(name);
    checks.push_back(
        {"environment", str(name, "=", value, unknown.empty() ? "" : ": the variable" + unknown)});
  }
  return checks;
}

int run_doctor(const Arguments& arguments) {
  if (arguments.flag("fault-points")) {
    for (const FaultPointInfo& point : fault_point_table())
      std::cout << str(point.name, "\t", point.help, "\n");
    return 0;
  }
  const std::vector<Check> checks = run_checks();
  bool ok = true;
  for (const Check& check : checks) ok = ok && check.ok;
  if (arguments.flag("json")) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const Check& c : checks) list.push_back({{"check", c.name}, {"ok", c.ok}, {"found", c.found}});
    // Environment variables may hold any bytes.
    std::cout << nlohmann::ordered_json{{"ok", ok}, {"checks", list}}.dump(
                     2, ' ', false, nlohmann::json::error_handler_t::replace)
              << "\n";
  } else {
    for (const Check& c : checks) {
      std::cout << str(c.ok ? "ok    " : "FAIL  ", c.name,
                       std::string(c.name.size() < 18 ? 18 - c.name.size() : 1, ' '), printable(c.found),
                       "\n");
    }
  }
  return int(ok ? ExitCode::kOk : ExitCode::kUnavailable);
}

}  // namespace

Command doctor_command() {
  Command c;
  c.name = "doctor";
  c.summary = "what this machine has, and whether what a run needs works on it";
  c.options = {{"json", "", "as JSON"},
               {"fault-points", "", "list the points of ROOKERY_FAULT, which break writes on purpose"}};
  c.examples = {{"rookery doctor"}, {"rookery doctor --json", "for scripts"}};
  c.exit_codes = {ExitCode::kUnavailable};
  c.run = run_doctor;
  return c;
}

}  // namespace rookery::cli
