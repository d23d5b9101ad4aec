// golden_test.cpp: holds ops, models, optimizer and recurrent mode against every golden file of the folder,
// in fp64 (1e-9 relative, 1e-7 where the file itself holds fp32) and fp32 (10 times the figure measured on
// the reference); whole models also with bf16 products (3 times the reference's bf16 figure). What a file
// asks for is read from the file, so a new file is checked with no change here. Kinds and models that do not
// exist yet are skipped by name.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <set>

#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "kernels/ops/embedding/embedding.h"
#include "kernels/ops/gold/gold.h"
#include "kernels/ops/matmul/gemm.h"
#include "kernels/ops/norm/norm.h"
#include "kernels/ops/wkv6/wkv6.h"
#include "kernels/ops/wkv7/wkv7.h"
#include "parallel/shard/param_store.h"
#include "tests/golden/models.h"
#include "tests/support/golden.h"
#include "trainer/optim/adamw.h"
#include "trainer/optim/schedule.h"

namespace rookery::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr double kTight = 1e-9, kStoredAsFp32 = 1e-7;

// bound: of fp32 runs; in fp64 what the file's own precision allows.
void expect_close(const GoldenFile& file, const std::string& name, const std::vector<double>& got,
                  DType dtype, double bound) {
  const GoldenTensor& expected = file[name];
  // Zero in theory, noise in the file: the bias of GOLD keys, which softmax ignores.
  constexpr double kNoise = 1e-12, kNoiseAllowed = 1e-7;
  double largest = 0;
  for (const double v : expected.values) largest = std::max(largest, std::abs(v));
  if (largest > 0 && largest < kNoise) {
    for (const double v : got) EXPECT_NEAR(v, 0, kNoiseAllowed) << file.path.filename() << ": " << name;
    return;
  }
  const double allowed = dtype == DType::kF32 ? bound : expected.dtype == "F64" ? kTight : kStoredAsFp32;
  EXPECT_LE(rel_l2(got, expected.values), allowed)
      << file.path.filename() << ": " << name << " in " << to_string(dtype);
}
void expect_close(const GoldenFile& file, const std::string& name, const Tensor& got, double bound) {
  expect_close(file, name, to_doubles(got), got.dtype(), bound);
}

Tensor tensor_of(const GoldenFile& file, const std::string& name, DType dtype, Device& device) {
  const GoldenTensor& t = file[name];
  return tensor_from(std::span<const double>(t.values), Shape(std::span<const int64_t>(t.shape)), dtype,
                     device);
}

// ---- ops ----

using Inputs = std::map<std::string, Var>;

// `op` takes the inputs by their names in the file, the initial state s0 undefined where the file has none,
// and returns {y, final state}.
void check_op(const GoldenFile& f, DType dtype, Device& device, const std::vector<std::string>& names,
              const std::function<std::pair<Var, Var>(Inputs&)>& op) {
  constexpr double kBound = 1e-5;  // the README's allowance for a sequential form
  Tape tape;
  Inputs in;
  for (const std::string& name : names)
    if (f.has(name)) in[name] = tape.watch(tensor_of(f, name, dtype, device));
  const auto [y, state] = op(in);
  expect_close(f, "y", y.value(), kBound);
  expect_close(f, "sT", state.value(), kBound);
  const std::pair<Var, Tensor> seeds[] = {{y, tensor_of(f, "gy", dtype, device)},
                                          {state, tensor_of(f, "gsT", dtype, device)}};
  tape.backward(seeds);
  for (const std::string& name : names)
    if (f.has(name)) expect_close(f, "g" + name, tape.grad(in[name]), kBound);
}

// WKV5 and WKV6: w [H,N] or [B,T,H,N].
void check_wkv(const GoldenFile& f, DType dtype, Device& device, decltype(&ops::wkv6) op) {
  check_op(f, dtype, device, {"r", "k", "v", "w", "u", "s0"}, [op](Inputs& in) {
    const auto out = op(in["r"], in["k"], in["v"], in["w"], in["u"], in["s0"], {});
    return std::pair(out.y, out.state);
  });
}

void check_wkv7(const GoldenFile& f, DType dtype, Device& device) {
  check_op(f, dtype, device, {"r", "w", "k", "v", "a", "b", "s0"}, [](Inputs& in) {
    const auto out =
        ops::wkv7(in["r"], in["w"], in["k"], in["v"], in["a"], in["b"], Wkv7Decay::kExpExp, in["s0"]);
    return std::pair(out.y, out.state);
  });
}

