// bench_comm.cpp: `rookery bench comm`: collectives of the ranks that mpirun started, beside MPI's own calls
// for the same, in turns.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "parallel/comm/mpi.h"
#include "trainer/cli/bench.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/terminal.h"
#include "trainer/loop/human.h"

namespace rookery::cli {
namespace {

struct Row {
  Collective kind;
  int64_t bytes;      // of the whole tensor: what is reduced, or what is gathered
  double ours, mpis;  // seconds of the slowest rank, in the best repeat
  double ratio;       // the median over the repeats
};

class Bench {
 public:
  Bench(const mpi::Session& session, Communicator& comm, int64_t repeat)
      : session_(session), comm_(comm), repeat_(repeat) {}

  Row measure(Collective kind, int64_t bytes) {
    const int64_t slice = bytes / 4 / comm_.size(), n = slice * comm_.size();
    const Tensor whole = zeros({n}, DType::kF32, device_), part = zeros({slice}, DType::kF32, device_);
    auto ours = [&] {
      if (kind == Collective::kAllReduce) comm_.all_reduce(whole, Reduce::kSum);
      if (kind == Collective::kReduceScatter) comm_.reduce_scatter(whole, part, Reduce::kSum);
      if (kind == Collective::kAllGather) comm_.all_gather(part, whole);
    };
    const bool gathers = kind == Collective::kAllGather;
    auto mpis = [&] { session_.native(kind, gathers ? part : whole, gathers ? whole : part); };
    std::vector<double> times;                // ours and MPI's of each repeat
    for (int64_t i = -2; i < repeat_; ++i) {  // two that do not count
      const double a = seconds(ours), b = seconds(mpis);
      if (i >= 0) times.insert(times.end(), {a, b});
    }
    const Tensor slowest = tensor_from(std::span<const double>(times), {static_cast<int64_t>(times.size())},
                                       DType::kF64, device_);
    comm_.all_reduce(slowest, Reduce::kMax);
    Row row{kind, 4 * n, 1e30, 1e30, 0};
    std::vector<double> ratios;
    for (int64_t i = 0; i < repeat_; ++i) {
      const double a = slowest.data<double>()[2 * i], b = slowest.data<double>()[2 * i + 1];
      row.ours = std::min(row.ours, a);
      row.mpis = std::min(row.mpis, b);
      ratios.push_back(a / b);
    }
    row.ratio = median(ratios);
    return row;
  }

 private:
  template <class F>
  double seconds(F&& body) {
    comm_.barrier();
    const double begin = loop::steady_now();
    body();
    return loop::steady_now() - begin;
  }

  const mpi::Session& session_;
  Communicator& comm_;
  int64_t repeat_;
  Device device_{DeviceType::kCpu, 1};
};

int run(const Arguments& a) {
  const int64_t least = a.integer("from", 4096, int64_t{1} << 32),
                most = a.integer("to", 4096, int64_t{1} << 32);
  const int64_t repeat = a.integer("repeat", 1, 100000);
  const bool json = a.flag("json");
  mpi::Session session;
  auto comm = session.communicator(std::make_shared<Watch>(session.rank(), session.size(), Watch::Options{}));
  if (session.size() < 2)
    fail(ExitCode::kUsage, "BENCH-06",
         "found 1 rank, expected at least 2; start it as: mpirun -np 2 rookery bench comm");
  Bench bench(session, *comm, repeat);
  const bool prints = session.rank() == 0;
  nlohmann::json result{{"ranks", session.size()},
                        {"mpi", mpi::version()},
                        {"repeat", repeat},
                        {"calls", nlohmann::json::array()}};
  if (prints && !json)
    std::printf(
        "%d ranks, %s, best of %lld, slowest rank; the last column is the median of the single ratios\n%-15s "
        "%10s %12s %12s %8s %8s\n",
        session.size(), mpi::version().c_str(), static_cast<long long>(repeat), "collective", "bytes",
        "ours us", "MPI us", "ratio", "median");
  for (const Collective kind : {Collective::kAllReduce, Collective::kReduceScatter, Collective::kAllGather})
    for (int64_t bytes = least; bytes <= most; bytes *= 4) {
      const Row row = bench.measure(kind, bytes);
      result["calls"].push_back({{"collective", std::string(name_of(kind))},
                                 {"bytes", row.bytes},
                                 {"seconds", row.ours},
                                 {"mpi_seconds", row.mpis},
                                 {"median_ratio", row.ratio}});
      if (prints && !json) {
        std::printf("%-15s %10lld %12.1f %12.1f %8.2f %8.2f\n", std::string(name_of(kind)).c_str(),
                    static_cast<long long>(row.bytes), 1e6 * row.ours, 1e6 * row.mpis, row.ours / row.mpis,
                    row.ratio);
        std::fflush(stdout);
      }
    }
  if (prints && json) std::cout << result.dump(2) << '\n';
  comm.reset();
  session.finish();
  return 0;
}

}  // namespace

Command bench_comm_command() {
  Command c;
  c.name = "comm";
  c.summary = "collectives between processes, beside MPI's own calls";
  c.details =
      "To be started by mpirun. Each collective on float32 is measured in turns with the call of MPI that "
      "does "
      "the same (MPI_Allreduce, MPI_Reduce_scatter_block, MPI_Allgather), each from a barrier on; the time "
      "is "
      "that of the slowest rank in the best repeat. Sizes are of the whole tensor and grow by factors of 4.";
  c.options = {{"from", "BYTES", "the smallest size", "64Ki"},
               {"to", "BYTES", "the largest size", "64Mi"},
               {"repeat", "R", "measured repetitions", "30"},
               {"json", "", "machine-readable output"}};
  c.examples = {{"mpirun -np 2 rookery bench comm", "64 KiB to 64 MiB"}};
  c.exit_codes = {ExitCode::kUnavailable, ExitCode::kPeerFailed, ExitCode::kHang};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
