// tape.cpp: recording and the reverse walk (kernels/autograd/autograd.h).
#include "kernels/autograd/autograd.h"

#include <algorithm>

namespace rookery {
namespace {

// "[8, 512, 512] [512]".
void append_shape(std::string& text, const Shape& shape) { text += str(text.empty() ? "" : " ", shape); }

// For a profile: the shapes of the inputs, then those of the outputs.
std::string forward_shapes(std::initializer_list<Var> inputs, std::span<const Tensor> outputs) {
  std::string from, to;
  for (const Var& in : inputs)
    if (in.defined()) append_shape(from, in.shape());
  for (const Tensor& out : outputs)
    if (out.defined()) append_shape(to, out.shape());
  return str(from, " -> ", to);
}

}  // namespace

int32_t Tape::add_slot(const Tensor& value) {
  Slot slot;
  slot.shape = value.shape();
  slot.dtype = value.dtype();
  slot.device = &value.device();
  slots_.push_back(std::move(slot));
  return static_cast<int32_t>(slots_.size()) - 1;
}

Shape Parameter::local() const {
  std::vector<int64_t> dims(global.begin(), global.end());
  if (spec.split_dim >= 0) dims[static_cast<size_t>(spec.split_dim)] /= spec.parts;
  return Shape(std::span<const int64_t>(dims));
}

Var Tape::leaf(Parameter& parameter) {
  if (!parameter.trainable) return Var(parameter.value());
  auto [it, inserted] = leaves_.try_emplace(&parameter, -1);
  if (inserted) {
    it->second = add_slot(parameter.value());
    slots_[it->second].leaf = &parameter;
  }
  return Var(parameter.value(), this, it->second);
}

Var Tape::watch(const Tensor& value) { return Var(value, this, add_slot(value)); }

std::vector<Var> record(std::string_view name, std::initializer_list<Var> inputs,
                        std::span<const Tensor> outputs, Backward body) {
  const auto made = std::find_if(outputs.begin(), outputs.end(), [](const Tensor& t) { return t.defined(); });
  if (made != outputs.end() && made->device().profile)
    made->device().profile->forward(name, forward_shapes(inputs, outputs));
  Tape* tape = nullptr;
  for (const Var& in : inputs) {
    if (!in.tracked()) continue;
    RK_CHECK(tape == nullptr || tape == in.tape(), "[", name, "] inputs of two tapes");
    tape = in.tape();
  }
  std::vector<Var> vars;
  if (tape == nullptr) {
    vars.assign(outputs.begin(), outputs.end());
    return vars;
  }
  if (tape->segment_ && tape->segment_->first_run) {
    std::vector<int32_t>& leaves = tape->segment_->leaves;
    for (const Var& in : inputs)
      if (in.slot_ >= 0 && tape->slots_[in.slot_].leaf &&
          std::find(leaves.begin(), leaves.end(), in.slot_) == leaves.end())
        leaves.push_back(in.slot_);
    tape->segment_->note(inputs, outputs, body);
    for (const Tensor& out : outputs) vars.push_back(Var(out, tape, -1));
    return vars;
  }
  Tape::Node node;
  node.name = name;
  for (const Var& in : inputs) {
    RK_CHECK(!in.tracked() || in.slot_ >= 0, "[", name,
             "] reads what a recomputed segment made and did not return");
    node.inputs.push_back(in.slot_);
    if (in.slot_ >= 0 && tape->slots_[in.slot_].leaf) ++tape->slots_[in.slot_].uses;
  }
  node.body = std::move(body);
  node.num_outputs = static_cast<int32_t>(outputs.size());
  for (const Tensor& out : outputs) {
    const int32_t slot = tape->add_slot(out);
    if (vars.empty()) node.first_output = slot;
    vars.push_back(Var(out, tape, slot));
  }
  tape->nodes_.push_back(std::move(node));
  return vars;
}

Var record(std::string_view name, std::initializer_list<Var> inputs, const Tensor& output,
           std::function<void(const Tensor&, Grads&)> body) {
  return record(name, inputs, std::span<const Tensor>(&output, 1),
                [body = std::move(body)](std::span<const Tensor> grads_out, Grads& grads) {
                  body(grads_out[0], grads);
                })[0];
}

std::vector<Var> recomputed(Tape* tape, std::function<std::vector<Var>()> segment, Keep keep) {
  return tape ? tape->add_segment(std::move(segment), keep) : segment();
}

std::vector<Var> Tape::run(Segment& segment) {
  RK_CHECK(segment_ == nullptr, "[recomputed] a segment within another");
  struct Ended {
    Segment*& running;
    ~Ended() { running = nullptr; }
  } ended{segment_ = &segment};
  return segment.body();
}

std::vector<Var> Tape::add_segment(std::function<std::vector<Var>()> body, Keep keep) {
  const auto segment = std::make_shared<Segment>(Segment{std::move(body), keep});
  std::vector<Var> results = run(*segment);
  segment->end_first_run();
  Node node;
  node.name = "recompute";
  node.first_output = static_cast<int32_t>(slots_.size());
  for (Var& result : results) {
    if (!result.tracked() || result.slot_ >= 0) continue;  // a constant, or from outside
    result.slot_ = add_slot(result.value_);
    ++node.num_outputs;
  }
  if (node.num_outputs == 0) return results;
  node.inputs = segment->leaves;
  for (const int32_t leaf : node.inputs) ++slots_[leaf].uses;
  node.body = [this, segment](std::span<const Tensor> grad_outputs, Grads&) {
    unfold(*segment, grad_outputs);
  };
  nodes_.push_back(std::move(node));
  return results;
}

// In the place of a segment's node come the nodes of its ops: the walk goes on with the last of them, and
// gradients meet in the order of a plain call.
void Tape::unfold(Segment& segment, std::span<const Tensor> grad_outputs) {
  const auto first_slot = static_cast<int32_t>(slots_.size());
  size_t made = 0;
  for (const Var& result : run(segment)) {
    if (result.slot_ < first_slot) continue;
    RK_CHECK(made < grad_outputs.size(), "[recomputed] the second run of a segment returns more");
    const Tensor& grad = grad_outputs[made++];
    if (grad.defined()) add_gradient(result.slot_, grad);
  }
  RK_CHECK(made == grad_outputs.size() && segment.next_dear == segment.dear.size(),
           "[recomputed] the second run of a segment is another than the first");
}

std::vector<Tensor> dear(std::initializer_list<Var> inputs,
                         const std::function<std::vector<Tensor>()>& compute) {
  const auto tracked = std::find_if(inputs.begin(), inputs.end(), [](const Var& in) { return in.tracked(); });
  Tape::Segment* segment = tracked == inputs.end() ? nullptr : tracked->tape()->segment_;
  if (segment == nullptr || segment->keep != Keep::kDear) return compute();
  if (!segment->first_run) return segment->next();
  std::vector<Tensor> tensors = compute();
  std::vector<Tape::Kept>& kept = segment->dear.emplace_back();
  for (const Tensor& t : tensors)
    kept.push_back(t.defined() ? Tape::Kept{t, t.shape(), t.dtype(), &t.device()} : Tape::Kept{});
  return tensors;
}

// Of an op in the first run: which dear tensors its second run will read or hand to its backward body.
void Tape::Segment::note(std::initializer_list<Var> inputs, std::span<const Tensor> outputs,
                         Backward& saved) {
  std::vector<std::pair<Kept*, int64_t>> holders;
  bool runs_again = true;  // unless its outputs are dear themselves, or views of such
  for (std::vector<Kept>& of_op : dear)
    for (Kept& kept : of_op) {
      if (kept.device == nullptr) continue;
      holders.emplace_back(&kept, kept.tensor.holders());
      for (const Tensor& out : outputs) runs_again = runs_again && !out.shares(kept.tensor);
    }
  saved = nullptr;
  for (auto& [kept, before] : holders) {
    kept->needed = kept->needed || kept->tensor.holders() < before;
    for (const Var& in : inputs)
      kept->needed = kept->needed || (runs_again && in.value().shares(kept->tensor));
  }
}

void Tape::Segment::end_first_run() {
  first_run = false;
  for (std::vector<Kept>& of_op : dear)
    for (Kept& kept : of_op)
      if (!kept.needed) kept.tensor = Tensor();
}

// In the second run. What nobody needs is memory without values.
std::vector<Tensor> Tape::Segment::next() {
  RK_CHECK(next_dear < dear.size(), "[recomputed] the second run of a segment has more ops than the first");
  std::vector<Tensor> tensors;
  for (Kept& kept : dear[next_dear++]) {
    const bool hollow = kept.device != nullptr && !kept.needed;
    tensors.push_back(hollow ? empty(kept.shape, kept.dtype, *kept.device) : std::move(kept.tensor));
  }
  return tensors;
}

Var Var::reshape(const Shape& new_shape) const {
  return record("reshape", {*this}, value_.reshape(new_shape),
                [old = value_.shape()](const Tensor& dy, Grads& grads) { grads.give(0, dy.reshape(old)); });
}

bool Grads::wants(int input) const { return inputs_[input] >= 0; }

bool Grads::repeated(int input) const {
  const auto before = inputs_.first(static_cast<size_t>(input));
  return std::find(before.begin(), before.end(), inputs_[input]) != before.end();
}

void Grads::give(int input, const Tensor& grad) {
  if (!wants(input)) return;
  if (repeated(input)) {
    held_back_.emplace_back(inputs_[input], grad);
  } else {
    tape_.add_gradient(inputs_[input], grad);
  }
}

void Grads::settle() {
  for (const auto& [slot, grad] : held_back_) tape_.add_gradient(slot, grad);
  held_back_.clear();
}

void Tape::add_gradient(int32_t index, const Tensor& grad) {
  Slot& slot = slots_[index];
  check_shape(grad, slot.shape, "[backward] gradient");
  if (slot.leaf) {
    Parameter& p = *slot.leaf;
    if (p.grad_written) {
      add_to(grad, p.grad);
    } else {
      copy(grad, p.grad);
      p.grad_written = true;
    }
  } else if (!slot.grad.defined()) {
    slot.grad = grad;
  } else if (slot.grad.unique()) {
    add_to(grad, slot.grad);
  } else {  // shared with another gradient: the sum gets memory of its own
    slot.grad = sum_of(slot.grad, grad);
  }
}

GradTarget Grads::into(int input) {
  RK_CHECK(wants(input), "[backward] nobody wants the gradient of input ", input);
  Tape::Slot& slot = tape_.slots_[inputs_[input]];
  if (repeated(input)) {
    const DType dtype = slot.leaf ? slot.leaf->grad.dtype() : slot.dtype;
    held_back_.emplace_back(inputs_[input], empty(slot.shape, dtype, *slot.device));
    return {held_back_.back().second, false};
  }
  if (slot.leaf) {
    Parameter& p = *slot.leaf;
    return {p.grad, std::exchange(p.grad_written, true)};
  }
  if (!slot.grad.defined()) {
    slot.grad = empty(slot.shape, slot.dtype, *slot.device);
    return {slot.grad, false};
  }
  if (!slot.grad.unique()) {
    Tensor own = empty_like(slot.grad);
    copy(slot.grad, own);
    slot.grad = own;
  }
  return {slot.grad, true};
}

void Tape::backward(const Var& loss, const Tensor* seed) {
  Tensor one;
  if (seed == nullptr) {
    RK_CHECK(loss.value().numel() == 1, "[backward] the loss must be a scalar, is ", loss.shape());
    const double value = 1.0;
    one = tensor_from(std::span<const double>(&value, 1), loss.shape(), loss.value().dtype(),
                      loss.value().device());
    seed = &one;
  }
  const std::pair<Var, Tensor> pair{loss, *seed};
  backward(std::span<const std::pair<Var, Tensor>>(&pair, 1));
}

void Tape::backward(std::span<const std::pair<Var, Tensor>> seeds) {
  for (const auto& [var, grad] : seeds) {
    RK_CHECK(var.tape() == this && var.slot_ >= 0, "[backward] the loss is not on this tape");
    add_gradient(var.slot_, grad);
  }
  run_backward();
}

// For a profile: of the gradients that come, then of those that go.
std::string Tape::shapes_of(const Node& node) const {
  std::string from, to;
  for (int32_t i = 0; i < node.num_outputs; ++i)
    append_shape(from, slots_[static_cast<size_t>(node.first_output + i)].shape);
  for (const int32_t input : node.inputs)
    if (input >= 0) append_shape(to, slots_[static_cast<size_t>(input)].shape);
  return str(from, " -> ", to);
}

void Tape::run_backward() {
  std::vector<Tensor> grads_out;
  while (!nodes_.empty()) {  // a body may add nodes: those of its segment
    Node node = std::move(nodes_.back());
    nodes_.pop_back();
    grads_out.clear();
    bool any = false;
    for (int32_t i = 0; i < node.num_outputs; ++i) {
      Slot& slot = slots_[node.first_output + i];
      grads_out.push_back(std::exchange(slot.grad, Tensor()));
      any = any || grads_out.back().defined();
    }
    if (any) {
      const Device& device = *slots_[node.first_output].device;
      const Range range(device, node.name, Profile::Kind::kBackward);
      if (device.profile) device.profile->describe(shapes_of(node));
      Grads grads(*this, node.inputs);
      node.body(grads_out, grads);
      grads.settle();
    }
    node.body = nullptr;  // frees what the op had saved
    for (const int32_t input : node.inputs) {
      if (input < 0 || !slots_[input].leaf) continue;
      if (--slots_[input].uses == 0 && leaf_ready_) leaf_ready_(*slots_[input].leaf);
    }
  }
}

Tensor Tape::grad(const Var& watched) const {
  RK_CHECK(watched.tape() == this && watched.slot_ >= 0, "[grad] not on this tape");
  return slots_[watched.slot_].grad;
}

}  // namespace rookery