// ---- models ----

struct Loaded {
  std::unique_ptr<Model> model;
  std::unique_ptr<ParamStore> store;
};

Loaded load(const std::string& name, const GoldenFile& config_of, const GoldenFile& values,
            const std::string& prefix, DType dtype, Device& device) {
  Loaded l;
  l.model = build(name, json::parse(config_of.meta.at("config")));
  l.store = std::make_unique<ParamStore>(l.model->parameters.all(), dtype, device);
  std::set<std::string> names;
  for (Parameter* p : l.store->parameters()) {
    const Tensor t = tensor_of(values, prefix + p->name, dtype, device);
    EXPECT_EQ(t.numel(), p->global.numel()) << p->name;
    copy(t.reshape(p->global), p->master);
    names.insert(prefix + p->name);
  }
  for (const auto& [tensor, value] : values.tensors)
    if (tensor.starts_with(prefix)) {
      EXPECT_TRUE(names.count(tensor)) << "the model has no " << tensor;
    }
  return l;
}

Tensor ints_of(const GoldenFile& f, const std::string& name, const Shape& shape, Device& device,
               DType dtype = DType::kI32) {
  return tensor_from(std::span<const double>(f[name].values), shape, dtype, device);
}

// Loss as trained: mean cross entropy, with the pull on the largest logit in its gradient.
ops::LossOut loss_of(Model& model, nn::Context& cx, const Tensor& ids, const Tensor& targets) {
  return ops::linear_cross_entropy(model.hidden(cx, ids), cx(model.head()), targets, {},
                                   {static_cast<double>(targets.numel()), model.uses_l2wrap() ? 1e-4 : 0.0});
}

// kinds model, packed, statetune
void check_model(const GoldenFile& f, DType dtype, Device& device) {
  const bool bf16 = device.matmul_precision == MatmulPrecision::kBf16;
  const Measured measured = bf16 ? measured_bf16(f.path) : measured_fp32(f.path);
  const double factor = bf16 ? 3 : 10;
  const bool statetune = f.meta.count("params_from") > 0;
  const GoldenFile values = statetune ? GoldenFile::read(f.path.parent_path() / f.meta.at("params_from")) : f;
  Loaded l = load(f.meta.at("model"), f, values, "param.", dtype, device);
  const Shape shape(std::span<const int64_t>(f["idx"].shape));
  const Tensor ids = ints_of(f, "idx", shape, device), targets = ints_of(f, "targets", shape, device);
  const int64_t B = shape[0];

  Tape tape;
  nn::SeqContext seq;
  if (f.has("doc_start")) seq.doc_start = ints_of(f, "doc_start", shape, device, DType::kU8);
  // Trainable states are stored [H, value, key] and shared by the rows; WKV7 takes [B, H, value, key], WKV6
  // [B, H, key, value].
  const bool value_first = f.meta.at("model") == "rwkv7";
  const auto place = [value_first](int64_t h, int64_t value, int64_t key, int64_t N) {
    return value_first ? (h * N + value) * N + key : (h * N + key) * N + value;
  };
  std::map<std::string, Var> states;
  for (const auto& [name, t] : f.tensors) {
    if (!name.starts_with("state.")) continue;
    const int64_t H = t.shape[0], N = t.shape[1];
    std::vector<double> expanded(static_cast<size_t>(B * H * N * N));
    for (int64_t bh = 0; bh < B * H; ++bh)
      for (int64_t value = 0; value < N; ++value)
        for (int64_t key = 0; key < N; ++key)
          expanded[place(bh, value, key, N)] = t.values[(bh % H * N + value) * N + key];
    states[name] = tape.watch(tensor_from(std::span<const double>(expanded), {B, H, N, N}, dtype, device));
    const std::string slot = name.substr(6, name.size() - 6 - std::string("time_state").size()) + "wkv";
    seq.set(slot, states[name]);
  }
  if (statetune)
    for (Parameter* p : l.store->parameters()) p->trainable = false;

  nn::Context eval{nullptr, seq};
  expect_close(f, "logits", l.model->logits(eval, ids).value(), factor * measured.logits);

  nn::Context cx{&tape, seq};
  l.store->begin_step();
  const ops::LossOut loss = loss_of(*l.model, cx, ids, targets);
  const double allowed = dtype == DType::kF32 ? factor * measured.loss : kTight;
  EXPECT_NEAR(to_doubles(loss.loss.value())[0], f["loss"].values[0], allowed);
  tape.backward(loss.loss);
  l.store->finish_reduction();
  const json unused = f.meta.count("unused_params") ? json::parse(f.meta.at("unused_params")) : json::array();
  for (Parameter* p : l.store->parameters()) {
    if (statetune) continue;  // the gradients there are those of the states
    const bool has_none = std::find(unused.begin(), unused.end(), p->name) != unused.end();
    EXPECT_TRUE(has_none || !l.model->is_unused(*p)) << p->name;
    if (f.has("grad." + p->name)) {
      expect_close(f, "grad." + p->name, p->grad, factor * measured.grad_worst);
    } else {
      EXPECT_TRUE(has_none) << f.path.filename() << ": no gradient of " << p->name;
    }
  }
  for (const auto& [name, var] : states) {
    const std::vector<double> grad = to_doubles(tape.grad(var));
    const int64_t H = var.shape()[1], N = var.shape()[2];
    std::vector<double> summed(static_cast<size_t>(H * N * N), 0.0);
    for (int64_t bh = 0; bh < B * H; ++bh)
      for (int64_t value = 0; value < N; ++value)
        for (int64_t key = 0; key < N; ++key)
          summed[(bh % H * N + value) * N + key] += grad[place(bh, value, key, N)];
    expect_close(f, "grad." + name.substr(6), summed, dtype, factor * measured.grad_worst);
  }
}

