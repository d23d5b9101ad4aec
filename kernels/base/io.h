// io.h: the one layer through which every file is written. Each step of a write passes a named fault point,
// so a test can stop the process, or make the disk fail, at any of them (kernels/base/fault.h holds the table
// of points). All functions throw Error with the path and the errno text: kIo for failures, kCannotCreate
// where nothing can be made, kNoInput for what cannot be read.
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
// "<point>.open", "<point>.write", "<point>.fsync", "<point>.close". Symbolic links are not followed.
class OutputFile {
 public:
  enum class Mode {
    kCreateNew,  // fails if the file exists
    kTruncate,
    kAppend,  // keeps the content; write() goes on at its end
  };
  OutputFile(const fs::path& path, std::string_view point, Mode mode = Mode::kCreateNew);
  OutputFile(OutputFile&&) noexcept;
  OutputFile& operator=(OutputFile&&) noexcept;
  ~OutputFile();  // closes without throwing; what was not synced may be lost

  void write(std::span<const std::byte> bytes);  // at the end of what write() wrote before
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
// content, never a part. The temporary is removed on errors; what a killed process leaves behind satisfies
// is_temporary().
void write_file_atomic(const fs::path& path, std::string_view content, std::string_view point);
// A name beside `path` that no other process guesses or uses: NAME.<16 hex digits>.tmp
fs::path temporary_beside(const fs::path& path);
bool is_temporary(const fs::path& path);

// "<point>.rename" before, "<point>.renamed" after; the parent folders are fsynced when `durable`.
void rename(const fs::path& from, const fs::path& to, std::string_view point, bool durable = true);
// Swaps two folders or files in one step (renameat2); where the file system cannot, `b` is renamed aside
// first.
// "<point>.exchange" before, "<point>.exchanged" after; the parent folders are fsynced.
void exchange(const fs::path& a, const fs::path& b, std::string_view point);
void create_directories(const fs::path& path);
// Removes a file or an empty folder, if it is there. Passes "<point>.remove".
void remove(const fs::path& path, std::string_view point);
// The same for a whole tree, never through symbolic links.
void remove_all(const fs::path& path, std::string_view point);
void sync_directory(const fs::path& path);
uint64_t free_bytes(const fs::path& path);  // what an ordinary user may still write there

// Whole file as text; refuses (kData) what is larger than `limit` bytes, (kNoInput) what is missing or not a
// regular file.
std::string read_file(const fs::path& path, uint64_t limit);

// A regular file open for reading at any place; several threads may read at once.
class InputFile {
 public:
  explicit InputFile(const fs::path& path);
  InputFile(InputFile&&) noexcept;
  InputFile& operator=(InputFile&&) noexcept;
  ~InputFile();
  void read_at(uint64_t offset, std::span<std::byte> bytes) const;  // kData where the file ends before
  uint64_t size() const;                                            // when it was opened
  const fs::path& path() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// A read-only map of a regular file.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& path);
  MappedFile(MappedFile&&) noexcept;
  MappedFile& operator=(MappedFile&&) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const;
  const fs::path& path() const;
  // Whether the file behind the name is no longer the one that was mapped (size, time of change, or inode).
  bool changed() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// CRC-32C (Castagnoli), as used by checkpoints, token sets and TensorBoard files; crc32c(b, crc32c(a)) is
// that of a then b.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t seed = 0);
// The same without the processor's instruction: the fallback, and the reference in the tests.
uint32_t crc32c_portable(std::span<const std::byte> bytes, uint32_t seed = 0);
// Lower-case hex SHA-256 of a file or of bytes: the identity of vocabularies and data sets.
std::string sha256_file(const fs::path& path);
std::string sha256(std::string_view bytes);

}  // namespace rookery::io
