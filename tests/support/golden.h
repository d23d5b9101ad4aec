// golden.h: reads the golden files (safetensors of F64, F32, BF16, I32) and compares tensors with them. A
// file is its own contract: what to check is taken from its metadata and tensors.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace rookery::test {

struct GoldenTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<double> values;
};

struct GoldenFile {
  std::filesystem::path path;
  std::map<std::string, std::string> meta;
  std::map<std::string, GoldenTensor> tensors;

  static GoldenFile read(const std::filesystem::path& path);
  bool has(const std::string& name) const { return tensors.count(name) > 0; }
  const GoldenTensor& operator[](const std::string& name) const;  // throws naming file and tensor
  std::vector<int32_t> ints(const std::string& name) const;
  double number(const std::string& key, double otherwise) const;
};

// ROOKERY_GOLDEN, else ROOKERY_SHARED/golden, else ../shared/golden, else the compact copy in
// tests/golden/data.
std::filesystem::path golden_folder();

// |got - expected|_2 / |expected|_2; where the expected tensor is zero: |got|_2.
double rel_l2(const std::vector<double>& got, const std::vector<double>& expected);

// What golden/README.md records of a reference run of the file in this precision; where it has no such row,
// the largest figures of its kind.
struct Measured {
  double logits, loss, grad_worst;
};
Measured measured_fp32(const std::filesystem::path& file);
Measured measured_bf16(const std::filesystem::path& file);

}  // namespace rookery::test