void check_recurrent(const GoldenFile& f, DType dtype, Device& device) {
  constexpr double kBound = 1e-5;
  const GoldenFile values = GoldenFile::read(f.path.parent_path() / f.meta.at("params_from"));
  Loaded l = load(values.meta.at("model"), values, values, "param.", dtype, device);
  nn::SeqContext seq;
  seq.carry = true;
  nn::Context cx{nullptr, seq};
  auto feed = [&](int32_t token) {
    return to_doubles(
        l.model->logits(cx, tensor_from(std::span<const int32_t>(&token, 1), {1, 1}, DType::kI32, device))
            .value());
  };
  std::vector<double> logits;
  for (const int32_t token : f.ints("idx")) {
    const auto row = feed(token);
    logits.insert(logits.end(), row.begin(), row.end());
  }
  expect_close(f, "logits", logits, dtype, kBound);
  for (const auto& [name, slot] :
       {std::pair{"state.att_x", ".att.shift"}, {"state.ffn_x", ".ffn.shift"}, {"state.wkv", ".att.wkv"}}) {
    std::vector<double> state;
    for (int64_t i = 0; i < l.model->num_blocks(); ++i) {
      const Var of_block = seq.state("blocks." + std::to_string(i) + slot);
      if (!of_block.defined()) continue;  // a wkv state: of the recurrent blocks alone
      const auto part = to_doubles(of_block.value());
      state.insert(state.end(), part.begin(), part.end());
    }
    expect_close(f, name, state, dtype, kBound);
  }
  if (f.has("state.k_cache")) {  // GoldFinch: held compressed, compared expanded
    auto held = [&](const char* slot) {
      return nn::tokens_of(seq.histories().at(slot).rows, 0, seq.length(slot));
    };
    const Tensor ids = held("gold.ids");
    EXPECT_EQ(to_doubles(ids), f["state.input_tokens_cache"].values);
    auto parameter = [&](const char* name) { return Var(l.model->parameters.find(name)->master); };
    const Var x0 = ops::layer_norm(ops::embedding(ids, parameter("emb.weight")),
                                   parameter("blocks.0.ln0.weight"), parameter("blocks.0.ln0.bias"));
    expect_close(f, "state.k_cache",
                 ops::gold_keys(x0, Var(held("gold.cache")), parameter("w_kv_cache_b.weight")).value(),
                 kBound);
  }
  expect_close(f, "logits_next", feed(f.ints("next_token")[0]), dtype, kBound);
}

