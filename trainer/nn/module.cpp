#include "trainer/nn/module.h"

namespace rookery::nn {
namespace {

// What this rank has of the values of the whole tensor.
std::vector<float> part_of(const std::vector<float>& whole, const Parameter& p) {
  if (p.spec.split_dim < 0) return whole;
  int64_t outer = 1, inner = 1;
  for (int d = 0; d < p.global.size(); ++d) (d < p.spec.split_dim ? outer : inner) *= p.global[d];
  const int64_t length = inner / p.spec.parts;
  std::vector<float> mine;
  for (int64_t o = 0; o < outer; ++o) {
    const auto begin = whole.begin() + o * inner + p.spec.part * length;
    mine.insert(mine.end(), begin, begin + length);
  }
  return mine;
}

}  // namespace

Parameter& ParameterList::add(std::string name, Shape shape, Init init, int split_dim, int64_t unit) {
  RK_CHECK(find(name) == nullptr, "[ParameterList] two parameters named ", name);
  RK_CHECK(split_dim < 0 || shape[split_dim] % part_.count == 0, "[ParameterList] ", name, " ", shape,
           " does not divide into ", part_.count, " along ", split_dim);
  Parameter& p = parameters_.emplace_back();
  p.name = std::move(name);
  p.global = shape;
  p.unit = unit;
  if (part_.count > 1 && split_dim >= 0) p.spec = {split_dim, part_.index, part_.count};
  inits_.push_back(std::move(init));
  return p;
}

std::vector<Parameter*> ParameterList::all() {
  std::vector<Parameter*> out;
  for (Parameter& p : parameters_) out.push_back(&p);
  return out;
}

Parameter* ParameterList::find(const std::string& name) {
  for (Parameter& p : parameters_)
    if (p.name == name) return &p;
  return nullptr;
}

void ParameterList::initialize(uint64_t seed, const Put& put) {
  std::vector<float> buffer;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& p = parameters_[i];
    if (!p.value().defined()) continue;
    buffer.resize(static_cast<size_t>(p.global.numel()));
    inits_[i](buffer, p.global, Philox(seed, stream_of(p.name)));
    const std::vector<float> mine = part_of(buffer, p);
    const DType dtype = p.master.defined() ? p.master.dtype() : p.value().dtype();
    const Tensor values = tensor_from(std::span<const float>(mine), p.local(), dtype, p.value().device());
    if (put) {
      put(p, values);
    } else {
      copy(values, p.master);
    }
  }
}

}  // namespace rookery::nn
