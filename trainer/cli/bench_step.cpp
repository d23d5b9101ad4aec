// bench_step.cpp: `rookery bench step`: a training step beside its own matrix products, run by the same BLAS
// in the same process.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "kernels/base/rng.h"
#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "kernels/ops/matmul/gemm.h"
#include "trainer/cli/bench.h"
#include "trainer/cli/commands.h"
#include "trainer/loop/human.h"
#include "trainer/loop/session.h"
#include "trainer/models/registry.h"
#include "trainer/models/rwkv6.h"
#include "trainer/optim/adamw.h"

namespace rookery::cli {
namespace {

using loop::fixed;
using loop::steady_now;

// One weight [n, k] that multiplies all tokens, `count` times.
struct Product {
  int64_t n, k, count;
  bool head;  // multiplied in blocks of rows by the loss
};

// The matrices of a model with equal shapes joined. A [5, R, C] stack is five matrices.
std::vector<Product> products_of(Model& model) {
  std::vector<Product> products;
  for (const Parameter* p : model.parameters.all()) {
    if (!loop::multiplies_tokens(model, *p)) continue;
    const Shape& s = p->global;
    const int64_t stack = s.size() == 3 ? s[0] : 1;
    const Product one{s[s.size() - 2], s.back(), stack, p == &model.head()};
    const auto it = std::find_if(products.begin(), products.end(), [&](const Product& q) {
      return q.n == one.n && q.k == one.k && q.head == one.head;
    });
    if (it != products.end()) {
      it->count += one.count;
    } else {
      products.push_back(one);
    }
  }
  return products;
}

struct Timing {
  double forward, backward, optim, total;
};

class Bench {
 public:
  Bench(loop::Session session, int64_t batch, int64_t seq_len)
      : s_(std::move(session)),
        B_(batch),
        T_(seq_len),
        optim_(*s_.store, {}, [this](const Parameter& p) { return s_.model->optim_group(p); }) {
    s_.model->parameters.initialize(1);
    const Philox random(1, stream_of("bench"));
    const int64_t V = s_.model->vocab_size();
    for (int64_t i = 0; i < B_ * T_ + 1; ++i)
      ids_.push_back(static_cast<int32_t>(random.uniform(static_cast<uint64_t>(i)) * static_cast<double>(V)));
  }

  Timing step() {
    Timing t{};
    const double start = steady_now();
    Device& device = *s_.device;
    device.arena().begin_step(key("train"));
    s_.store->begin_step();
    {
      const Tensor x =
          tensor_from(std::span<const int32_t>(ids_).first(B_ * T_), {B_, T_}, DType::kI32, device);
      const Tensor y = tensor_from(std::span<const int32_t>(ids_).subspan(1), {B_, T_}, DType::kI32, device);
      Tape tape;
      nn::SeqContext seq;
      nn::Context cx{&tape, seq};
      const auto loss = ops::linear_cross_entropy(s_.model->hidden(cx, x), cx(s_.model->head()), y, {},
                                                  {static_cast<double>(B_ * T_), 1e-4});
      t.forward = steady_now() - start;
      tape.backward(loss.loss);
    }
    s_.store->finish_reduction();
    t.backward = steady_now() - start - t.forward;
    optim_.step(1e-4);
    device.arena().end_step();
    t.total = steady_now() - start;
    t.optim = t.total - t.forward - t.backward;
    return t;
  }

  // Seconds of one weight's three products: y = x W^T, dx = dy W, dW = dy^T x. A step of the arena, like the
  // step it is compared with.
  double products(const Product& p) {
    Device& device = *s_.device;
    device.arena().begin_step(key(str("products of ", p.n, "x", p.k, p.head ? " head" : "")));
    const double seconds = time_products(p);
    device.arena().end_step();
    return seconds;
  }

  loop::Session& session() { return s_; }

  // A memory plan belongs to one precision: bf16 products ask for scratch.
  std::string key(const std::string& what) const {
    return s_.device->matmul_precision == MatmulPrecision::kBf16 ? what + " bf16" : what;
  }

