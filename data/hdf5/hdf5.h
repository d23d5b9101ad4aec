// hdf5.h: the part of HDF5 that token sets and checkpoints need: groups, contiguous numeric data sets,
// attributes, fixed UTF-8 strings. Files are written through the I/O layer (kernels/base/io.h), so its fault
// points hold for them too, and read as if every byte were hostile: see Reader. Next: hdf5.cpp.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rookery::data::h5 {

namespace fs = std::filesystem;

// Numbers as they stand in the file: always little-endian.
enum class Type : uint8_t { kU8, kU16, kU32, kU64, kI8, kI16, kI32, kI64, kF32, kF64 };
size_t size_of(Type type);         // bytes
std::string to_string(Type type);  // "u16", "f32", ...
std::optional<Type> type_named(std::string_view name);

template <class T>
constexpr Type type_of() {
  constexpr bool kFloat = std::floating_point<T>;
  constexpr int kLog = sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3;
  return Type(kFloat ? 6 + kLog : (std::signed_integral<T> ? 4 : 0) + kLog);
}
static_assert(type_of<float>() == Type::kF32 && type_of<uint16_t>() == Type::kU16 &&
              type_of<int64_t>() == Type::kI64);

using Shape = std::vector<uint64_t>;  // elements along each axis, slowest first

// Writes one new file. The content stands under the final name only after close(): see Place. Whatever is not
// closed, by an error or on purpose, is removed by the destructor. The same calls give the same bytes. Names
// are absolute paths
// ("/param/emb/weight"); missing groups on the way are made. Errors: those of io.h, with the path of the
// file.
class Writer {
 public:
  enum class Place {
    kTemporary,  // write beside `path`, then fsync and rename: for files that stand alone
    kFinal,      // write `path` itself, then fsync: for folders that take their final name as a whole
  };
  Writer(const fs::path& path, std::string_view point, Place place = Place::kTemporary);
  Writer(Writer&&) noexcept;
  Writer& operator=(Writer&&) noexcept;
  ~Writer();

  void group(const std::string& name);

  // Makes a contiguous data set of known size and a place to write from its start onwards.
  void dataset(const std::string& name, Type type, const Shape& shape);
  // Appends to a data set of one axis: the bytes of whole elements, in the file's byte order.
  void append(const std::string& name, std::span<const std::byte> bytes);
  // The whole of a data set at once.
  void dataset(const std::string& name, Type type, const Shape& shape, std::span<const std::byte> bytes);
  template <class T>
  void dataset(const std::string& name, std::span<const T> values) {
    dataset(name, type_of<T>(), {values.size()}, std::as_bytes(values));
  }
  // One axis of UTF-8 strings, each padded with zeros to the longest one (at least 1 byte).
  void strings(const std::string& name, std::span<const std::string> values);

  // Attributes of a group or data set that was made before ("/" is the root).
  void attribute(const std::string& object, const std::string& name, uint32_t value);
  void attribute(const std::string& object, const std::string& name, uint64_t value);
  void attribute(const std::string& object, const std::string& name, std::string_view value);
  void attribute(const std::string& object, const std::string& name, std::span<const uint64_t> values);

  // Flush, close, fsync and, for a temporary, rename. Appended data sets must be full.
  void close();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// What one data set is. `problem` says why it cannot be read (then `type` and `offset` mean nothing).
struct DatasetInfo {
  Type type = Type::kU8;
  bool is_text = false;  // fixed-size strings: strings() reads them
  Shape shape;
  uint64_t numel = 0;
  std::optional<uint64_t> offset;  // of the first byte in the file, where the data set is contiguous
  std::string problem;
};

// Reads one file of any origin. The constructor walks all of it and refuses, with the name of the file, what
// is not HDF5, was truncated, is still open for writing, holds soft, external or user-defined links, links
// twice to a group, nests deeper or holds more objects than `limits`. Data sets with external storage,
// filters other than deflate, shuffle and fletcher32, another byte order or kind of element, or a declared
// size that the file cannot hold are listed with their `problem`, and refused when used. No size of the file
// is believed before it is compared with the file's own. Errors: H5-01 .. H5-12, kData for content, kNoInput
// for what is missing. Methods may be called from several threads.
class Reader {
 public:
  struct Limits {
    int depth = 32;
    uint64_t objects = 1u << 20;
  };
  explicit Reader(const fs::path& path);
  Reader(const fs::path& path, const Limits& limits);
  Reader(Reader&&) noexcept;
  Reader& operator=(Reader&&) noexcept;
  ~Reader();

  const fs::path& path() const;
  const std::map<std::string, DatasetInfo>& datasets() const;  // by absolute name
  const std::vector<std::string>& groups() const;              // absolute names, "/" first
  bool has_dataset(const std::string& name) const;
  // The data set `name`; fails if it is missing or has a problem.
  const DatasetInfo& info(const std::string& name) const;

  // The box [offset, offset + extent) of a data set into `out`, which has exactly its size in bytes.
  void read(const std::string& name, const Shape& offset, const Shape& extent,
            std::span<std::byte> out) const;
  // The same into the box at `out_offset` of an array `out` of shape `out_shape`; the rest of `out` stays as
  // it is.
  void read(const std::string& name, const Shape& offset, const Shape& extent, std::span<std::byte> out,
            const Shape& out_shape, const Shape& out_offset) const;
  // A whole data set of one axis, which must have the type T and at most `limit` elements.
  template <class T>
  std::vector<T> read_vector(const std::string& name, uint64_t limit) const {
    std::vector<T> values(checked_length(name, type_of<T>(), limit));
    read(name, {0}, {values.size()}, std::as_writable_bytes(std::span(values)));
    return values;
  }
  std::vector<std::string> strings(const std::string& name, uint64_t limit) const;

  // Attributes; fails if missing or of another kind, except that numbers of any integer size are taken as
  // u64.
  bool has_attribute(const std::string& object, const std::string& name) const;
  uint64_t number(const std::string& object, const std::string& name) const;
  std::vector<uint64_t> numbers(const std::string& object, const std::string& name) const;
  std::string text(const std::string& object, const std::string& name) const;

 private:
  uint64_t checked_length(const std::string& name, Type type, uint64_t limit) const;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rookery::data::h5
