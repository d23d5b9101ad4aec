// tensor_file.h: weights of other programs as named tensors, whatever file holds them: .pth (torch_file.h),
// safetensors (safetensors.h), Hugging Face folders (hf_folder.h). What the tensors are called in our models:
// layout.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rookery::foreign {

namespace fs = std::filesystem;

// Elements as they stand in the file, little-endian.
enum class Type : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
  kI16,
  kU16,
  kF16,
  kBf16,
  kI32,
  kU32,
  kF32,
  kI64,
  kU64,
  kF64,
  kC64
};
size_t size_of(Type type);         // bytes
std::string to_string(Type type);  // as in safetensors: "BF16"
std::optional<Type> type_named(std::string_view name);

using Dims = std::vector<uint64_t>;
std::string to_string(const Dims& shape);             // "[2, 3]"
std::optional<uint64_t> numel_of(const Dims& shape);  // nothing where the product overflows

struct TensorInfo {
  std::string name;
  Type type = Type::kF32;
  Dims shape;
  uint64_t bytes() const { return *numel_of(shape) * size_of(type); }  // checked when the file was opened
};

// A file open for reading. Nothing of the content is held in memory: each read goes to the file. Every size
// and offset was checked when it was opened, so a read fails only where the disk does, or where the file
// changed meanwhile.
class TensorFile {
 public:
  virtual ~TensorFile() = default;
  const fs::path& path() const { return path_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  // What a user should hear: entries that were passed over, a misleading file name.
  const std::vector<std::string>& notes() const { return notes_; }
  // Bytes [offset, offset + out.size()) of the row-major content of tensor i.
  virtual void read(size_t i, uint64_t offset, std::span<std::byte> out) const = 0;
  // Compares with the checksums that the file carries, if it carries any; throws kData where they differ.
  virtual void verify() const {}

 protected:
  explicit TensorFile(fs::path path) : path_(std::move(path)) {}
  fs::path path_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::string> notes_;
};

// By its first bytes, not its name. Errors: WTS-01 for what is no file of weights (an HTML page, a Git LFS
// pointer, a pickle of before PyTorch 1.6, ...), with what it is; kNoInput where there is no such file.
std::unique_ptr<TensorFile> open_tensor_file(const fs::path& path);

// A file being written, tensor by tensor. What is not finished is the caller's to remove.
class TensorWriter {
 public:
  virtual ~TensorWriter() = default;
  // All tensors, in the order in which write() wants them.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  virtual void write(std::span<const std::byte> content) = 0;  // the whole of the next tensor
  virtual void finish() = 0;                                   // closes the file, fsynced

 protected:
  std::vector<TensorInfo> tensors_;
};

// Every write of these files passes the fault points of this prefix.
inline constexpr std::string_view kWritePoint = "weights.file";

}  // namespace rookery::foreign
