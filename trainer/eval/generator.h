// generator.h: text from a model, token by token. All it keeps is what the layers leave in their SeqContext:
// a recurrent state of constant size, and of attention the keys and values of every token.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "trainer/eval/sampling.h"
#include "trainer/models/model.h"

namespace rookery::eval {

class Generator {
 public:
  Generator(Model& model, Device& device);

  // Reads tokens; afterwards logits() are those of the next one.
  void feed(std::span<const int32_t> tokens);
  const std::vector<double>& logits() const { return logits_; }
  size_t state_bytes() const { return seq_.bytes(); }  // what is kept between two tokens

  // The state between two tokens, as an HDF5 file. `identity` (of the weights) must be the same on load:
  // kData GEN-05 otherwise.
  void save_state(const std::filesystem::path& path, const std::string& identity) const;
  void load_state(const std::filesystem::path& path, const std::string& identity);

 private:
  Model& model_;
  Device& device_;
  nn::SeqContext seq_;
  std::vector<double> logits_;
};

}  // namespace rookery::eval
