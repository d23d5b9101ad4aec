// module.h: how a model declares its parameters. A member is a reference to a Parameter that the model's list
// owns; its name joins the scopes with '.', as in published checkpoints.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "kernels/autograd/autograd.h"
#include "trainer/nn/init.h"

namespace rookery::nn {

// All parameters of a model in the order of their declaration. Addresses stay.
class ParameterList {
 public:
  Parameter& add(std::string name, Shape shape, Init init);
  std::vector<Parameter*> all();
  Parameter* find(const std::string& name);  // null if there is none
  // Writes the initial values into the masters (their memory comes from a ParamStore).
  void initialize(uint64_t seed);

 private:
  std::deque<Parameter> parameters_;
  std::deque<Init> inits_;
};

// A place in the tree of names.
class Scope {
 public:
  explicit Scope(ParameterList& list, std::string prefix = "") : list_(&list), prefix_(std::move(prefix)) {}
  Scope child(const std::string& name) const { return Scope(*list_, prefix_ + name + "."); }
  Parameter& param(const std::string& name, Shape shape, Init init) const {
    return list_->add(prefix_ + name, shape, std::move(init));
  }
  const std::string& prefix() const { return prefix_; }

 private:
  ParameterList* list_;
  std::string prefix_;
};

}  // namespace rookery::nn
