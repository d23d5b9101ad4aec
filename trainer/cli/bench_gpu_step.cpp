// bench_gpu_step.cpp: `rookery bench step --device cuda`: training steps of a model as the trainer runs them,
// with the share of the GPU's peak that they use (MFU, HFU: docs/logs.md).
#include <cstdio>
#include <nlohmann/json.hpp>

#include "kernels/base/rng.h"
#include "kernels/ops/matmul/product.h"
#include "trainer/cli/bench.h"
#include "trainer/loop/device.h"
#include "trainer/loop/human.h"
#include "trainer/loop/memory_plan.h"
#include "trainer/loop/step.h"
#include "trainer/loop/trainer.h"
#include "trainer/models/registry.h"

namespace rookery::cli {
namespace {

using loop::fixed;
using loop::steady_now;

// The models of gpu-step 1 at any size.
config::RunConfig config_of(const StepSizes& s, const std::string& recompute, const std::string& device) {
  const int64_t head = s.arch == "llama" && s.hidden % 128 == 0 ? 128 : s.hidden % 64 == 0 ? 64 : 16;
  std::string model = str("{arch: ", s.arch, ", num_layers: ", s.layers, ", hidden_size: ", s.hidden,
                          ", vocab_size: ", s.vocab, ", head_size: ", head);
  // 8/3 of the width, as of Llama, to a multiple of 64: 5504 of 2048.
  if (s.arch == "llama")
    model += str(", num_heads: ", s.hidden / head, ", ffn_size: ", (s.hidden * 8 / 3 + 63) / 64 * 64);
  return config::parse_run(
      str("model: ", model, "}\ndevice: ", device, "\nprecision: ", s.precision, "\ngraph: ", s.graph,
          "\nthreads: ", s.threads, "\ndata: {seq_len: ", s.seq_len, "}\nrecipe: {recompute: ", recompute,
          ", micro_batch_size: ", s.batch, ", global_batch_size: ", s.batch, ", max_steps: 1}\n"),
      "bench step");
}

data::Batch random_batch(const StepSizes& s) {
  const Philox random(1, stream_of("bench"));
  data::Batch batch;
  batch.rows = s.batch;
  batch.seq_len = s.seq_len;
  for (int64_t i = 0; i < s.batch * s.seq_len; ++i) {
    auto id = [&](int64_t at) {
      return static_cast<int32_t>(random.bits(static_cast<uint64_t>(at)) % static_cast<uint64_t>(s.vocab));
    };
    batch.x.push_back(id(i));
    batch.y.push_back(id(i + 1));
    batch.doc_start.push_back(i % s.seq_len == 0);
  }
  for (int64_t b = 0; b < s.batch; ++b) batch.samples.push_back(b);
  return batch;
}

// The first kind whose plan is within the free memory, a little left for what the plan does not know.
std::string fitting_recompute(const StepSizes& s, const std::string& where, const Device& device) {
  const auto free = static_cast<double>(device.accelerator().memory().free);
  const data::Batch batch = random_batch(s);
  for (const char* kind : {"none", "selective"}) {
    const loop::MemoryPlan plan = loop::plan_memory(config_of(s, kind, where), device.type(), batch);
    if (static_cast<double>(plan.total()) < 0.97 * free) return kind;
  }
  return "block";
}

}  // namespace

int bench_gpu_step(const StepSizes& s, const std::string& where, bool json) {
  register_models();
  register_recipes();
  const config::RunConfig plain = config_of(s, "none", where);
  auto made = loop::open_device(plain, loop::device_type(plain));
  Device& device = *made;
  const std::string recompute = s.recompute.empty() ? fitting_recompute(s, where, device) : s.recompute;
  loop::Session session = loop::make_session(config_of(s, recompute, where), std::move(made));
  session.model->parameters.initialize(1);
  session.store->publish();
  const auto recipe = make_recipe(*session.config.recipe);
  AdamW optim(*session.store, {}, [&](const Parameter& p) { return session.model->optim_group(p); });
  bool graph = false;
  loop::TrainStep step(session, *recipe, optim, [&] { graph = true; });
  const std::vector<data::Batch> batches{random_batch(s)};
  // Before what counts: memory is planned, replayed, and the graph noted.
  constexpr int64_t kWarm = 4;
  std::vector<double> seconds;
  for (int64_t i = -kWarm; i < s.repeat; ++i) {
    const double start = steady_now();
    step.run(batches, 1e-4);
    if (i >= 0) seconds.push_back(steady_now() - start);
  }
  const double time = median(seconds), tokens = static_cast<double>(s.batch * s.seq_len);
  const double flops = loop::train_flops_per_token(*session.model, s.seq_len) * tokens;
  const double recomputed = loop::recomputed_flops_per_token(*session.model, s.seq_len) * tokens;
  const double peak = 1e12 * loop::known_peak_tflops(device);
  nlohmann::json result{{"model", s.arch},
                        {"device", where},
                        {"precision", s.precision},
                        {"recompute", recompute},
                        {"graph", graph ? "replayed" : "none"},
                        {"parameters", session.store->num_elements()},
                        {"tokens", tokens},
                        {"repeat", s.repeat},
                        {"step_s", time},
                        {"tokens_per_s", tokens / time},
                        {"flops", flops},
                        {"recomputed_flops", recomputed}};
  if (peak > 0) {
    result["peak_flops_per_s"] = peak;
    result["mfu"] = flops / time / peak;
    result["hfu"] = (flops + recomputed) / time / peak;
  }
  if (!device.on_host()) {
    for (const Arena::Owned& owned : device.arena().owners())
      if (owned.peak > 0) result["memory_bytes"][owned.name] = owned.peak;
  }
  if (json) {
    std::printf("%s\n", result.dump(2).c_str());
    return 0;
  }
  std::printf("%s, %s parameters, %.0f tokens a step, %s on %s, recompute %s%s\n", s.arch.c_str(),
              loop::human_count(static_cast<double>(session.store->num_elements())).c_str(), tokens,
              s.precision.c_str(), where.c_str(), recompute.c_str(), graph ? ", one graph" : "");
  std::printf("  step (median) %.1f ms   %s tokens/s   %.1f TFLOP/s\n", time * 1e3,
              fixed(tokens / time, 0).c_str(), flops / time / 1e12);
  if (peak > 0)
    std::printf("  MFU %.1f%%   HFU %.1f%%   of %.0f TFLOP/s (data sheet, dense bf16)\n",
                100 * flops / time / peak, 100 * (flops + recomputed) / time / peak, peak / 1e12);
  return 0;
}

}  // namespace rookery::cli
