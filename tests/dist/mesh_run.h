// mesh_run.h: a few training steps of a tiny model on real text, on any mesh of ranks that are threads; and
// what must be equal to the same steps on one rank.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/base/rng.h"
#include "kernels/base/str.h"
#include "parallel/comm/threads.h"
#include "tests/support/tiny_run.h"
#include "trainer/loop/step.h"
#include "trainer/loop/trainer.h"
#include "trainer/models/registry.h"

namespace rookery::test {

// Two heads or more each, widths that degrees up to 4 divide.
inline const std::map<std::string, std::string>& tiny_models() {
  static const std::map<std::string, std::string> models{
      {"rwkv5", "{arch: rwkv5, num_layers: 2, hidden_size: 32, head_size: 8, vocab_size: 264}"},
      {"rwkv6", "{arch: rwkv6, num_layers: 2, hidden_size: 32, head_size: 8, vocab_size: 264}"},
      {"rwkv7", "{arch: rwkv7, num_layers: 2, hidden_size: 32, head_size: 8, vocab_size: 264}"},
      {"llama", "{arch: llama, num_layers: 2, hidden_size: 32, num_heads: 4, ffn_size: 64, vocab_size: 264}"},
      {"qwen2", "{arch: qwen2, num_layers: 2, hidden_size: 32, num_heads: 4, ffn_size: 64, vocab_size: 264}"},
      {"llama_paper", "{arch: llama_paper, num_layers: 2, hidden_size: 32, head_size: 8, vocab_size: 264}"},
      {"finch_c2", "{arch: finch_c2, num_layers: 2, hidden_size: 32, head_size: 8, vocab_size: 264}"},
      {"goldfinch", "{arch: goldfinch, num_layers: 3, hidden_size: 32, head_size: 8, vocab_size: 264}"}};
  return models;
}

struct MeshRun {
  std::vector<double> losses, norms;                           // by step
  std::map<std::string, std::vector<double>> parameters = {};  // whole tensors, after the last step
};

// Global batches of 8 sequences, in micro-batches of 2. AdamW's eps: with a small one the
// rounding of a gradient that is zero in theory becomes a step of full size.
inline config::RunConfig mesh_config(const TinyRuns& runs, const std::string& model,
                                     const std::string& precision, const std::string& mesh,
                                     const std::string& recipe_keys = "recompute: none",
                                     int64_t seq_len = 16) {
  return config::parse_run(
      str("name: tiny\nrun_dir: none\nseed: 7\nthreads: 1\nprecision: ", precision, "\nmodel: ", model,
          "\ndata: {seq_len: ", seq_len, ", sources: [{path: ", runs.path("tokens.h5"),
          "}]}\nrecipe: {kind: pretrain, micro_batch_size: 2, global_batch_size: 8, max_steps: 8, ",
          recipe_keys,
          "}\n"
          "optim: {lr: 3e-4, warmup_steps: 0, eps: 1e-8}\nmesh: ",
          mesh, "\n"),
      "the test");
}

// Calls run(place in this rank's part, place in the whole tensor, elements) for each run of a parameter.
template <class F>
void for_each_run(const Parameter& p, F&& run) {
  int64_t outer = 1, length = p.global.numel(), stride = length, first = 0;
  if (const int dim = p.spec.split_dim; dim >= 0) {
    for (int d = 0; d < dim; ++d) outer *= p.global[d];
    stride = p.global.numel() / outer;
    length = stride / p.spec.parts;
    first = p.spec.part * length;
  }
  for (int64_t o = 0; o < outer; ++o) run(o * length, o * stride + first, length);
}

// Noise on every initial value: through matrices that begin at zero no gradient flows, and what begins at
// zero makes the first updates from rounding errors.
inline void disturb(const loop::Session& session) {
  for (const Parameter* p : session.store->parameters()) {
    const Tensor old = session.store->values(*p);
    std::vector<double> values = to_doubles(old);
    const Philox noise(5, stream_of(p->name));
    for_each_run(*p, [&](int64_t here, int64_t there, int64_t n) {
      for (int64_t i = 0; i < n; ++i)
        values[static_cast<size_t>(here + i)] += 0.1 * noise.normal(static_cast<uint64_t>(there + i));
    });
    session.store->assign(
        *p, tensor_from(std::span<const double>(values), p->local(), old.dtype(), old.device()));
  }
}

// Puts this rank's part of each tensor where it belongs in the whole ones. Ranks that have the same part have
// the same bits.
inline void collect(const loop::Session& session, std::map<std::string, std::vector<double>>& whole,
                    std::mutex& mutex) {
  for (const Parameter* p : session.store->parameters()) {
    const std::vector<double> mine = to_doubles(session.store->values(*p));
    const std::lock_guard lock(mutex);
    std::vector<double>& values = whole[p->name];
    values.resize(static_cast<size_t>(p->global.numel()), NAN);
    for_each_run(*p, [&](int64_t here, int64_t there, int64_t n) {
      for (int64_t i = 0; i < n; ++i) {
        double& value = values[static_cast<size_t>(there + i)];
        const double own = mine[static_cast<size_t>(here + i)];
        ASSERT_TRUE(std::isnan(value) || value == own) << p->name << " " << there + i;
        value = own;
      }
    });
  }
}

inline MeshRun train_on_mesh(const TinyRuns& runs, const std::string& model, const std::string& precision,
                             const std::string& mesh_text, int64_t world, int64_t seq_len = 16,
                             const std::string& recipe_keys = "recompute: none", int steps = 5) {
  MeshRun run;
  std::vector<MeshRun> seen(static_cast<size_t>(world));
  std::mutex mutex;
  run_ranks(static_cast<int>(world), [&](Communicator& comm) {
    config::RunConfig config = mesh_config(runs, model, precision, mesh_text, recipe_keys, seq_len);
    const Mesh mesh(config.mesh.degrees(world), comm);
    loop::Session session =
        loop::make_session(std::move(config), std::make_unique<Device>(DeviceType::kCpu, 1), mesh);
    const auto recipe = make_recipe(*session.config.recipe);
    const auto loader = loop::make_loader(session.config, session.model->vocab_size(), mesh);
    AdamW optim(*session.store, loop::make_adamw_config(session.config),
                [&](const Parameter& p) { return session.model->optim_group(p); });
    loop::TrainStep step(session, *recipe, optim);
    session.model->parameters.initialize(
        7, [&](const Parameter& p, const Tensor& values) { session.store->assign(p, values); });
    disturb(session);
    session.store->publish();
    MeshRun& mine = seen[static_cast<size_t>(comm.rank())];
    for (int i = 0; i < steps; ++i) {
      const auto report = step.run(loop::read_step(*loader, session.config, mesh, 8 * i), 3e-4);
      mine.losses.push_back(report.loss);
      mine.norms.push_back(report.update.grad_norm);
    }
    collect(session, run.parameters, mutex);
  });
  run.losses = seen[0].losses;
  run.norms = seen[0].norms;
  for (const MeshRun& other : seen) {  // every rank reports the same, to the bit
    EXPECT_EQ(other.losses, run.losses);
    EXPECT_EQ(other.norms, run.norms);
  }
  return run;
}

// Loss and gradients in fp64 of one step on two sequences of 16 tokens, in the first of which documents begin
// at these tokens.
struct DocumentStep {
  double loss = 0;
  std::map<std::string, std::vector<double>> gradients = {};
};
inline DocumentStep step_on_documents(const TinyRuns& runs, const std::string& model,
                                      const std::string& mesh_text, int64_t world,
                                      const std::vector<int64_t>& documents, const std::string& recompute) {
  DocumentStep step;
  std::mutex mutex;
  run_ranks(static_cast<int>(world), [&](Communicator& comm) {
    config::RunConfig config =
        mesh_config(runs, model, "fp64", mesh_text, str("reset_at_documents: true, recompute: ", recompute));
    const Mesh mesh(config.mesh.degrees(world), comm);
    loop::Session session =
        loop::make_session(std::move(config), std::make_unique<Device>(DeviceType::kCpu, 1), mesh);
    const auto recipe = make_recipe(*session.config.recipe);
    AdamW optim(*session.store, loop::make_adamw_config(session.config),
                [&](const Parameter& p) { return session.model->optim_group(p); });
    loop::TrainStep train(session, *recipe, optim);
    session.model->parameters.initialize(7);
    disturb(session);
    session.store->publish();
    data::Batch batch{2, 16, {}, {}, std::vector<uint8_t>(32, 0), {0, 1}, {}};
    for (int i = 0; i < 32; ++i) {
      batch.x.push_back(i * 37 % 256 + 1);
      batch.y.push_back((i + 1) * 37 % 256 + 1);
    }
    for (const int64_t t : documents) batch.doc_start[static_cast<size_t>(t)] = 1;
    if (world > 1) batch = data::part_of(batch, mesh.index(Axis::kSeq), mesh.degree(Axis::kSeq));
    const double loss = train.run({batch}, 0).loss;
    const std::lock_guard lock(mutex);
    step.loss = loss;
    for (const Parameter* p : session.store->parameters()) step.gradients[p->name] = to_doubles(p->grad);
  });
  return step;
}

// What is added to all keys alike changes no attention weight.
inline bool zero_in_theory(const std::string& name) {
  return name.ends_with("att.ln_k.bias") || name.ends_with("k_proj.bias");
}

// Relative, and of tensors the relative L2 norm.
inline void expect_same_run(const MeshRun& one, const MeshRun& many, double bound) {
  ASSERT_EQ(one.losses.size(), many.losses.size());
  for (size_t i = 0; i < one.losses.size(); ++i) {
    EXPECT_NEAR(many.losses[i], one.losses[i], bound * std::abs(one.losses[i])) << "loss of step " << i;
    EXPECT_NEAR(many.norms[i], one.norms[i], bound * one.norms[i]) << "gradient norm of step " << i;
  }
  ASSERT_EQ(one.parameters.size(), many.parameters.size());
  for (const auto& [name, values] : one.parameters) {
    const std::vector<double>& others = many.parameters.at(name);
    double squares = 0, difference = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      squares += values[i] * values[i];
      difference += (others[i] - values[i]) * (others[i] - values[i]);
    }
    if (zero_in_theory(name) && bound > 1e-8) {
      // Of such a gradient fp32 computes noise, of which AdamW makes steps of any size up to the rate.
      EXPECT_LE(std::sqrt(difference), 2 * 5 * 3e-4 * std::sqrt(static_cast<double>(values.size()))) << name;
      continue;
    }
    EXPECT_LE(std::sqrt(difference), bound * std::sqrt(squares)) << name;
  }
}

}  // namespace rookery::test
