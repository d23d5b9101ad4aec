// autograd.h: an explicit tape over fused operations. An op computes its outputs, then calls record() with a
// body that, given the gradients of the outputs, hands gradients to the inputs. No second derivatives:
// backward bodies work on plain tensors.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/tensor/tensor.h"

namespace rookery {

class Grads;
class Tape;
class Var;

// One gradient per output; undefined where nothing downstream used it.
using Backward = std::function<void(std::span<const Tensor> grad_outputs, Grads& grads)>;

// Used by ops only. If no input is tracked the outputs are constants and `body` is dropped.
std::vector<Var> record(std::string_view name, std::initializer_list<Var> inputs,
                        std::span<const Tensor> outputs, Backward body);
Var record(std::string_view name, std::initializer_list<Var> inputs, const Tensor& output,
           std::function<void(const Tensor& grad_output, Grads& grads)> body);

// What a recomputed segment holds for its second run, besides what it reads from outside.
enum class Keep : uint8_t {
  kNothing,  // everything is computed again
  kDear,     // what its ops computed by dear() is not, where it is needed
};

// Calls `segment`, of which the tape holds nothing that its ops save, and calls it again when backward comes
// to it: memory for time. Values, gradients and the order in which leaves become ready are those of a plain
// call, to the bit. `segment` holds the Vars that it reads and returns those that others will read; its
// second call must find what the first found. Without a tape, a plain call. One within another is refused.
std::vector<Var> recomputed(Tape* tape, std::function<std::vector<Var>()> segment, Keep keep);

// Used by ops of `inputs` whose outputs cost more to compute again than to keep (matrix products,
// recurrences, attention), or are all that is needed of such inputs (sums): what `compute` returns, or did in
// the first run of a segment.
std::vector<Tensor> dear(std::initializer_list<Var> inputs,
                         const std::function<std::vector<Tensor>()>& compute);

// How the global tensor is cut over ranks: plain data, parallel/ gives it meaning.
struct ShardSpec {
  int split_dim = -1;           // -1: every rank has the whole
  int64_t part = 0, parts = 1;  // this rank's of so many equal parts
};

// A named leaf. Its tensors lie in the flat buckets of a ParamStore (parallel/shard).
struct Parameter {
  std::string name;  // as in published checkpoints: "blocks.0.att.key.weight"
  Shape global;      // shape of the whole tensor
  ShardSpec spec;
  Shape local() const;  // of this rank's part: the shape of the tensors below
  int64_t unit = 0;     // the part of the model that reads it, in the order of a forward pass
  bool tied = false;    // the last unit reads it too: an embedding that is the head
  Tensor master, grad;  // grad: f32 where operations get bf16
  Tensor compute;       // the bf16 copy of master that operations get; undefined: they get master
  bool trainable = true;
  bool grad_written = false;  // false: the next gradient overwrites; true: it adds
  const Tensor& value() const { return compute.defined() ? compute : master; }
};

// A value plus its place on a tape; without a tape it is a constant.
class Var {
 public:
  Var() = default;
  Var(Tensor value) : value_(std::move(value)) {}  // NOLINT: a tensor is a constant Var
  const Tensor& value() const { return value_; }
  const Shape& shape() const { return value_.shape(); }
  bool defined() const { return value_.defined(); }
  bool tracked() const { return tape_ != nullptr; }
  Tape* tape() const { return tape_; }

  Var reshape(const Shape& shape) const;  // a view; the gradient is viewed back

 private:
  friend class Tape;
  friend std::vector<Var> record(std::string_view, std::initializer_list<Var>, std::span<const Tensor>,
                                 Backward);
  Var(Tensor value, Tape* tape, int32_t slot) : value_(std::move(value)), tape_(tape), slot_(slot) {}
  Tensor value_;
  Tape* tape_ = nullptr;
  int32_t slot_ = -1;  // beside a tape: made in the first run of a recomputed segment
};

// Where a backward body writes the gradient of one input: overwrite `tensor`, or add to it. Its dtype is the
// input's; of a bf16 parameter it is f32.
struct GradTarget {
  Tensor tensor;
  bool accumulate = false;
};

// Given to a backward body: the way to the gradients of the op's inputs (by position).
class Grads {
 public:
  bool wants(int input) const;
  // Takes `grad` as this input's gradient, or adds it to what is there. `grad` may be shared with others: it
  // is never written to while so.
  void give(int input, const Tensor& grad);
  // Memory to write to directly; the body must fill it, or add to it where `accumulate` says so. `shape` is
  // the input's.
  GradTarget into(int input);

