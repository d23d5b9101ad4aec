#include "trainer/checkpoint/foreign/safetensors.h"

#include <algorithm>
#include <numeric>

#include "kernels/base/error.h"
#include "trainer/checkpoint/foreign/little_endian.h"
#include "trainer/checkpoint/foreign/strict_json.h"

namespace rookery::foreign {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxDims = 16;

struct Header {
  std::vector<TensorInfo> tensors;
  std::vector<uint64_t> begins, ends;  // in the data
  Metadata metadata;
};

class HeaderReader {
 public:
  HeaderReader(const fs::path& path, uint64_t data_bytes) : path_(path), data_bytes_(data_bytes) {}

  Header read(std::string_view text) {
    const Json json = parse_strict_json(text, "WTS-06", str(path_, ": header"));
    if (!json.is_object()) bad("the header is no JSON object");
    for (const auto& [name, entry] : json.items())
      name == "__metadata__" ? metadata(entry) : tensor(name, entry);
    check_layout();
    return std::move(header_);
  }

 private:
  template <class... Args>
  [[noreturn]] void bad(const Args&... what) const {
    fail(ExitCode::kData, "WTS-05", path_, ": ", what...);
  }

  void metadata(const Json& entry) {
    if (!entry.is_object()) bad("__metadata__ is no object");
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) bad("__metadata__: the value of '", key, "' is no string");
      header_.metadata[key] = value.get<std::string>();
    }
  }

  uint64_t size_from(const std::string& name, std::string_view what, const Json& value) const {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{INT64_MAX})
      bad("tensor ", name, ": ", what, " holds ", value.dump(), ", expected an integer from 0 on");
    return value.get<uint64_t>();
  }

  void tensor(const std::string& name, const Json& entry) {
    if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") || !entry.contains("shape") ||
        !entry.contains("data_offsets"))
      bad("tensor ", name, ": expected dtype, shape and data_offsets");
    const Json &dtype = entry["dtype"], &shape = entry["shape"], &offsets = entry["data_offsets"];
    if (!dtype.is_string()) bad("tensor ", name, ": dtype is no string");
    const auto type = type_named(dtype.get<std::string>());
    if (!type) bad("tensor ", name, ": unsupported dtype ", dtype.get<std::string>());
    TensorInfo info{name, *type, {}};
    if (!shape.is_array() || shape.size() > kMaxDims)
      bad("tensor ", name, ": shape is no list of at most ", kMaxDims, " sizes");
    for (const Json& d : shape) info.shape.push_back(size_from(name, "shape", d));
    if (!offsets.is_array() || offsets.size() != 2) bad("tensor ", name, ": data_offsets is no [begin, end]");
    const uint64_t begin = size_from(name, "data_offsets", offsets[0]),
                   end = size_from(name, "data_offsets", offsets[1]);
    if (end < begin) bad("tensor ", name, ": data_offsets [", begin, ", ", end, "] end before they begin");
    if (end > data_bytes_)
      bad("tensor ", name, " ends at byte ", end, " of the data, the file has ", data_bytes_,
          ": it is cut short; copy it again");
    const auto numel = numel_of(info.shape);
    uint64_t bytes = 0;
    if (!numel || __builtin_mul_overflow(*numel, size_of(*type), &bytes))
      bad("tensor ", name, ": shape ", to_string(info.shape), " overflows 64 bits");
    if (bytes != end - begin)
      bad("tensor ", name, ": shape ", to_string(info.shape), " of ", to_string(*type), " needs ", bytes,
          " bytes, the offsets give ", end - begin);
    header_.tensors.push_back(std::move(info));
    header_.begins.push_back(begin);
    header_.ends.push_back(end);
  }

  // In the order of the file each tensor begins where the one before it ends, and the last one at the end.
  void check_layout() const {
    std::vector<size_t> order(header_.tensors.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return std::pair(header_.begins[a], header_.ends[a]) < std::pair(header_.begins[b], header_.ends[b]);
    });
    uint64_t at = 0;
    std::string before = "the header";
    for (const size_t i : order) {
      const std::string& name = header_.tensors[i].name;
      if (header_.begins[i] < at)
        bad("tensor ", name, " begins at byte ", header_.begins[i], ", before the end of ", before, " at ",
            at, ": they overlap");
      if (header_.begins[i] > at)
        bad("a gap of ", header_.begins[i] - at, " bytes between ", before, " and tensor ", name);
      at = header_.ends[i];
      before = str("tensor ", name);
    }
    if (at != data_bytes_)
      bad(data_bytes_ - at, " bytes after the end of the last tensor at ", at, ", expected none");
  }

  const fs::path& path_;
  uint64_t data_bytes_;
  Header header_;
};

}  // namespace

