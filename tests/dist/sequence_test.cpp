// sequence_test.cpp: recurrences, attention and whole models on tokens that lie on several ranks, against one
// rank; what a shard does to a state, against plain loops.
#include <mutex>

#include "kernels/ops/wkv6/wkv6.h"
#include "kernels/ops/wkv7/wkv7.h"
#include "parallel/sequence/ring_attention.h"
#include "tests/dist/mesh_run.h"
#include "trainer/recipes/pretrain.h"

namespace rookery {
namespace {

using Values = std::vector<double>;

Device& cpu() {
  static Device device(DeviceType::kCpu, 1);
  return device;
}

Values drawn(const std::string& name, const Shape& shape) {
  const Philox noise(3, stream_of(name));
  Values values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = 0.5 * noise.normal(i);
  return values;
}

Tensor tensor(const Values& values, const Shape& shape, Device& device) {
  return tensor_from(std::span<const double>(values), shape, DType::kF64, device);
}

// Tokens [begin, begin + count) of a tensor [B, T, ...].
Tensor tokens(const Tensor& all, int64_t begin, int64_t count) {
  std::vector<int64_t> dims(all.shape().begin(), all.shape().end());
  dims[1] = count;
  const Tensor part = empty(Shape(std::span<const int64_t>(dims)), all.dtype(), all.device());
  copy_columns(all, begin, count, part, 0);
  return part;
}

// Puts the values of one rank's tokens where they belong among all.
void put_tokens(const Values& part, const Shape& shape, int64_t begin, int64_t all, Values& whole) {
  const int64_t B = shape[0], T = shape[1], row = shape.numel() / (B * T);
  whole.resize(static_cast<size_t>(B * all * row));
  for (int64_t b = 0; b < B; ++b)
    std::copy_n(part.begin() + b * T * row, T * row, whole.begin() + (b * all + begin) * row);
}

double difference(const Values& a, const Values& b) {
  EXPECT_EQ(a.size(), b.size());
  double squares = 0, most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    squares += b[i] * b[i];
    most += (a[i] - b[i]) * (a[i] - b[i]);
  }
  return std::sqrt(most) / std::sqrt(squares);
}

// ---- recurrences ----

struct Kind {
  std::string name;
  std::vector<std::string> inputs;  // in the order of the operation
  size_t value;
  bool key_first;
};
const Kind kKinds[] = {{"wkv5", {"r", "k", "v", "w", "u"}, 2, true},
                       {"wkv6", {"r", "k", "v", "w", "u"}, 2, true},
                       {"wkv7", {"r", "w", "k", "v", "a", "b"}, 3, false}};

StateOut run_kind(const std::string& name, const std::vector<Var>& in, const Var& state,
                  const Tensor& starts) {
  if (name == "wkv7") {
    const auto out = ops::wkv7(in[0], in[1], in[2], in[3], in[4], in[5], Wkv7Decay::kSigmoid, state, starts);
    return {out.y, out.state};
  }
  const auto out = (name == "wkv5" ? ops::wkv5 : ops::wkv6)(in[0], in[1], in[2], in[3], in[4], state, starts);
  return {out.y, out.state};
}

// [H, N] of vectors that all tokens share.
bool by_token(const Kind& kind, const std::string& input) {
  return input != "u" && !(kind.name == "wkv5" && input == "w");
}

Recurrence recurrence(const Kind& kind, std::vector<Var> inputs, const Tensor& starts) {
  return {std::move(inputs), kind.value, kind.key_first,
          [name = kind.name, starts](const std::vector<Var>& in, const Var& state) {
            return run_kind(name, in, state, starts);
          }};
}

// One head as plain loops: M_t with S_t = M_t S_{t-1} + .. for states [key, value], S_{t-1} M_t + .. else.
struct Naive {
  int64_t N;
  const Kind& kind;
  std::map<std::string, Values> in;  // [T, N], or [N]
  double at(const std::string& name, int64_t t, int64_t i) const {
    return in.at(name)[static_cast<size_t>(by_token(kind, name) ? t * N + i : i)];
  }
  double step(int64_t t, int64_t i, int64_t j) const {
    if (kind.key_first) return i == j ? std::exp(-std::exp(at("w", t, i))) : 0;
    const double w = std::exp(-std::exp(-0.5) / (1 + std::exp(-at("w", t, i))));
    return (i == j ? w : 0) + at("a", t, i) * at("b", t, j);
  }
  double added(int64_t t, int64_t i, int64_t j) const {
    return kind.key_first ? at("k", t, i) * at("v", t, j) : at("v", t, i) * at("k", t, j);
  }
  // M_t s, or s M_t; of the transposed M_t.
  Values moved(const Values& s, int64_t t, bool transposed) const {
    Values out(s.size(), 0);
    for (int64_t i = 0; i < N; ++i)
      for (int64_t j = 0; j < N; ++j)
        for (int64_t m = 0; m < N; ++m) {
          const int64_t from = kind.key_first ? i : m, to = kind.key_first ? m : j;
          const double factor = transposed ? step(t, to, from) : step(t, from, to);
          out[static_cast<size_t>(i * N + j)] +=
              factor * s[static_cast<size_t>(kind.key_first ? m * N + j : i * N + m)];
        }
    return out;
  }
};

TEST(Sequence, ShardsActOnStatesAsPlainLoopsDo) {
  const int64_t B = 2, T = 37, H = 2, N = 8;
  for (const Kind& kind : kKinds)
    for (const bool documents : {false, true}) {
      SCOPED_TRACE(str(kind.name, documents ? " with documents" : ""));
      std::vector<uint8_t> starts(static_cast<size_t>(B * T), 0);
      if (documents) starts[20] = 1;  // in the first sequence alone
      const Tensor doc_start = tensor_from(std::span<const uint8_t>(starts), {B, T}, DType::kU8, cpu());
      std::map<std::string, Values> whole;
      std::vector<Var> inputs;
      for (const std::string& name : kind.inputs) {
        const Shape shape = by_token(kind, name) ? Shape{B, T, H, N} : Shape{H, N};
        inputs.push_back(tensor(whole[name] = drawn(name, shape), shape, cpu()));
      }
      const Values dy = drawn("dy", {B, T, H, N});
      const Recurrence op = recurrence(kind, inputs, doc_start);
      const Values both = to_doubles(transfer(op));
      const Values entry = to_doubles(entry_gradient(op, tensor(dy, {B, T, H, N}, cpu())));
      for (int64_t head = 0; head < B * H; ++head) {
        const int64_t b = head / H, h = head % H, size = N * N;
        Naive naive{N, kind, {}};
        const auto row = [&](const Values& of, int64_t t) { return of.begin() + ((b * T + t) * H + h) * N; };
        for (const std::string& name : kind.inputs) {
          Values& mine = naive.in[name];
          if (!by_token(kind, name)) {
            mine.assign(whole[name].begin() + h * N, whole[name].begin() + (h + 1) * N);
            continue;
          }
          for (int64_t t = 0; t < T; ++t)
            mine.insert(mine.end(), row(whole[name], t), row(whole[name], t) + N);
        }
        Values P(static_cast<size_t>(size), 0), Q = P, D = P;
        for (int64_t i = 0; i < N; ++i) P[static_cast<size_t>(i * N + i)] = 1;
        for (int64_t t = 0; t < T; ++t) {
          if (starts[static_cast<size_t>(b * T + t)]) P.assign(P.size(), 0), Q.assign(Q.size(), 0);
          P = naive.moved(P, t, false);
          Q = naive.moved(Q, t, false);
          for (int64_t i = 0; i < size; ++i) Q[static_cast<size_t>(i)] += naive.added(t, i / N, i % N);
        }
        for (int64_t t = T - 1; t >= 0; --t) {
          // y_t reads the state after its token in wkv7, before it in the others.
          if (kind.key_first) D = naive.moved(D, t, true);
          for (int64_t i = 0; i < size; ++i) {
            const int64_t key = kind.key_first ? i / N : i % N, value = kind.key_first ? i % N : i / N;
            D[static_cast<size_t>(i)] += naive.at("r", t, key) * *(row(dy, t) + value);
          }
          if (!kind.key_first) D = naive.moved(D, t, true);
          if (starts[static_cast<size_t>(b * T + t)]) D.assign(D.size(), 0);
        }
        const auto of_head = [&](const Values& all, int64_t which) {
          const auto from = all.begin() + (which * B * H + head) * size;
          return Values(from, from + size);
        };
        if (documents && b == 0) {
          EXPECT_EQ(of_head(both, 0), P);  // zero
        } else {
          EXPECT_LE(difference(of_head(both, 0), P), 1e-13);
        }
        EXPECT_LE(difference(of_head(both, 1), Q), 1e-13);
        EXPECT_LE(difference(of_head(entry, 0), D), 1e-13);
      }
    }
}

struct Sharded {
  Values y;
  std::map<std::string, Values> gradients;
};

// y and all gradients for random dy; ranks 1: the operation alone. recompute: as a recomputed segment.
Sharded run_sharded(const Kind& kind, int ranks, SeqMethod method, const std::vector<int64_t>& documents,
                    bool recompute) {
  const int64_t B = 2, T = 64, H = 2, N = 8;
  const Shape shape{B, T, H, N};
  Sharded run;
  std::mutex mutex;
  run_ranks(ranks, [&](Communicator& comm) {
    Device device(DeviceType::kCpu, 1);
    const int64_t mine = T / ranks, begin = comm.rank() * mine;
    std::vector<uint8_t> starts(static_cast<size_t>(B * T), 0);
    for (const int64_t t : documents) starts[static_cast<size_t>(t)] = 1;  // of the first sequence
    const Tensor doc_start =
        tokens(tensor_from(std::span<const uint8_t>(starts), {B, T}, DType::kU8, device), begin, mine);
    Tape tape;
    std::vector<Var> inputs;
    std::vector<Parameter> leaves(kind.inputs.size());  // of recomputed segments only these are read
    for (size_t i = 0; i < kind.inputs.size(); ++i) {
      const bool by_tokens = by_token(kind, kind.inputs[i]);
      const Shape of_all = by_tokens ? shape : Shape{H, N};
      const Tensor all = tensor(drawn(kind.inputs[i], of_all), of_all, device);
      leaves[i].master = by_tokens ? tokens(all, begin, mine) : all;
      leaves[i].grad = empty_like(leaves[i].master);
      inputs.push_back(tape.leaf(leaves[i]));
    }
    auto received = std::make_shared<Received>();
    bool again = false;
    const auto segment = [&]() -> std::vector<Var> {
      const Recurrence op = recurrence(kind, inputs, doc_start);
      if (comm.size() == 1) return {op.run(op.inputs, Var()).y};
      if (std::exchange(again, true)) received->run_again();
      return {(method == SeqMethod::kRing ? recur_ring : recur_scan)(comm, op, received.get())};
    };
    const Var y = recompute ? recomputed(&tape, segment, Keep::kNothing)[0] : segment()[0];
    const Tensor dy = tokens(tensor(drawn("dy", shape), shape, device), begin, mine);
    tape.backward(y, &dy);
    const std::lock_guard lock(mutex);
    put_tokens(to_doubles(y.value()), y.shape(), begin, T, run.y);
    for (size_t i = 0; i < leaves.size(); ++i) {
      Values& sum = run.gradients[kind.inputs[i]];
      const Values part = to_doubles(leaves[i].grad);
      if (by_token(kind, kind.inputs[i])) {
        put_tokens(part, y.shape(), begin, T, sum);
      } else {
        sum.resize(part.size());
        for (size_t e = 0; e < part.size(); ++e) sum[e] += part[e];
      }
    }
  });
  return run;
}

TEST(Sequence, RecurrencesAreThoseOfOneRank) {
  for (const Kind& kind : kKinds)
    for (const std::vector<int64_t>& documents :
         {std::vector<int64_t>{}, {32}, {31}, {33}, {5, 16, 17, 48, 63}}) {
      const Sharded one = run_sharded(kind, 1, SeqMethod::kRing, documents, false);
      for (const int ranks : {2, 4})
        for (const SeqMethod method : {SeqMethod::kRing, SeqMethod::kScan})
          for (const bool recompute : {false, true}) {
            SCOPED_TRACE(str(kind.name, ", ", ranks, " ranks, ", method == SeqMethod::kRing ? "ring" : "scan",
                             recompute ? ", recomputed" : "", ", ", documents.size(), " documents"));
            const Sharded many = run_sharded(kind, ranks, method, documents, recompute);
            if (method == SeqMethod::kRing) {
              EXPECT_EQ(many.y, one.y);  // to the bit
            }
            EXPECT_LE(difference(many.y, one.y), 1e-13);
            for (const auto& [name, gradient] : one.gradients)
              EXPECT_LE(difference(many.gradients.at(name), gradient), 1e-13) << name;
          }
    }
}

// ---- attention ----

std::map<std::string, Values> run_attention(int ranks, const std::vector<int64_t>& documents) {
  const int64_t B = 2, T = 24, Hq = 4, Hkv = 2, D = 8;
  std::map<std::string, Values> out;
  std::mutex mutex;
  run_ranks(ranks, [&](Communicator& comm) {
    Device device(DeviceType::kCpu, 1);
    const int64_t mine = T / ranks, begin = comm.rank() * mine;
    std::vector<uint8_t> starts(static_cast<size_t>(B * T), 0);
    std::vector<int32_t> before(static_cast<size_t>(B), 0);
    for (const int64_t t : documents) {
      starts[static_cast<size_t>(t)] = 1;  // of the first sequence
      if (t < begin) before[0] = static_cast<int32_t>(t);
    }
    ops::AttentionOptions options{0.4, begin, {}, {}};
    if (!documents.empty()) {
      options.doc_start =
          tokens(tensor_from(std::span<const uint8_t>(starts), {B, T}, DType::kU8, device), begin, mine);
      options.document = tensor_from(std::span<const int32_t>(before), {B}, DType::kI32, device);
    }
    Tape tape;
    std::map<std::string, Var> in;
    for (const char* name : {"q", "k", "v"}) {
      const Shape shape{B, T, *name == 'q' ? Hq : Hkv, D};
      in[name] = tape.watch(tokens(tensor(drawn(name, shape), shape, device), begin, mine));
    }
    const Var y = ranks > 1 ? ring_attention(comm, in["q"], in["k"], in["v"], options)
                            : ops::attention(in["q"], in["k"], in["v"], options);
    const Shape shape{B, T, Hq, D};
    const Tensor dy = tokens(tensor(drawn("dy", shape), shape, device), begin, mine);
    tape.backward(y, &dy);
    const std::lock_guard lock(mutex);
    put_tokens(to_doubles(y.value()), y.shape(), begin, T, out["y"]);
    for (const auto& [name, var] : in)
      put_tokens(to_doubles(tape.grad(var)), var.shape(), begin, T, out["d" + name]);
  });
  return out;
}

TEST(Sequence, RingAttentionIsThatOfOneRank) {
  for (const std::vector<int64_t>& documents :
       {std::vector<int64_t>{}, {12}, {11}, {13}, {3, 6, 17, 18, 23}}) {
    const auto one = run_attention(1, documents);
    for (const int ranks : {2, 3, 4})
      for (const auto& [name, values] : run_attention(ranks, documents))
        EXPECT_LE(difference(values, one.at(name)), 1e-13)
            << name << " on " << ranks << " ranks, " << documents.size() << " documents";
  }
}

// ---- models ----

TEST(Sequence, ModelsOnDocumentsAreThoseOfOneRank) {
  register_models();
  register_recipes();
  const test::TinyRuns runs;
  for (const auto& [arch, model] : test::tiny_models())
    for (const std::vector<int64_t>& documents : {std::vector<int64_t>{8}, {7}, {2, 9, 12}}) {
      const test::DocumentStep one = test::step_on_documents(runs, model, "{}", 1, documents, "none");
      for (const auto& [mesh, world] :
           {std::pair{"{seq: 2, zero: 0}", 2}, {"{seq: 4, seq_method: scan, zero: 0}", 4}})
        for (const char* recompute : {"none", "selective", "block"}) {
          SCOPED_TRACE(
              str(arch, " on ", mesh, ", recompute ", recompute, ", ", documents.size(), " documents"));
          const test::DocumentStep many =
              test::step_on_documents(runs, model, mesh, world, documents, recompute);
          EXPECT_NEAR(many.loss, one.loss, 1e-12 * one.loss);
          for (const auto& [name, gradient] : one.gradients) {
            if (test::zero_in_theory(name)) continue;
            double size = 0;
            for (const double g : gradient) size = std::max(size, std::abs(g));
            if (size > 1e-14) {
              EXPECT_LE(difference(many.gradients.at(name), gradient), 1e-10) << name;
            }
          }
        }
    }
}

TEST(Sequence, WhatRanksShareMustDivide) {
  register_models();
  register_recipes();
  const test::TinyRuns runs;
  config::RunConfig config =
      test::mesh_config(runs, test::tiny_models().at("rwkv7"), "fp32", "{data: 1, seq: 3}");
  const auto refusal = [&] {
    try {
      config.validate(3);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(
      refusal().find("seq 3 does not divide data.seq_len 16 = 5 x 3 + 1; use seq_len 15 or 18, or another "
                     "degree"),
      std::string::npos)
      << refusal();
  config.data.seq_len = 18;
  EXPECT_EQ(refusal(), "");
}

}  // namespace
}  // namespace rookery