 private:
  friend class Tape;
  Grads(Tape& tape, std::span<const int32_t> inputs) : tape_(tape), inputs_(inputs) {}
  bool repeated(int input) const;  // an earlier input of the op is the same Var
  void settle();                   // after the body: adds what was held back
  Tape& tape_;
  std::span<const int32_t> inputs_;
  // The body may fill the memory of its inputs in any order, so a second gradient of one Var waits here.
  std::vector<std::pair<int32_t, Tensor>> held_back_;
};

class Tape {
 public:
  Tape() = default;
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Var leaf(Parameter& parameter);  // tracked if trainable; counted, so that "ready" is exact
  Var watch(const Tensor& value);  // an input whose gradient is wanted; read it with grad()
  // Walks the nodes in reverse. `loss` is a scalar unless a seed (its gradient) is given. Frees what each
  // node saved as it goes.
  void backward(const Var& loss, const Tensor* seed = nullptr);
  // The same from several outputs at once, each with its gradient.
  void backward(std::span<const std::pair<Var, Tensor>> seeds);
  Tensor grad(const Var& watched) const;  // after backward; undefined if the loss does not depend on it
  // Called after the last use of a leaf has given its gradient.
  void on_leaf_ready(std::function<void(Parameter&)> hook) { leaf_ready_ = std::move(hook); }

 private:
  friend class Grads;
  friend std::vector<Var> record(std::string_view, std::initializer_list<Var>, std::span<const Tensor>,
                                 Backward);
  friend std::vector<Var> recomputed(Tape*, std::function<std::vector<Var>()>, Keep);
  friend std::vector<Tensor> dear(std::initializer_list<Var>, const std::function<std::vector<Tensor>()>&);
  struct Slot {
    Shape shape;
    DType dtype;
    Device* device = nullptr;
    Tensor grad;
    Parameter* leaf = nullptr;
    int32_t uses = 0;  // of a leaf, still to come in backward
  };
  struct Node {
    std::string_view name;
    std::vector<int32_t> inputs;  // slots; -1 for constants
    int32_t first_output = 0, num_outputs = 0;
    Backward body;
  };
  // Of recomputed(). In its first run ops record nothing, in its second they record themselves.
  struct Kept {
    Tensor tensor;
    Shape shape;
    DType dtype = DType::kF32;
    Device* device = nullptr;  // null: the op has no such output
    bool needed = false;       // saved by an op, or read by one that runs again
  };
  struct Segment {
    std::function<std::vector<Var>()> body;
    Keep keep;
    bool first_run = true;
    std::vector<int32_t> leaves = {};          // slots of those that it uses
    std::vector<std::vector<Kept>> dear = {};  // in the order of the calls
    size_t next_dear = 0;

    void note(std::initializer_list<Var> inputs, std::span<const Tensor> outputs, Backward& body);
    std::vector<Tensor> next();
    void end_first_run();
  };
  std::vector<Var> run(Segment& segment);
  std::vector<Var> add_segment(std::function<std::vector<Var>()> body, Keep keep);
  void unfold(Segment& segment, std::span<const Tensor> grad_outputs);
  int32_t add_slot(const Tensor& value);
  void add_gradient(int32_t slot, const Tensor& grad);
  void run_backward();
  std::string shapes_of(const Node& node) const;

  std::vector<Slot> slots_;
  std::vector<Node> nodes_;
  std::unordered_map<Parameter*, int32_t> leaves_;
  std::function<void(Parameter&)> leaf_ready_;
  Segment* segment_ = nullptr;  // the one that runs
};

}  // namespace rookery
