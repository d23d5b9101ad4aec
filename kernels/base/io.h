// io.h: the one layer through which every file is written. Each step of a write passes a named fault point,
// so a test can stop the process, or make the disk fail, at any of them (kernels/base/fault.h). All functions
// throw Error with the path and the errno text: kIo for failures, kCannotCreate where nothing can be made,
// kNoInput for what cannot be read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace rookery::io {

namespace fs = std::filesystem;

// A file being written. Bytes are retried after EINTR and short writes. `point` prefixes its fault points:
// "<point>.open", "<point>.write", "<point>.fsync", "<point>.close".
class OutputFile {
 public:
  enum class Mode { kCreateNew, kTruncate, kAppend };
  OutputFile(const fs::path& path, std::string_view point, Mode mode = Mode::kCreateNew);
  OutputFile(OutputFile&&) noexcept;
  OutputFile& operator=(OutputFile&&) noexcept;
  ~OutputFile();  // closes without throwing; what was not synced may be lost

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  void read_at(uint64_t offset, std::span<std::byte> bytes) const;  // reads back; throws at end of file
  void truncate(uint64_t size);
  uint64_t size() const;
  void sync();   // fsync
  void close();  // reports errors, unlike the destructor
  const fs::path& path() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Temporary name beside `path`, write, fsync, rename, fsync of the folder: `path` holds the old or the new
// content, never a part.
void write_file_atomic(const fs::path& path, std::string_view content, std::string_view point);

// "<point>.rename" before, "<point>.renamed" after; the parent folders are fsynced when `durable`.
void rename(const fs::path& from, const fs::path& to, std::string_view point, bool durable = true);
// Swaps two folders or files in one step (renameat2 EXCHANGE); falls back to renaming `b` aside first.
void exchange(const fs::path& a, const fs::path& b, std::string_view point);
void create_directories(const fs::path& path);
void remove(const fs::path& path, std::string_view point);
void remove_all(const fs::path& path, std::string_view point);
void sync_directory(const fs::path& path);
uint64_t free_bytes(const fs::path& path);

// Whole file as text; refuses (kData) what is larger than `limit` bytes, (kNoInput) what is missing or not a
// regular file.
std::string read_file(const fs::path& path, uint64_t limit);

// A read-only map of a regular file.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& path);
  MappedFile(MappedFile&&) noexcept;
  MappedFile& operator=(MappedFile&&) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const;
  const fs::path& path() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// CRC-32C (Castagnoli), as used by checkpoints, token sets and TensorBoard files; `seed` chains calls.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t seed = 0);
// Lower-case hex SHA-256 of a file or of bytes: the identity of vocabularies and data sets.
std::string sha256_file(const fs::path& path);
std::string sha256(std::string_view bytes);

}  // namespace rookery::io