void check_adamw(const GoldenFile& f, DType dtype, Device& device) {
  const std::string shape = f.meta.count("lr_shape") ? f.meta.at("lr_shape") : "half_cosine";
  if (shape != "half_cosine" && shape != "quarter_cosine") throw Pending("lr_shape " + shape);
  const bool own = f.meta.at("params_from").starts_with("init.*");
  const GoldenFile start = own ? f : GoldenFile::read(f.path.parent_path() / f.meta.at("params_from"));
  Loaded l = load(f.meta.at("model"), f, start, own ? "init." : "param.", dtype, device);

  const std::string betas = f.meta.at("betas");
  AdamwConfig config;
  config.beta1 = std::stod(betas);
  config.beta2 = std::stod(betas.substr(betas.find(',') + 1));
  config.eps = f.number("eps", 1e-8);
  config.weight_decay = f.number("weight_decay", 0);
  config.grad_clip = f.number("grad_clip", 0);
  Schedule schedule;
  schedule.kind = shape == "half_cosine" ? ScheduleKind::kCosine : ScheduleKind::kQuarterCosine;
  schedule.lr = f.number("lr_init", 0);
  schedule.lr_final = f.number("lr_final", 0);
  schedule.warmup_steps = static_cast<int64_t>(f.number("warmup_steps", 0));
  schedule.warmup_from = f.number("warmup_from", 0.01);
  schedule.total_steps = static_cast<int64_t>(f.number("total_steps_of_schedule", 1));

  // The groups of the reference: "lr_scale=1.0 weight_decay=0.0" -> names.
  const json groups = json::parse(f.meta.at("groups"));
  for (const auto& [group, names] : groups.items()) {
    double lr_scale = 0, decay = 0;
    ASSERT_EQ(std::sscanf(group.c_str(), "lr_scale=%lf weight_decay=%lf", &lr_scale, &decay), 2) << group;
    for (const std::string name : names) {
      const Parameter* p = l.model->parameters.find(name);
      ASSERT_NE(p, nullptr) << name;
      EXPECT_EQ(l.model->optim_group(*p).lr_scale, lr_scale) << name;
      EXPECT_EQ(l.model->optim_group(*p).decay, decay > 0) << name;
    }
  }

  AdamW optim(*l.store, config, [&](const Parameter& p) { return l.model->optim_group(p); });
  const bool wide = dtype == DType::kF64;
  const auto& all = f["idx"].shape;  // [steps, B, T]
  const int64_t per_step = all[1] * all[2];
  std::map<std::string, std::vector<double>> before;
  for (Parameter* p : l.store->parameters()) before[p->name] = to_doubles(p->master);
  for (int64_t step = 0; step < all[0]; ++step) {
    auto slice = [&](const char* name) {
      return tensor_from(std::span<const double>(f[name].values).subspan(step * per_step, per_step),
                         {all[1], all[2]}, DType::kI32, device);
    };
    const double lr = schedule.at(step);
    EXPECT_NEAR(lr, f["lr"].values[step], 1e-12);
    Tape tape;
    nn::SeqContext seq;
    nn::Context cx{&tape, seq};
    l.store->begin_step();
    const ops::LossOut loss = loss_of(*l.model, cx, slice("idx"), slice("targets"));
    tape.backward(loss.loss);
    l.store->finish_reduction();
    const AdamW::Report report = optim.step(lr);
    EXPECT_NEAR(to_doubles(loss.loss.value())[0], f["loss"].values[step], wide ? kTight : 1e-5)
        << "step " << step;
    EXPECT_NEAR(report.grad_norm / f["grad_norm"].values[step], 1.0, wide ? kTight : 1e-3) << "step " << step;
  }
  // Displacements: entry by entry they are not comparable in fp32 (eps 1e-18 makes rounding noise a full
  // step).
  for (Parameter* p : l.store->parameters()) {
    const std::vector<double> now = to_doubles(p->master);
    std::vector<double> moved(now.size()), expected(now.size());
    double norm = 0;
    for (size_t i = 0; i < now.size(); ++i) {
      moved[i] = now[i] - before[p->name][i];
      norm += moved[i] * moved[i];
    }
    if (f.has("final." + p->name)) {
      for (size_t i = 0; i < now.size(); ++i)
        expected[i] = f["final." + p->name].values[i] - before[p->name][i];
      // final.* is rounded to the file's precision, which the displacement (about 1/50 of the value) feels
      // more.
      EXPECT_LE(rel_l2(moved, expected), wide ? 1e-5 : 1e-3) << p->name;
      if (wide) expect_close(f, "final." + p->name, now, dtype, 0);
    }
    if (f.has("final_delta_norm." + p->name)) {
      const double expected_norm = f["final_delta_norm." + p->name].values[0];  // 0: the tensor stays
      EXPECT_NEAR(std::sqrt(norm), expected_norm, (wide ? kTight : 1e-3) * expected_norm) << p->name;
    }
  }
}

