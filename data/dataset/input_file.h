// input_file.h: a regular file read at any place by any thread. Token sets read instead of mapping: when a
// file shrinks or the disk fails under a running job, the result is an error with a name and an offset, not a
// SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

namespace rookery::data {

namespace fs = std::filesystem;

class InputFile {
 public:
  // Throws kNoInput when the file is missing, unreadable or not a regular file (a folder, FIFO or device).
  explicit InputFile(fs::path path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const fs::path& path() const { return path_; }
  uint64_t size() const { return size_; }  // bytes, when the file was opened
  int64_t mtime_ns() const { return mtime_ns_; }
  // The same number for two names of one file.
  std::pair<uint64_t, uint64_t> identity() const { return {device_, inode_}; }

  // Fills `out` from byte `offset`. A read error is tried again three times; then kIo with file and offset.
  // A file that has become shorter is kData.
  void read_at(uint64_t offset, std::span<std::byte> out) const;
  // Throws kData when the file behind the name was replaced or changed since it was opened.
  void check_unchanged() const;

 private:
  fs::path path_;
  int fd_ = -1;
  uint64_t size_ = 0, device_ = 0, inode_ = 0;
  int64_t mtime_ns_ = 0;
};

// A little-endian array of T inside a file, at any alignment. The caller has checked that it lies within the
// file.
template <class T>
class FileArray {
 public:
  FileArray() = default;
  FileArray(const InputFile& file, uint64_t offset, int64_t size)
      : file_(&file), offset_(offset), size_(size) {}

  int64_t size() const { return size_; }
  T operator[](int64_t i) const {
    T value;
    read(i, {&value, 1});
    return value;
  }
  void read(int64_t first, std::span<T> out) const {
    file_->read_at(offset_ + static_cast<uint64_t>(first) * sizeof(T), std::as_writable_bytes(out));
  }
  // Calls visit(first, block) for blocks in order: one pass in constant memory.
  template <class Visit>
  void for_each_block(Visit visit) const {
    std::vector<T> block;
    for (int64_t first = 0; first < size_; first += static_cast<int64_t>(block.size())) {
      block.resize(static_cast<size_t>(std::min<int64_t>(1 << 16, size_ - first)));
      read(first, block);
      visit(first, std::span<const T>(block));
    }
  }

 private:
  const InputFile* file_ = nullptr;
  uint64_t offset_ = 0;
  int64_t size_ = 0;
};

}  // namespace rookery::data