 private:
  double time_products(const Product& p) {
    Device& device = *s_.device;
    const int64_t M = B_ * T_;
    const int64_t rows = p.head ? ops::loss_block_rows(device, M, p.n) : M;
    const Tensor x = filled({M, p.k}), w = filled({p.n, p.k}), y = filled({rows, p.n});
    const Tensor dx = filled({M, p.k}), dw = filled({p.n, p.k});
    const double start = steady_now();
    for (int64_t first = 0; first < M; first += rows) {
      const int64_t m = std::min(rows, M - first);
      dispatch_float(s_.store->dtype(), [&]<class T>() {
        const Operand<T> in{x.data<T>() + first * p.k, p.k}, weight{w.data<T>(), p.k}, out{y.data<T>(), p.n};
        parallel_gemm(device, m, p.n, p.k, in, {weight.data, p.k, true}, T(0), y.data<T>(), p.n);
        parallel_gemm(device, m, p.k, p.n, out, weight, T(0), dx.data<T>() + first * p.k, p.k);
        parallel_gemm(device, p.n, p.k, m, {out.data, p.n, true}, in, first == 0 ? T(0) : T(1), dw.data<T>(),
                      p.k);
      });
    }
    return steady_now() - start;
  }

  Tensor filled(const Shape& shape) {
    Tensor t = empty(shape, s_.store->dtype(), *s_.device);
    dispatch_float(t.dtype(), [&]<class T>() {
      for (int64_t i = 0; i < t.numel(); ++i) t.data<T>()[i] = T(0.01) * static_cast<T>(i % 101 - 50);
    });
    return t;
  }
  loop::Session s_;
  int64_t B_, T_;
  AdamW optim_;
  std::vector<int32_t> ids_;
};

// Repeated timings of the step and of its products, in one precision.
struct Measurement {
  MatmulPrecision precision;
  std::vector<Timing> steps = {};
  std::vector<std::vector<double>> product_times = {};