// Exact values of the deterministic parameters; the .csv beside the file holds the statistics of all.
std::string model_of_init(const fs::path& path) {  // init_rwkv6_L12_D768_deterministic -> rwkv6
  const std::string name = path.filename().string().substr(5);
  return name.substr(0, name.find('_'));
}
std::unique_ptr<Model> build_init(const fs::path& path, int64_t layers, int64_t width, int64_t head_size,
                                  int64_t vocab) {
  return build(model_of_init(path),
               {{"n_layer", layers}, {"n_embd", width}, {"head_size", head_size}, {"vocab_size", vocab}});
}

void check_init(const GoldenFile& f, Device& device) {
  // Values do not depend on the vocabulary; a small one saves its QR.
  const auto model = build_init(f.path, static_cast<int64_t>(f.number("n_layer", 0)),
                                static_cast<int64_t>(f.number("n_embd", 0)),
                                static_cast<int64_t>(f.number("head_size", 64)), 64);
  ParamStore store(model->parameters.all(), DType::kF32, device);
  model->parameters.initialize(7);
  for (const auto& [name, expected] : f.tensors) {
    const Parameter* p = model->parameters.find(name);
    ASSERT_NE(p, nullptr) << name;
    const std::vector<double> got = to_doubles(p->master);
    ASSERT_EQ(got.size(), expected.values.size()) << name;
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - expected.values[i]));
    EXPECT_LE(worst, 1e-6) << name;
  }
}

std::vector<std::string> split(const std::string& text, char by) {
  std::vector<std::string> parts(1);
  for (const char ch : text) {
    if (ch == by) {
      parts.emplace_back();
    } else {
      parts.back() += ch;
    }
  }
  return parts;
}

void check_init_statistics(const fs::path& path, Device& device) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  const std::vector<std::string> columns = split(line, ',');
  std::vector<std::vector<std::string>> rows;
  int64_t layers = 0, width = 0, vocab = 0;
  while (std::getline(in, line)) {
    rows.push_back(split(line, ','));
    const std::string& name = rows.back()[0];
    if (name.starts_with("blocks.")) layers = std::max<int64_t>(layers, std::stoll(name.substr(7)) + 1);
    if (name == "emb.weight") {
      vocab = std::stoll(rows.back()[1]);
      width = std::stoll(split(rows.back()[1], 'x')[1]);
    }
  }
  // The full vocabulary only where its size shows: the gain of the head and the number of draws. 4096 rows do
  // for both.
  const int64_t small_vocab = std::min<int64_t>(vocab, 4096);
  const auto model = build_init(path, layers, width, 64, small_vocab);
  ParamStore store(model->parameters.all(), DType::kF32, device);
  model->parameters.initialize(11);
  size_t checked = 0;
  for (const auto& row : rows) {
    const std::string &name = row[0], &kind = row[2];
    const Parameter* p = model->parameters.find(name);
    ASSERT_NE(p, nullptr) << name;
    const std::vector<double> got = to_doubles(p->master);
    const bool of_vocab = p->global[0] == small_vocab && (name == "emb.weight" || name == "head.weight");
    if (!of_vocab) {
      std::string shape;
      for (const int64_t d : p->global) shape += (shape.empty() ? "" : "x") + std::to_string(d);
      EXPECT_EQ(shape, row[1]) << name;
    }
    double sum = 0, squares = 0, low = got[0], high = got[0];
    for (const double v : got) {
      sum += v;
      low = std::min(low, v);
      high = std::max(high, v);
    }
    const double n = static_cast<double>(got.size()), mean = sum / n;
    for (const double v : got) squares += (v - mean) * (v - mean);
    const double deviation = std::sqrt(squares / n);
    double expected_mean = std::stod(row[3]), expected_deviation = std::stod(row[4]);
    // Rows of an orthogonal head have norm 0.5 sqrt(V / C) / sqrt(V / C): the deviation does not depend on V.
    const bool random = kind.starts_with("uniform") || kind.starts_with("orthogonal");
    EXPECT_NEAR(mean, random ? 0 : expected_mean, random ? 5 * expected_deviation / std::sqrt(n) : 1e-6)
        << name;
    EXPECT_NEAR(deviation, expected_deviation, random ? 0.015 * expected_deviation : 1e-6) << name;
    if (!random) {
      EXPECT_NEAR(low, std::stod(row[5]), 1e-6) << name;
      EXPECT_NEAR(high, std::stod(row[6]), 1e-6) << name;
      EXPECT_NEAR(got.front(), std::stod(row[7]), 1e-6) << name;
      EXPECT_NEAR(got.back(), std::stod(row[8]), 1e-6) << name;
    } else if (kind.starts_with("uniform")) {
      const double limit = name == "emb.weight" ? 1e-4 : 0.01;
      EXPECT_LE(std::max(-low, high), limit) << name;
      EXPECT_GE(std::min(-low, high), 0.98 * limit) << name;
    } else if (p->global.numel() <= 768 * 768) {  // W W^T = g^2 I (or W^T W)
      const int64_t R = p->global[0], C = p->global[1];
      const double gain = std::stod(kind.substr(kind.rfind(' ') + 1));
      for (const auto& [i, j] : {std::pair<int64_t, int64_t>{0, 0}, {3, 3}, {0, 1}, {5, 17}}) {
        double dot = 0;
        for (int64_t c = 0; c < C && R <= C; ++c) dot += got[i * C + c] * got[j * C + c];
        for (int64_t r = 0; r < R && R > C; ++r) dot += got[r * C + i] * got[r * C + j];
        EXPECT_NEAR(dot, i == j ? gain * gain : 0, 1e-5) << name;
      }
    }
    ++checked;
  }
  EXPECT_EQ(checked, store.parameters().size());
}