SafetensorsFile::SafetensorsFile(io::InputFile file) : TensorFile(file.path()), file_(std::move(file)) {
  const auto bad = [&](const auto&... what) { fail(ExitCode::kData, "WTS-05", path_, ": ", what...); };
  const uint64_t size = file_.size();
  std::string length(8, '\0');
  if (size < 8) bad("has ", size, " bytes, expected at least 8");
  file_.read_at(0, std::as_writable_bytes(std::span(length)));
  const auto header_bytes = load<uint64_t>(length, 0);
  if (header_bytes > kMaxHeaderBytes)
    bad("the header claims ", header_bytes, " bytes, the limit is ", kMaxHeaderBytes);
  if (header_bytes > size - 8)
    bad("the header claims ", header_bytes, " bytes, the file has ", size - 8,
        " after its length: it is cut short");
  std::string text(header_bytes, '\0');
  file_.read_at(8, std::as_writable_bytes(std::span(text)));
  if (!text.starts_with('{')) bad("the header does not begin with '{'");
  Header header = HeaderReader(path_, size - 8 - header_bytes).read(text);
  tensors_ = std::move(header.tensors);
  metadata_ = std::move(header.metadata);
  for (const uint64_t begin : header.begins) begins_.push_back(8 + header_bytes + begin);
  if (path_.extension() != ".safetensors")
    notes_.push_back(str(path_, ": is a safetensors file in spite of its name and is read as one"));
}

void SafetensorsFile::read(size_t i, uint64_t offset, std::span<std::byte> out) const {
  if (!out.empty()) file_.read_at(begins_[i] + offset, out);
}

std::unique_ptr<TensorFile> open_safetensors(io::InputFile file) {
  return std::make_unique<SafetensorsFile>(std::move(file));
}

namespace {

class SafetensorsWriter : public TensorWriter {
 public:
  SafetensorsWriter(const fs::path& path, std::vector<TensorInfo> tensors, Metadata metadata)
      : file_(path, kWritePoint) {
    tensors_ = std::move(tensors);
    // Large elements first, so that each tensor is aligned to its own.
    std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
      return size_of(a.type) != size_of(b.type) ? size_of(a.type) > size_of(b.type) : a.name < b.name;
    });
    metadata["format"] = "pt";
    Json header{{"__metadata__", metadata}};
    uint64_t at = 0;
    for (const TensorInfo& t : tensors_) {
      header[t.name] = {
          {"dtype", to_string(t.type)}, {"shape", t.shape}, {"data_offsets", {at, at + t.bytes()}}};
      at += t.bytes();
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    std::string length;
    store<uint64_t>(length, text.size());
    file_.write(length + text);
  }
  void write(std::span<const std::byte> content) override {
    RK_CHECK(next_ < tensors_.size() && content.size() == tensors_[next_].bytes(),
             "[SafetensorsWriter] tensor ", next_, ": ", content.size(), " bytes");
    ++next_;
    file_.write(content);
  }
  void finish() override {
    RK_CHECK(next_ == tensors_.size(), "[SafetensorsWriter] ", next_, " of ", tensors_.size(), " tensors");
    file_.sync();
    file_.close();
  }

 private:
  io::OutputFile file_;
  size_t next_ = 0;
};

}  // namespace

std::unique_ptr<TensorWriter> write_safetensors(const fs::path& path, std::vector<TensorInfo> tensors,
                                                Metadata metadata) {
  return std::make_unique<SafetensorsWriter>(path, std::move(tensors), std::move(metadata));
}

}  // namespace rookery::foreign
