// bench_op.cpp: `rookery bench op`: each operation at the shapes of a training step, forward and backward,
// beside the time that its memory traffic or its arithmetic would take alone at rates measured in the same
// run. The operations: bench_ops.cpp.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "kernels/cuda/device.h"
#include "kernels/ops/backend.h"
#include "kernels/ops/bench/fma_peak.h"
#include "kernels/ops/matmul/gemm.h"
#include "kernels/ops/matmul/product.h"
#include "trainer/cli/bench.h"
#include "trainer/cli/bench_ops.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/terminal.h"
#include "trainer/config/nearest.h"
#include "trainer/loop/human.h"

namespace rookery::cli {
namespace {

using loop::fixed;

// Per second. 0: nothing is known, and no floor follows from it.
struct Rates {
  double copy_bytes = 0, product_flops = 0, multiply_adds = 0, exponentials = 0;
};

// One H200 by spec: what was measured of copies and bf16 products, the data sheet's fp32, and 16
// exponentials a clock on each of 132 multiprocessors at 1.755 GHz. The recurrence may be done as matrix
// products.
Rates h200(DType dtype) {
  const double flops = dtype == DType::kBF16 ? 790e12 : 67e12;
  return {4.3e12, flops, flops / 2, 16 * 132 * 1.755e9};
}

struct Floor {
  double seconds = 0;
  const char* by = "";
};

Floor floor_of(const Work& work, const Rates& rates) {
  Floor floor;
  auto at_least = [&](double amount, double rate, const char* by) {
    if (rate > 0 && amount / rate > floor.seconds) floor = {amount / rate, by};
  };
  at_least(work.bytes, rates.copy_bytes, "copy");
  at_least(work.flops, rates.product_flops, "products");
  at_least(work.multiply_adds, rates.multiply_adds, "FMA");
  at_least(work.exponentials, rates.exponentials, "exp");
  return floor;
}

bool empty(const Work& w) { return w.bytes + w.flops + w.multiply_adds + w.exponentials == 0; }

// The best of some repetitions: a rate is what the machine can do.
template <class F>
double best_seconds(const Device& device, F&& body) {
  double best = 1e30;
  for (int i = 0; i < 9; ++i) {
    const TimePoint begin(device);
    body();
    best = std::min(best, TimePoint(device).seconds_since(begin));
  }
  return best;
}

Rates measure_cpu(Device& device, const OpSizes& s) {
  Rates rates;
  const int64_t bytes = int64_t{64} << 20;  // beyond the caches
  const Tensor from = zeros({bytes}, DType::kU8, device), to = zeros({bytes}, DType::kU8, device);
  rates.copy_bytes = 2.0 * static_cast<double>(bytes) / best_seconds(device, [&] {
                       parallel_for(device.pool(), bytes, 1 << 16, [&](int64_t begin, int64_t end) {
                         std::memcpy(to.raw() + begin, from.raw() + begin, static_cast<size_t>(end - begin));
                       });
                     });
  const int64_t M = s.rows(), C = s.C;
  const Tensor x = zeros({M, C}, DType::kF32, device), w = zeros({C, C}, DType::kF32, device),
               y = zeros({M, C}, DType::kF32, device);
  rates.product_flops = 2.0 * static_cast<double>(M * C * C) / best_seconds(device, [&] {
                          parallel_gemm(device, M, C, C, Operand<float>{x.data<float>(), C},
                                        Operand<float>{w.data<float>(), C, true}, 0.f, y.data<float>(), C);
                        });
  rates.multiply_adds = measure_fma_rate(device);
  return rates;
}

// Of one GPU, on random numbers: with zeros it draws less power and is faster than any model lets it be.
double gpu_copy_rate(Inputs& in) {
  const int64_t count = int64_t{1} << 28;  // f32: 1 GiB
  const Tensor from = in.random({count}, 1, DType::kF32),
               to = rookery::empty({count}, DType::kF32, in.device());
  return 2.0 * static_cast<double>(from.bytes()) / best_seconds(in.device(), [&] { copy(from, to); });
}

double gpu_product_rate(Inputs& in, DType dtype) {
  const int64_t n = dtype == DType::kBF16 ? 8192 : 4096;
  const Tensor a = in.random({n, n}, 1, dtype), b = in.random({n, n}, 1, dtype),
               c = rookery::empty({n, n}, dtype, in.device());
  auto multiply = [&] { product(n, n, n, {a, n}, {b, n, true}, false, {c, n}); };
  multiply();  // chooses the algorithm
  return 2.0 * std::pow(static_cast<double>(n), 3) / best_seconds(in.device(), multiply);
}

struct Times {
  std::vector<double> forward, backward;                    // seconds
  std::set<std::string> forward_kernels, backward_kernels;  // what the passes launched
};

// Within steps of the arena, as in training: memory comes from a replayed plan. `flush`, if any, is written
// before each call: the caches of a GPU then hold nothing of the operation, and the host is ahead of it.
Times measure(const OpBench& op, Inputs& in, int64_t repeat, const Tensor& flush) {
  Device& device = in.device();
  const Call call = op.prepare();
  std::vector<Tensor> seeds;
  {
    Tape tape;
    for (const Var& out : call(tape)) seeds.push_back(in.ones(out.shape(), out.value().dtype()));
  }
  Times times;
  constexpr int64_t kWarm = 2;  // the step that records and the first that replays
  for (int64_t i = 0; i < kWarm + repeat; ++i) {
    std::optional<Profile> profile;
    if (i == 0) profile.emplace(device);
    if (flush.defined()) fill_zero(flush);
    device.arena().begin_step(op.name);
    {
      Tape tape;
      const TimePoint begin(device);
      const std::vector<Var> outputs = call(tape);
      const TimePoint middle(device);
      const size_t forward_slices = profile ? profile->slices().size() : 0;
      std::vector<std::pair<Var, Tensor>> pairs;
      for (size_t k = 0; k < outputs.size(); ++k) pairs.emplace_back(outputs[k], seeds[k]);
      if (!pairs.empty()) tape.backward(pairs);
      const TimePoint end(device);
      if (i >= kWarm) {
        times.forward.push_back(middle.seconds_since(begin));
        times.backward.push_back(end.seconds_since(middle));
      }
      for (size_t k = 0; profile && k < profile->slices().size(); ++k) {
        const Profile::Slice& slice = profile->slices()[k];
        if (slice.kind == Profile::Kind::kKernel)
          (k < forward_slices ? times.forward_kernels : times.backward_kernels).insert(slice.name);
      }
    }
    device.arena().end_step();
  }
  return times;
}

std::vector<OpBench> chosen(std::vector<OpBench> ops, const std::vector<std::string>& names) {
  std::vector<std::string> known;
  for (const OpBench& op : ops) known.push_back(op.name);
  for (const std::string& name : names)
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      std::string list;
      for (const std::string& k : known) list += (list.empty() ? "" : ", ") + k;
      fail(ExitCode::kUsage, "BENCH-01", "'", printable(name), "': expected the name of an operation",
           config::did_you_mean(name, known), "; there are ", list);
    }
  if (!names.empty())
    std::erase_if(ops, [&](const OpBench& op) {
      return std::find(names.begin(), names.end(), op.name) == names.end();
    });
  return ops;
}

// What is not given is a step on this kind of device: Finch of 38M parameters on a CPU, models of 1.5B on a
// GPU, and what emulation does in seconds.
OpSizes sizes_of(const Arguments& a, DeviceType type) {
  auto size = [&](const char* name, int64_t cpu, int64_t cuda, int64_t emul, int64_t least, int64_t most) {
    if (a.given(name)) return a.integer(name, least, most);
    return type == DeviceType::kCuda ? cuda : type == DeviceType::kEmul ? emul : cpu;
  };
  OpSizes s{};
  s.B = size("batch", 8, 8, 1, 1, 4096);
  s.T = size("seq-len", 512, 4096, 20, 1, 1 << 20);
  s.C = size("hidden", 512, 2048, 32, 1, 1 << 16);
  s.N = size("head-size", 64, 64, 16, 1, 1024);
  s.F = size("ffn", 1792, 8192, 48, 1, 1 << 18);
  s.V = size("vocab", 8192, 65536, 64, 2, 1 << 20);
  s.D = size("rank", 32, 32, 4, 1, 4096);
  s.P = size("parameters", s.V * s.C, 1'500'000'000, s.V * s.C, 1, int64_t{1} << 34);
  if (s.C % s.N != 0)
    fail(ExitCode::kUsage, "BENCH-02", "--hidden ", s.C, ": expected a multiple of --head-size ", s.N);
  s.H = s.C / s.N;
  return s;
}

std::string amount(double value) {
  if (value == 0) return "";
  for (const auto& [unit, letter] : {std::pair{1e12, "T"}, {1e9, "G"}, {1e6, "M"}})
    if (value >= unit) return fixed(value / unit, 2) + " " + letter;
  return fixed(value, 0);
}

std::string milliseconds(double seconds) { return fixed(seconds * 1e3, seconds < 1e-3 ? 3 : 2); }

std::string pass_key(const std::string& op, const std::string& shape, const std::string& pass) {
  return op + ", " + shape + ", " + pass;
}

nlohmann::json json_of(const Work& work) {
  return {{"bytes", work.bytes},
          {"flops", work.flops},
          {"multiply_adds", work.multiply_adds},
          {"exponentials", work.exponentials}};
}

// Seconds of a pass on a GPU, by "OP, SHAPE, PASS", of those whose kernels were all seen working there.
std::map<std::string, double> measured(const std::string& gpu_check, const std::string& precision) {
  const nlohmann::json check = read_gpu_check(gpu_check);
  std::set<std::string> seen;
  std::map<std::string, double> times;
  auto each = [&](const char* key, auto&& take) {
    try {
      for (const nlohmann::json& one : check.value(key, nlohmann::json::array())) take(one);
    } catch (const nlohmann::json::exception& e) {
      fail(ExitCode::kData, "BENCH-04", gpu_check, ": ", key, ": found another form (", e.what(),
           "), expected what `rookery bench report` writes");
    }
  };
  each("kernels", [&](const nlohmann::json& k) {
    if (k.at("seen").get<bool>()) seen.insert(k.at("kernel").get<std::string>());
  });
  each("passes", [&](const nlohmann::json& p) {
    const auto kernels = p.at("kernels").get<std::vector<std::string>>();
    const bool all = std::all_of(kernels.begin(), kernels.end(),
                                 [&](const std::string& kernel) { return seen.contains(kernel); });
    if (all && p.at("precision") == precision)
      times[pass_key(p.at("op").get<std::string>(), p.at("shape").get<std::string>(),
                     p.at("pass").get<std::string>())] = p.at("seconds").get<double>();
  });
  return times;
}

// The table of docs/performance.md: nothing runs.
int predict(const std::vector<OpBench>& ops, const Rates& rates, const std::map<std::string, double>& times,
            bool json) {
  nlohmann::json result = nlohmann::json::array();
  if (!json)
    std::printf(
        "| operation | shape | pass | bytes | FLOP | exponentials | predicted | by | measured |\n"
        "|---|---|---|---|---|---|---|---|---|\n");
  for (const OpBench& op : ops)
    for (const auto& [pass, work] : {std::pair<const char*, const Work&>{"forward", op.forward},
                                     std::pair<const char*, const Work&>{"backward", op.backward}}) {
      if (empty(work)) continue;
      const Floor floor = floor_of(work, rates);
      nlohmann::json row = json_of(work);
      row.update({{"op", op.name},
                  {"shape", op.shape},
                  {"pass", pass},
                  {"floor_seconds", floor.seconds},
                  {"floor_by", floor.by}});
      const auto time = times.find(pass_key(op.name, op.shape, pass));
      if (time != times.end()) row["measured_seconds"] = time->second;
      result.push_back(row);
      if (!json)
        std::printf("| %s | %s | %s | %s | %s | %s | %s ms | %s | %s|\n", op.name.c_str(), op.shape.c_str(),
                    pass, amount(work.bytes).c_str(), amount(work.flops + 2 * work.multiply_adds).c_str(),
                    amount(work.exponentials).c_str(), milliseconds(floor.seconds).c_str(), floor.by,
                    time == times.end() ? "" : (milliseconds(time->second) + " ms ").c_str());
    }
  if (json) std::cout << result.dump(2) << '\n';
  return 0;
}

int run(const Arguments& a) {
  const std::string where = a.one_of("device", {"cpu", "emul", "cuda"});
  const bool prediction = a.flag("predict");
  const DeviceType type = prediction || where == "cuda" ? DeviceType::kCuda
                          : where == "emul"             ? DeviceType::kEmul
                                                        : DeviceType::kCpu;
  const OpSizes s = sizes_of(a, type);
  const std::string precision = a.given("precision")       ? a.one_of("precision", {"fp32", "bf16"})
                                : type == DeviceType::kCpu ? "fp32"
                                                           : "bf16";
  if (type == DeviceType::kCpu && precision == "bf16")
    fail(ExitCode::kUsage, "BENCH-03",
         "--precision bf16: expected --device cuda or emul; on the CPU only matrix products have bf16, which "
         "`rookery bench step --precision bf16` measures");
  const DType dtype = precision == "bf16" ? DType::kBF16 : DType::kF32;
  const int64_t repeat = a.integer("repeat", 1, 10000);
  const int threads = static_cast<int>(a.integer("threads", 0, kMaxThreads));
  const bool json = a.flag("json");
  if (prediction) {
    Device meta(DeviceType::kMeta);
    meta.plans_for = DeviceType::kCuda;
    const auto from = a.maybe("from");
    return predict(chosen(all_ops(s, std::make_shared<Inputs>(meta, dtype)), a.positional()), h200(dtype),
                   from ? measured(*from, precision) : std::map<std::string, double>(), json);
  }

  std::unique_ptr<Device> device;
  if (type == DeviceType::kCuda) {
    cuda::DeviceOptions options;
    options.num_threads = threads;
    device = cuda::make_device(options);
  } else {
    device = std::make_unique<Device>(type, threads);
  }
  const auto inputs = std::make_shared<Inputs>(*device, dtype);
  const std::vector<OpBench> ops = chosen(all_ops(s, inputs), a.positional());
  nlohmann::json result{{"device", where},
                        {"precision", precision},
                        {"isa", to_string(device->isa())},
                        {"threads", device->pool().num_threads()},
                        {"repeat", repeat},
                        {"sizes",
                         {{"B", s.B},
                          {"T", s.T},
                          {"C", s.C},
                          {"H", s.H},
                          {"N", s.N},
                          {"F", s.F},
                          {"V", s.V},
                          {"D", s.D},
                          {"P", s.P}}},
                        {"passes", nlohmann::json::array()},
                        {"skipped", nlohmann::json::array()}};
  Rates rates;
  Tensor flush;
  const bool floors = !a.flag("no-floors");
  if (!floors) {
    if (!json) std::printf("%s, without floors.\n", precision.c_str());
  } else if (type == DeviceType::kCpu) {
    rates = measure_cpu(*device, s);
    result["rates"] = {{"copy_bytes_per_s", rates.copy_bytes},
                       {"product_flops_per_s", rates.product_flops},
                       {"multiply_adds_per_s", rates.multiply_adds}};
    if (!json)
      std::printf(
          "fp32, %d threads, %s, median of %lld. Measured: copy %.1f GB/s (read + write), products %.0f "
          "GFLOP/s, FMA %.1f G/s.\n",
          device->pool().num_threads(), to_string(device->isa()).c_str(), static_cast<long long>(repeat),
          rates.copy_bytes / 1e9, rates.product_flops / 1e9, rates.multiply_adds / 1e9);
  } else if (type == DeviceType::kCuda) {
    const cuda::Gpu gpu = cuda::inspect().gpus.at(0);
    const double bf16 = gpu_product_rate(*inputs, DType::kBF16),
                 fp32 = gpu_product_rate(*inputs, DType::kF32);
    rates.copy_bytes = gpu_copy_rate(*inputs);
    rates.product_flops = dtype == DType::kBF16 ? bf16 : fp32;
    rates.multiply_adds = rates.product_flops / 2;
    rates.exponentials = 16.0 * gpu.multiprocessors * gpu.clock_hz;
    result["gpu"] = gpu.name;
    result["rates"] = {{"copy_bytes_per_s", rates.copy_bytes},
                       {"bf16_product_flops_per_s", bf16},
                       {"fp32_product_flops_per_s", fp32},
                       {"nominal_exponentials_per_s", rates.exponentials}};
    const bool cold = a.one_of("cache", {"cold", "warm"}) == "cold";
    result["cache"] = cold ? "cold" : "warm";
    if (cold) flush = rookery::empty({int64_t{1} << 29}, DType::kU8, *device);
    if (!json)
      std::printf(
          "%s, %s, median of %lld, L2 cache %s. Measured: copy %.2f TB/s (read + write), products %.0f "
          "TFLOP/s in bf16, %.1f in fp32.\n",
          gpu.name.c_str(), precision.c_str(), static_cast<long long>(repeat), cold ? "cold" : "warm",
          rates.copy_bytes / 1e12, bf16 / 1e12, fp32 / 1e12);
  } else if (!json) {
    std::printf("%s on emulated kernels: no time here tells anything of a GPU.\n", precision.c_str());
  }
  if (!json)
    std::printf("%-21s %-30s %-9s %9s %9s %-8s %6s\n", "op", "shape", "pass", "ms", "floor ms", "by",
                "ratio");
  for (const OpBench& op : ops) {
    Times times;
    try {
      times = measure(op, *inputs, repeat, flush);
    } catch (const Error& e) {
      if (e.id() != kNoKernel) throw;
      if (device->arena().in_step()) device->arena().end_step();
      result["skipped"].push_back({{"op", op.name}, {"why", e.what()}});
      if (!json) std::printf("%-21s no kernel for this device\n", op.name.c_str());
      continue;
    }
    auto report = [&](const char* pass, const Work& work, const std::vector<double>& seconds,
                      const std::set<std::string>& kernels) {
      if (empty(work)) return;  // nothing to do in this pass
      const double time = median(seconds);
      const Floor floor = floor_of(work, rates);
      nlohmann::json row = json_of(work);
      row.update({{"op", op.name},
                  {"shape", op.shape},
                  {"pass", pass},
                  {"seconds", time},
                  {"min_seconds", *std::min_element(seconds.begin(), seconds.end())},
                  {"kernels", kernels}});
      if (floor.seconds > 0)
        row.update(
            {{"floor_seconds", floor.seconds}, {"floor_by", floor.by}, {"ratio", time / floor.seconds}});
      result["passes"].push_back(row);
      if (json) return;
      std::printf("%-21s %-30s %-9s %9.3f", op.name.c_str(), op.shape.c_str(), pass, time * 1e3);
      if (floor.seconds > 0)
        std::printf(" %9.3f %-8s %6.2f", floor.seconds * 1e3, floor.by, time / floor.seconds);
      std::printf("\n");
      std::fflush(stdout);
    };
    report("forward", op.forward, times.forward, times.forward_kernels);
    report("backward", op.backward, times.backward, times.backward_kernels);
  }
  if (json) std::cout << result.dump(2) << '\n';
  return 0;
}

}  // namespace

Command bench_op_command() {
  Command c;
  c.name = "op";
  c.summary = "each operation beside the floor that memory or arithmetic sets";
  c.details =
      "Runs every operation, or those named, forward and backward on random data, as a training step does. "
      "The floor is the longest of: tensors read and written once at the copy bandwidth; floating-point "
      "operations of the matrix products at the rate of BLAS; multiply-adds of the state recurrence (per "
      "token and head 3 N^2 forward and 9 N^2 backward for wkv6 and wkv5, 5 N^2 and 14 N^2 for wkv7) at "
      "the FMA rate. All three rates are measured first. A ratio below 1 means that the data stayed in "
      "cache, or that fewer multiply-adds were needed than the plain recurrence takes.\n\n"
      "On a GPU (--device cuda) times are those between events of its stream. The rates are a copy of 1 "
      "GiB (read and written bytes), a product of 8192 (bf16) or 4096 (fp32) rows and columns, at which "
      "the recurrence is counted too, and 16 exponentials a clock and multiprocessor. --device emul runs "
      "the GPU's kernels on the host, to try them, and has no floors. --predict prints the floors of one "
      "H200 (4.3 TB/s, 790 TFLOP/s in bf16, 67 in fp32) and runs nothing.\n\n"
      "cross_entropy does all three of its matrix products in the forward pass. ROOKERY_ISA chooses the "
      "instruction set of the CPU. Sizes that are not given are those of a 38M parameter Finch, with "
      "--device cuda those of models of 1.5B parameters.";
  c.positional = "[NAME...]";
  c.most_positional = Command::kAny;
  c.options = {{"device", "DEVICE", "cpu, cuda or emul", "cpu"},
               {"json", "", "machine-readable output"},
               {"predict", "", "print the floors of one H200 as a table; nothing runs"},
               {"from", "FILE", "with --predict: a gpu-check.json, for the times that were measured"},
               {"no-floors", "", "measure no rates, and leave the caches as they are"},
               {"precision", "P", "fp32 or bf16; on a CPU fp32, else bf16"},
               {"cache", "STATE", "cold or warm: the L2 cache of a GPU before each call", "cold"},
               {"threads", "N", "threads; 0: all cores", "0"},
               {"repeat", "R", "measured calls", "9"},
               {"batch", "B", "sequences; 8"},
               {"seq-len", "T", "tokens of a sequence; 512, on a GPU 4096"},
               {"hidden", "C", "hidden size; 512, on a GPU 2048"},
               {"head-size", "N", "channels of a head; heads are C / N; 64"},
               {"ffn", "F", "width of the channel mix; 1792, on a GPU 8192"},
               {"vocab", "V", "vocabulary; 8192, on a GPU 65536"},
               {"rank", "D", "rank of the low-rank projections; 32"},
               {"parameters", "P", "of the optimizer; V x C, on a GPU 1.5 G"}};
  c.examples = {{"rookery bench op", "all, at the shapes of a 38M parameter Finch"},
                {"rookery bench op wkv6 linear --threads 1", "two of them on one core"},
                {"rookery bench op --predict", "what an H200 needs at least for each"}};
  c.exit_codes = {ExitCode::kUnavailable};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