  double of(double Timing::*part) const {
    std::vector<double> values;
    for (const Timing& t : steps) values.push_back(t.*part);
    return median(values);
  }
  double products_s(const std::vector<Product>& products) const {
    double sum = 0;
    for (size_t p = 0; p < products.size(); ++p)
      sum += median(product_times[p]) * static_cast<double>(products[p].count);
    return sum;
  }
};

// What is not given is a small Finch on a CPU, on a GPU a model of 1.5B parameters.
StepSizes sizes_of(const Arguments& a, const std::string& device) {
  auto size = [&](const char* name, int64_t cpu, int64_t cuda, int64_t emul, int64_t least, int64_t most) {
    if (a.given(name)) return a.integer(name, least, most);
    return device == "cuda" ? cuda : device == "emul" ? emul : cpu;
  };
  StepSizes s;
  s.arch = a.one_of("arch", {"rwkv5", "rwkv6", "rwkv7", "goldfinch", "llama"});
  s.precision = a.given("precision") ? a.one_of("precision", {"fp32", "bf16", "fp64"})
                : device == "cpu"    ? "fp32"
                                     : "bf16";
  s.graph = a.one_of("graph", {"auto", "off"});
  s.recompute = a.given("recompute") ? a.one_of("recompute", {"none", "selective", "block"})
                : device == "cuda"   ? ""
                                     : "none";
  s.layers = size("layers", 8, 24, 3, 1, 1024);
  s.hidden = size("hidden", 512, 2048, 32, 1, 1 << 16);
  s.batch = size("batch", 8, 8, 1, 1, 1 << 20);
  s.seq_len = size("seq-len", 512, 4096, 16, 1, 1 << 24);
  s.vocab = size("vocab", 8192, 65536, 64, 2, 1 << 24);
  s.threads = a.integer("threads", 0, 256);
  s.repeat = a.integer("repeat", 1, 1000);
  return s;
}

int run(const Arguments& a) {
  const std::string where = a.one_of("device", {"cpu", "cuda", "emul"});
  const StepSizes sizes = sizes_of(a, where);
  if (where != "cpu") return bench_gpu_step(sizes, where, a.flag("json"));
  if (sizes.arch != "rwkv6")
    fail(ExitCode::kUsage, "BENCH-05", "--arch ", sizes.arch, ": expected rwkv6 on the CPU");
  config::RunConfig config;
  config.precision = sizes.precision;
  config.threads = sizes.threads;
  config.model.select("rwkv6");
  auto& model = dynamic_cast<Rwkv6Config&>(*config.model);
  model.num_layers = sizes.layers;
  model.hidden_size = sizes.hidden;
  model.vocab_size = sizes.vocab;
  const int64_t B = sizes.batch, T = sizes.seq_len, repeat = sizes.repeat;
  Bench bench(loop::make_session(std::move(config)), B, T);
  bench.session().model->recompute = recompute_from_string(sizes.recompute);

  const std::vector<Product> products = products_of(*bench.session().model);
  // With bf16 the same is measured in fp32, for comparison.
  std::vector<Measurement> runs;
  if (bench.session().config.precision == "bf16") runs.push_back({MatmulPrecision::kBf16});
  runs.push_back({MatmulPrecision::kFull});
  // All in turn, so that a change of the machine's speed meets all. Before it the memory plans are recorded
  // and once replayed.
  for (int64_t i = -2; i < repeat; ++i)
    for (Measurement& m : runs) {
      bench.session().device->matmul_precision = m.precision;
      const Timing step = bench.step();
      m.product_times.resize(products.size());
      for (size_t p = 0; p < products.size(); ++p) {
        const double seconds = bench.products(products[p]);
        if (i >= 0) m.product_times[p].push_back(seconds);
      }
      if (i >= 0) m.steps.push_back(step);
    }
  bench.session().device->matmul_precision = runs[0].precision;
  const Measurement& measured = runs[0];
  auto of = [&](double Timing::*part) { return measured.of(part); };
  double matrix_flops = 0;
  nlohmann::json rows = nlohmann::json::array();
  for (size_t p = 0; p < products.size(); ++p) {
    const double each = median(measured.product_times[p]);
    const double flops = 6.0 * static_cast<double>(products[p].n * products[p].k * B * T);
    matrix_flops += flops * static_cast<double>(products[p].count);
    rows.push_back({{"n", products[p].n},
                    {"k", products[p].k},
                    {"count", products[p].count},
                    {"seconds", each},
                    {"gflops", flops / each / 1e9}});
  }
  const double matrix_s = measured.products_s(products);
  // Beside what the products reach: the CPU has no data sheet here.
  const double flops = loop::train_flops_per_token(*bench.session().model, T) * static_cast<double>(B * T);
  const double step_s = of(&Timing::total);
  const auto* plan = bench.session().device->arena().plan(bench.key("train"));
  nlohmann::json result{{"parameters", bench.session().store->num_elements()},
                        {"tokens", B * T},
                        {"threads", bench.session().device->pool().num_threads()},
                        {"isa", to_string(bench.session().device->isa())},
                        {"precision", bench.session().config.precision},
                        {"repeat", repeat},
                        {"step_s", step_s},
                        {"forward_s", of(&Timing::forward)},
                        {"backward_s", of(&Timing::backward)},
                        {"optim_s", of(&Timing::optim)},
                        {"products_s", matrix_s},
                        {"products_gflops", matrix_flops / matrix_s / 1e9},
                        {"ratio", step_s / matrix_s},
                        {"flops", flops},
                        {"share_of_products_rate", flops / step_s / (matrix_flops / matrix_s)},
                        {"tokens_per_s", static_cast<double>(B * T) / step_s},
                        {"activation_bytes", plan->slab_bytes},
                        {"activation_peak_bytes", plan->peak_bytes},
                        {"products", rows}};
  if (runs.size() > 1) {
    result["fp32_step_s"] = runs[1].of(&Timing::total);
    result["fp32_products_s"] = runs[1].products_s(products);
  }
  if (a.flag("json")) {
    std::printf("%s\n", result.dump(2).c_str());
    return 0;
  }
  std::printf("%s parameters, %lld tokens a step, %s, %d threads, %s\n",
              loop::human_count(static_cast<double>(bench.session().store->num_elements())).c_str(),
              static_cast<long long>(B * T), bench.session().config.precision.c_str(),
              bench.session().device->pool().num_threads(), to_string(bench.session().device->isa()).c_str());
  auto line = [](const char* what, double seconds, const std::string& note) {
    std::printf("  %-28s %9.1f ms   %s\n", what, seconds * 1e3, note.c_str());
  };
  line("step (median)", step_s, fixed(static_cast<double>(B * T) / step_s, 0) + " tokens/s");
  line("  forward", of(&Timing::forward), "");
  line("  backward", of(&Timing::backward), "");
  line("  optimizer", of(&Timing::optim), "");
  line("its matrix products alone", matrix_s, fixed(matrix_flops / matrix_s / 1e9, 0) + " GFLOP/s");
  std::printf("  %-28s %9.3f\n", "ratio", step_s / matrix_s);
  std::printf("  %-28s %8.1f%%   of the rate of its products\n", "used (6 P + 3 x mixers)",
              100 * flops / step_s / (matrix_flops / matrix_s));
  if (runs.size() > 1) {
    const double fp32_step_s = runs[1].of(&Timing::total), fp32_products_s = runs[1].products_s(products);
    line("the step in fp32", fp32_step_s, fixed(fp32_step_s / step_s, 2) + " times as long");
    line("  its matrix products alone", fp32_products_s,
         fixed(fp32_products_s / matrix_s, 2) + " times as long");
  }
  std::printf("  %-28s %9.1f MiB  (at least %.1f MiB are live at once)\n", "activations",
              static_cast<double>(plan->slab_bytes) / (1 << 20),
              static_cast<double>(plan->peak_bytes) / (1 << 20));
  for (size_t p = 0; p < products.size(); ++p)
    std::printf("    [%lld, %lld] x %-3lld %28.2f ms   %4.0f GFLOP/s\n",
                static_cast<long long>(products[p].n), static_cast<long long>(products[p].k),
                static_cast<long long>(products[p].count), median(measured.product_times[p]) * 1e3,
                rows[p]["gflops"].get<double>());
  return 0;
}

}  // namespace

Command bench_step_command() {
  Command c;
  c.name = "step";
  c.summary = "a training step beside its matrix products, or beside a GPU's peak";
  c.details =
      "Medians over repeats. The products are the three of every weight (forward, gradient of the input, "
      "gradient of the weight), run by the same BLAS on the same threads; the ratio is what everything "
      "else costs. With --precision bf16 the step and the products are also measured in fp32.\n\n"
      "With --device cuda it is the step of the trainer, of any --arch, as one CUDA graph, with its MFU "
      "and HFU: floating-point operations per second, HFU with what is recomputed, as shares of the GPU's "
      "dense bf16 peak by its data sheet. On a CPU the share is that of the rate of its own products.";
  c.options = {
      {"device", "DEVICE", "cpu, cuda, or emul: the GPU's kernels emulated", "cpu"},
      {"arch", "ARCH", "on a GPU rwkv5, rwkv6, rwkv7, goldfinch or llama", "rwkv6"},
      {"layers", "L", "blocks; 8, on a GPU 24"},
      {"hidden", "C", "hidden size; 512, on a GPU 2048"},
      {"batch", "B", "sequences; 8"},
      {"seq-len", "T", "tokens of a sequence; 512, on a GPU 4096"},
      {"vocab", "V", "vocabulary; 8192, on a GPU 65536"},
      {"precision", "P", "fp32, bf16 or fp64; on a CPU fp32, else bf16"},
      {"recompute", "KIND", "none, selective or block; none, on a GPU the first that fits its memory"},
      {"graph", "WHEN", "auto or off: repeat a GPU's step as one graph", "auto"},
      {"threads", "N", "threads; 0: all cores", "0"},
      {"repeat", "R", "measured steps", "7"},
      {"json", "", "machine-readable output"}};
  c.examples = {{"rookery bench step", "L8 C512 T512 B8 V8192"},
                {"rookery bench step --device cuda --arch rwkv7", "1.5B parameters"}};
  c.exit_codes = {ExitCode::kUnavailable};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