// ---- the folder ----

class Golden : public testing::Test {
 public:
  Golden(fs::path path, DType dtype, MatmulPrecision products)
      : path_(std::move(path)), dtype_(dtype), products_(products) {}
  void TestBody() override {
    if (products_ == MatmulPrecision::kBf16 && !bf16_matmul_available())
      GTEST_SKIP() << "no bf16 products on this processor or in this build";
    Device device(DeviceType::kCpu, 2);
    device.matmul_precision = products_;
    const std::string name = path_.filename().string(), kind = name.substr(0, name.find('_'));
    try {
      if (kind == "init" && path_.extension() == ".csv") return check_init_statistics(path_, device);
      if (path_.extension() != ".safetensors") throw Pending("kind " + name);
      const GoldenFile file = GoldenFile::read(path_);
      if (kind == "wkv5") return check_wkv(file, dtype_, device, ops::wkv5);
      if (kind == "wkv6") return check_wkv(file, dtype_, device, ops::wkv6);
      if (kind == "wkv7") return check_wkv7(file, dtype_, device);
      if (kind == "model" || kind == "packed" || kind == "statetune")
        return check_model(file, dtype_, device);
      if (kind == "recurrent") return check_recurrent(file, dtype_, device);
      if (kind == "adamw") return check_adamw(file, dtype_, device);
      if (kind == "init") return check_init(file, device);
      throw Pending("kind " + kind);
    } catch (const Pending& pending) {
      GTEST_SKIP() << name << ": pending, " << pending.what() << " does not exist yet";
    }
  }

 private:
  fs::path path_;
  DType dtype_;
  MatmulPrecision products_;
};

bool register_files() {
  const fs::path folder = golden_folder();
  std::vector<fs::path> files;
  if (fs::is_directory(folder))
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string kind = entry.path().filename().string();
      if (entry.path().extension() == ".safetensors" ||
          (entry.path().extension() == ".csv" && kind.starts_with("init_")))
        files.push_back(entry.path());
    }
  std::sort(files.begin(), files.end());
  auto add = [](const fs::path& file, const std::string& precision, DType dtype, MatmulPrecision products) {
    testing::RegisterTest("golden", (file.filename().string() + "." + precision).c_str(), nullptr, nullptr,
                          __FILE__, __LINE__,
                          [=]() -> testing::Test* { return new Golden(file, dtype, products); });
  };
  for (const fs::path& file : files) {
    const std::string name = file.filename().string();
    if (!name.starts_with("init_")) add(file, "f64", DType::kF64, MatmulPrecision::kFull);  // drawn in fp32
    add(file, "f32", DType::kF32, MatmulPrecision::kFull);
    if (name.starts_with("model_") || name.starts_with("packed_"))
      add(file, "bf16", DType::kF32, MatmulPrecision::kBf16);
  }
  return !files.empty();
}
const bool kFound = register_files();

TEST(golden, folder_holds_files) {
  EXPECT_TRUE(kFound) << "no golden files in " << golden_folder() << "; set ROOKERY_GOLDEN";
}

}  // namespace
}  // namespace rookery::test
