// zip_file.h: zip archives as PyTorch writes them: every entry stored, names below one folder. Reading
// believes the central directory alone and checks it against the local headers and the size of the file;
// names are never used as paths. Next: torch_file.cpp.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/io.h"

namespace rookery::foreign {

struct ZipEntry {
  uint64_t offset = 0, bytes = 0;  // of the content in the file
  uint32_t crc32 = 0;
};

class ZipReader {
 public:
  // WTS-02: anything but plain stored entries that lie apart within the file: compressed or encrypted ones,
  // two of one name, names that leave the folder, entries that overlap, sizes that lie, a comment.
  explicit ZipReader(io::InputFile file);
  const io::InputFile& file() const { return file_; }
  const std::map<std::string, ZipEntry, std::less<>>& entries() const { return entries_; }
  const ZipEntry* find(std::string_view name) const;
  std::string read(const std::string& name, uint64_t limit) const;  // a small entry
  // WTS-02 where the content of an entry differs from its CRC-32.
  void verify() const;

 private:
  struct Directory {
    uint64_t offset, bytes, count;
  };
  Directory find_directory() const;
  void read_directory(const Directory& directory);
  void check_local_header(const std::string& name, ZipEntry& entry, uint64_t local) const;
  io::InputFile file_;
  std::map<std::string, ZipEntry, std::less<>> entries_;
};

// Stored entries, each starting at a multiple of 64 bytes; zip64 where a size asks for it.
class ZipWriter {
 public:
  explicit ZipWriter(const std::filesystem::path& path);
  void add(const std::string& name, std::span<const std::byte> content);
  void add(const std::string& name, std::string_view content) {
    add(name, std::as_bytes(std::span(content.data(), content.size())));
  }
  // As many zeros, as a hole where the file system has those, and without their checksum: for files of many
  // gigabytes whose content does not matter.
  void add_zeros(const std::string& name, uint64_t bytes);
  void finish();  // the central directory; fsync; close

 private:
  void begin(const std::string& name, uint64_t bytes, uint32_t crc32);  // the local header
  struct Record {
    std::string name;
    uint64_t bytes, local;
    uint32_t crc32;
  };
  io::OutputFile file_;
  uint64_t at_ = 0;
  std::vector<Record> records_;
};

}  // namespace rookery::foreign
