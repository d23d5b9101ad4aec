#include "trainer/nn/module.h"

namespace rookery::nn {

Parameter& ParameterList::add(std::string name, Shape shape, Init init) {
  RK_CHECK(find(name) == nullptr, "[ParameterList] two parameters named ", name);
  Parameter& p = parameters_.emplace_back();
  p.name = std::move(name);
  p.global = shape;
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

void ParameterList::initialize(uint64_t seed) {
  std::vector<float> buffer;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& p = parameters_[i];
    buffer.resize(static_cast<size_t>(p.global.numel()));
    inits_[i](buffer, p.global, Philox(seed, stream_of(p.name)));
    copy(tensor_from(std::span<const float>(buffer), p.global, p.master.dtype(), p.master.device()),
         p.master);
  }
}

}  // namespace rookery::nn
