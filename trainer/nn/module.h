// module.h: how a model declares its parameters. A member is a reference to a Parameter that the model's list
// owns; its name joins the scopes with '.', as in published checkpoints.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "kernels/autograd/autograd.h"
#include "trainer/nn/init.h"

namespace rookery::nn {

// Which of so many equal parts this rank has of each tensor that the ranks of the tensor axis cut.
struct Part {
  int64_t index = 0, count = 1;
};

// All parameters of a model in the order of their declaration. Addresses stay.
class ParameterList {
 public:
  explicit ParameterList(Part part = {}) : part_(part) {}
  // shape: of the whole tensor. split_dim: where it is cut; -1: nowhere.
  Parameter& add(std::string name, Shape shape, Init init, int split_dim = -1, int64_t unit = 0);
  std::vector<Parameter*> all();
  Parameter* find(const std::string& name);  // null if there is none
  // Gives each parameter that has memory (from a ParamStore; those that have none are another rank's) its
  // initial values, those of the whole model cut: to `put`, or into its master.
  using Put = std::function<void(const Parameter&, const Tensor& values)>;
  void initialize(uint64_t seed, const Put& put = {});

 private:
  Part part_;
  std::deque<Parameter> parameters_;
  std::deque<Init> inits_;
};

// A place in the tree of names, and the unit of the model (Parameter::unit) that what is declared there
// belongs to: 0 the embedding, i + 1 block i, then one of the last norm and the head.
class Scope {
 public:
  explicit Scope(ParameterList& list, std::string prefix = "", int64_t unit = 0)
      : list_(&list), prefix_(std::move(prefix)), unit_(unit) {}
  Scope child(const std::string& name) const { return Scope(*list_, prefix_ + name + ".", unit_); }
  Scope of_unit(int64_t unit) const { return Scope(*list_, prefix_, unit); }
  // shape: of the whole tensor; split_dim: where the ranks of the tensor axis cut it, -1: nowhere.
  Parameter& param(const std::string& name, Shape shape, Init init, int split_dim = -1) const {
    return list_->add(prefix_ + name, shape, std::move(init), split_dim, unit_);
  }
  const std::string& prefix() const { return prefix_; }

 private:
  ParameterList* list_;
  std::string prefix_;
  int64_t unit_;
};

}  // namespace rookery::nn
