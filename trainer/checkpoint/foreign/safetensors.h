// safetensors.h: reading and writing of .safetensors (formats.md 5).
#pragma once

#include <map>

#include "kernels/base/io.h"
#include "trainer/checkpoint/foreign/tensor_file.h"

namespace rookery::foreign {

using Metadata = std::map<std::string, std::string>;

class SafetensorsFile : public TensorFile {
 public:
  // Errors: WTS-05, one message for each rule that a header can break; WTS-06 for what is not JSON.
  explicit SafetensorsFile(io::InputFile file);
  const Metadata& metadata() const { return metadata_; }
  void read(size_t i, uint64_t offset, std::span<std::byte> out) const override;

 private:
  io::InputFile file_;
  Metadata metadata_;
  std::vector<uint64_t> begins_;  // in the file
};

std::unique_ptr<TensorFile> open_safetensors(io::InputFile file);

// `metadata` gets "format": "pt", which the transformers library asks for.
std::unique_ptr<TensorWriter> write_safetensors(const fs::path& path, std::vector<TensorInfo> tensors,
                                                Metadata metadata);

}  // namespace rookery::foreign
