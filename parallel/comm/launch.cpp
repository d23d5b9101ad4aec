// launch.cpp: the variables of each launcher (parallel/comm/launch.h).
#include "parallel/comm/launch.h"

#include <charconv>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "kernels/base/error.h"

namespace rookery {
namespace {

// "gpu[03-07,12],cpu1": gpu03.
std::string first_host(std::string_view list) {
  const size_t bracket = list.find('['), comma = list.find(',');
  if (bracket == std::string_view::npos || comma < bracket) return std::string(list.substr(0, comma));
  const std::string_view inside = list.substr(bracket + 1);
  return str(list.substr(0, bracket), inside.substr(0, inside.find_first_of("-,]")));
}

}  // namespace

Launch read_launch(const std::function<const char*(const char*)>& variable) {
  auto text = [&](const char* name) {
    const char* value = variable(name);
    return std::string(value ? value : "");
  };
  auto number = [&](const char* name, int least, int most) {
    const std::string value = text(name);
    int n = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), n);
    if (error != std::errc() || end != value.data() + value.size() || n < least || n > most)
      fail(ExitCode::kUnavailable, "COMM-05", name, ": found '", value, "', expected a number from ", least,
           " to ", most, "; unset the variables of launchers that did not start this program");
    return n;
  };
  constexpr int kMostRanks = 1 << 20;
  Launch launch;
  auto take = [&](Launch::Starter starter, const char* rank, const char* size, const char* local_rank,
                  const char* local_size) {
    if (text(rank).empty() || text(size).empty()) return false;
    launch.starter = starter;
    launch.told_by = str(size, "=", text(size));
    launch.size = number(size, 1, kMostRanks);
    launch.rank = number(rank, 0, launch.size - 1);
    if (!text(local_rank).empty()) launch.local_rank = number(local_rank, 0, kMostRanks);
    if (!text(local_size).empty()) launch.local_size = number(local_size, 1, kMostRanks);
    return true;
  };
  using Starter = Launch::Starter;
  if (take(Starter::kMpi, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
           "OMPI_COMM_WORLD_LOCAL_SIZE"))
    return launch;
  if (take(Starter::kTorchrun, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")) {
    if (launch.size == 1) return launch;
    launch.address = text("MASTER_ADDR");
    if (launch.address.empty())
      fail(ExitCode::kUnavailable, "COMM-05", "MASTER_ADDR: found nothing beside ", launch.told_by,
           ", expected the name of the machine of rank 0");
    launch.port = number("MASTER_PORT", 1, 65534);
    // torchrun's own store listens at that port.
    if (text("TORCHELASTIC_USE_AGENT_STORE") == "True") ++launch.port;
    return launch;
  }
  if (take(Starter::kMpi, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")) return launch;
  // The variables of a step: a batch script alone is one process, whatever the size of its job.
  if (take(Starter::kSlurm, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "")) {
    if (launch.size == 1) return launch;
    launch.address = first_host(text("SLURM_STEP_NODELIST"));
    constexpr int kFirstPort = 15000, kPorts = 15000;
    launch.port = kFirstPort + number("SLURM_JOB_ID", 0, 1 << 30) % kPorts;
    return launch;
  }
  return launch;
}

Launch read_launch() {
  return read_launch([](const char* name) { return *name ? std::getenv(name) : nullptr; });
}

}  // namespace rookery
