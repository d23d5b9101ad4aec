// environment.cpp: see environment.h. Facts come from /proc and uname; one that cannot be read is left empty.
#include "trainer/loop/environment.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "kernels/base/error.h"
#include "trainer/config/nearest.h"
#include "trainer/loop/human.h"

extern char** environ;

namespace rookery::loop {
namespace {

// The value of the first "KEY : VALUE" line of /proc/cpuinfo.
std::string cpuinfo(std::string_view key) {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (!line.starts_with(key) || colon == std::string::npos) continue;
    const size_t first = line.find_first_not_of(" \t", colon + 1);
    return first == std::string::npos ? "" : line.substr(first);
  }
  return "";
}

std::vector<std::string> speed_flags() {
  std::istringstream words(cpuinfo("flags"));
  std::set<std::string> flags;
  for (std::string word; words >> word;) flags.insert(word);
  std::vector<std::string> known;
  for (const char* name :
       {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_bf16", "amx_bf16"})
    if (flags.contains(name)) known.emplace_back(name);
  return known;
}

int usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

// A number of bytes in a file of a control group; most where it has none ("max") or the file is not there.
int64_t limit_in(const std::string& file) {
  int64_t bytes = 0;
  return std::ifstream(file) >> bytes ? bytes : INT64_MAX;
}

// How often the run was started before, from the env.json of its last start; one that is damaged starts the
// count anew.
int64_t earlier_starts(const io::fs::path& file) {
  constexpr uint64_t kLimit = 16 << 20;
  if (!io::fs::exists(file)) return 0;
  try {
    const auto old = nlohmann::json::parse(io::read_file(file, kLimit), nullptr, false);
    if (old.is_object() && old.contains("restarts") && old["restarts"].is_number_integer())
      return old["restarts"].get<int64_t>() + 1;
  } catch (const Error&) {
  }
  return 0;
}

}  // namespace

void create_run_folder(const io::fs::path& run_dir) {
  for (const char* name : {"checkpoints", "tb", "eval", "samples", "logs"})
    io::create_directories(run_dir / name);
}

Machine this_machine() {
  Machine m;
  utsname names{};
  if (uname(&names) == 0) {
    m.host = names.nodename;
    m.os = str(names.sysname, " ", names.release, " ", names.machine);
  }
  m.cpu = cpuinfo("model name");
  m.instruction_sets = speed_flags();
  m.cores = usable_cores();
  m.memory_bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  return m;
}

int64_t available_memory_bytes() {
  int64_t available = this_machine().memory_bytes;
  std::ifstream memory("/proc/meminfo");
  for (std::string line; std::getline(memory, line);)
    if (line.starts_with("MemAvailable:")) available = std::stoll(line.substr(13)) * 1024;
  // "0::/a/b": the limits of /a/b, /a and / all hold.
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (!line.starts_with("0::/")) continue;
    for (io::fs::path group = line.substr(4);; group = group.parent_path()) {
      available = std::min(available, limit_in(str("/sys/fs/cgroup/", group.string(), "/memory.max")));
      if (group.empty()) break;
    }
  }
  return available;
}

std::vector<std::pair<std::string, std::string>> rookery_variables() {
  std::vector<std::pair<std::string, std::string>> variables;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (text.starts_with("ROOKERY_") && equals != std::string_view::npos)
      variables.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  std::sort(variables.begin(), variables.end());
  return variables;
}

std::string unknown_variable(std::string_view name) {
  static const std::vector<std::string> known = {
      "ROOKERY_ISA",          "ROOKERY_FAULT",         "ROOKERY_BIN",
      "ROOKERY_SHARED",       "ROOKERY_GOLDEN",        "ROOKERY_TEST_FOLDER",
      "ROOKERY_TEST_DEVICES", "ROOKERY_COMM_TIMEOUT",  "ROOKERY_COMM_START_LIMIT",
      "ROOKERY_COMM_VERIFY",  "ROOKERY_SLURM_RESTARTS"};
  if (std::find(known.begin(), known.end(), name) != known.end()) return "";
  return " is not known" + config::did_you_mean(name, known);
}

int64_t peak_memory_bytes() {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  return static_cast<int64_t>(use.ru_maxrss) * 1024;  // Linux counts it in KiB
}

void write_environment(const io::fs::path& run_dir, const std::vector<std::string>& command_line,
                       const std::vector<std::pair<std::string, std::string>>& versions) {
  const io::fs::path file = run_dir / "env.json";
  const Machine m = this_machine();
  std::error_code no_folder;  // the working folder may be gone
  nlohmann::ordered_json env;
  env["started"] = utc_time(unix_now());
  env["restarts"] = earlier_starts(file);
  env["command_line"] = command_line;
  env["working_folder"] = io::fs::current_path(no_folder).string();
  env["versions"] = nlohmann::ordered_json::object();
  for (const auto& [name, version] : versions) env["versions"][name] = version;
  env["host"] = m.host;
  env["os"] = m.os;
  env["cpu"] = m.cpu;
  env["instruction_sets"] = m.instruction_sets;
  env["cores"] = m.cores;
  env["memory_bytes"] = m.memory_bytes;
  env["pid"] = ::getpid();
  env["variables"] = nlohmann::ordered_json::object();
  for (const auto& [name, value] : rookery_variables()) env["variables"][name] = value;
  // Bytes that are not UTF-8 (a file name on the command line) become U+FFFD.
  io::write_file_atomic(file, env.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n",
                        "run.environment");
}

}  // namespace rookery::loop
