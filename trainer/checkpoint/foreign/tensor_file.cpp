#include "trainer/checkpoint/foreign/tensor_file.h"

#include <array>

#include "kernels/base/error.h"
#include "kernels/base/io.h"
#include "trainer/checkpoint/foreign/safetensors.h"
#include "trainer/checkpoint/foreign/torch_file.h"

namespace rookery::foreign {
namespace {

struct TypeRow {
  std::string_view name;
  size_t size;
};
// In the order of Type.
constexpr std::array kTypes = {
    TypeRow{"BOOL", 1},    TypeRow{"U8", 1},  TypeRow{"I8", 1},  TypeRow{"F8_E4M3", 1}, TypeRow{"F8_E5M2", 1},
    TypeRow{"F8_E8M0", 1}, TypeRow{"I16", 2}, TypeRow{"U16", 2}, TypeRow{"F16", 2},     TypeRow{"BF16", 2},
    TypeRow{"I32", 4},     TypeRow{"U32", 4}, TypeRow{"F32", 4}, TypeRow{"I64", 8},     TypeRow{"U64", 8},
    TypeRow{"F64", 8},     TypeRow{"C64", 8}};

// The beginning of a pickle of before PyTorch 1.6: protocol 2 and its magic number.
constexpr std::string_view kLegacyMagic("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 14);

[[noreturn]] void not_weights(const fs::path& path, std::string_view what, std::string_view mend) {
  fail(ExitCode::kData, "WTS-01", path, ": ", what, ", expected a .pth or safetensors file; mend it by ",
       mend);
}

}  // namespace

size_t size_of(Type type) { return kTypes[size_t(type)].size; }
std::string to_string(Type type) { return std::string(kTypes[size_t(type)].name); }
std::optional<Type> type_named(std::string_view name) {
  for (size_t i = 0; i < kTypes.size(); ++i)
    if (kTypes[i].name == name) return Type(i);
  return std::nullopt;
}

std::string to_string(const Dims& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += str(i ? ", " : "", shape[i]);
  return text + "]";
}

std::optional<uint64_t> numel_of(const Dims& shape) {
  uint64_t n = 1;
  for (const uint64_t d : shape)
    if (__builtin_mul_overflow(n, d, &n)) return std::nullopt;
  return n;
}

std::unique_ptr<TensorFile> open_tensor_file(const fs::path& path) {
  io::InputFile file(path);
  std::string head(std::min<uint64_t>(file.size(), 512), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(head)));
  const size_t first = head.find_first_not_of(" \t\r\n");
  if (head.empty()) not_weights(path, "the file is empty", "copying or downloading it again");
  if (head.starts_with("PK")) return open_torch_file(std::move(file));
  if (head.starts_with(kLegacyMagic))
    not_weights(path, "is in PyTorch's legacy format of before version 1.6 (a bare pickle, no zip archive)",
                "loading it in a current PyTorch and saving it again with torch.save");
  if (head.starts_with("version https://git-lfs"))
    not_weights(path, "is a Git LFS pointer, not the file itself", "running git lfs pull in that repository");
  if (first != std::string::npos && head[first] == '<')
    not_weights(path, "is an HTML or XML page saved under the name of the weights",
                "downloading the file itself, not the page about it");
  if (head.starts_with("\x89HDF"))
    not_weights(path, "is an HDF5 file", "naming the folder of the checkpoint that it belongs to");
  if (head.size() > 8 && head[8] == '{') return open_safetensors(std::move(file));
  if (path.extension() == ".safetensors" && head.size() <= 8)
    not_weights(path, str("is only ", head.size(), " bytes long"), "copying it again");
  if (path.extension() == ".safetensors") return open_safetensors(std::move(file));
  not_weights(path, "is neither a zip archive nor safetensors", "giving another file, or copying it again");
}

}  // namespace rookery::foreign
