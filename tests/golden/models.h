// models.h: the models that golden files name ("rwkv6") from the configuration that they hold
// (golden/README.md, "The file is the contract").
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <stdexcept>
#include <string>

#include "trainer/models/model.h"

namespace rookery::test {

// A kind of file or a model that does not exist yet: its files are skipped by name.
class Pending : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws Pending. `config`: n_layer, n_embd, head_size, vocab_size and the model's own keys.
std::unique_ptr<Model> build(const std::string& name, const nlohmann::json& config);

}  // namespace rookery::test
