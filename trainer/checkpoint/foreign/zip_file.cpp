// zip_file.cpp: the central directory of a zip archive, checked; and the writing of one. The layout follows
// PKWARE's APPNOTE 6.3: 4.3.7 local header, 4.3.12 central directory, 4.3.14 to 4.3.16 end records, 4.5.3
// zip64 field.
#include "trainer/checkpoint/foreign/zip_file.h"

#include <algorithm>
#include <tuple>

#include "kernels/base/crc32.h"
#include "kernels/base/error.h"
#include "trainer/checkpoint/foreign/little_endian.h"

namespace rookery::foreign {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50,
                   kLocator64 = 0x07064b50;
constexpr uint64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kEnd64Bytes = 56, kLocatorBytes = 20;
constexpr uint32_t kFull32 = 0xffffffff;  // the true value stands in the zip64 record
constexpr uint16_t kFull16 = 0xffff;
constexpr uint64_t kMaxDirectoryBytes = 256u << 20, kBlockBytes = 4u << 20;
constexpr uint16_t kZip64Field = 1, kPaddingField = 0x4246, kUtf8Flag = 0x800, kEncryptedFlags = 0x2041;

template <class... Args>
[[noreturn]] void bad(const io::InputFile& file, const Args&... what) {
  fail(ExitCode::kData, "WTS-02", file.path(), ": ", what...);
}

std::string bytes_at(const io::InputFile& file, uint64_t offset, uint64_t count, std::string_view what) {
  if (offset > file.size() || count > file.size() - offset)
    bad(file, what, " at byte ", offset, " needs ", count, " bytes, the file has ", file.size(),
        ": it is damaged or cut short; copy it again");
  std::string bytes(count, '\0');
  file.read_at(offset, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

bool leaves_folder(std::string_view name) {
  if (name.empty() || name[0] == '/' || name.find('\\') != std::string_view::npos ||
      name.find('\0') != std::string_view::npos)
    return true;
  for (size_t at = 0; at <= name.size();) {
    const size_t end = std::min(name.find('/', at), name.size());
    if (name.substr(at, end - at) == "..") return true;
    at = end + 1;
  }
  return false;
}

}  // namespace

ZipReader::ZipReader(io::InputFile file) : file_(std::move(file)) { read_directory(find_directory()); }

const ZipEntry* ZipReader::find(std::string_view name) const {
  const auto it = entries_.find(name);
  return it == entries_.end() ? nullptr : &it->second;
}

// The end record must be the last thing in the file: a comment after it could hold a second one.
ZipReader::Directory ZipReader::find_directory() const {
  const uint64_t size = file_.size();
  const auto cut_short = [&] {
    bad(file_, "no end-of-central-directory record in the last ", kEndBytes, " of ", size,
        " bytes: the file is cut short, or something was appended; copy it again");
  };
  if (size < kEndBytes) cut_short();
  const uint64_t at = size - kEndBytes;
  const std::string end = bytes_at(file_, at, kEndBytes, "the end record");
  if (load<uint32_t>(end, 0) != kEnd) cut_short();
  if (load<uint16_t>(end, 20) != 0)
    bad(file_, "the archive's comment has ", load<uint16_t>(end, 20), " bytes, expected none");
  Directory d{load<uint32_t>(end, 16), load<uint32_t>(end, 12), load<uint16_t>(end, 10)};
  uint64_t records_begin = at;

  const bool has_zip64 =
      at >= kLocatorBytes &&
      load<uint32_t>(bytes_at(file_, at - kLocatorBytes, 4, "the zip64 locator"), 0) == kLocator64;
  if (has_zip64) {
    const std::string locator = bytes_at(file_, at - kLocatorBytes, kLocatorBytes, "the zip64 locator");
    records_begin = load<uint64_t>(locator, 8);
    if (at < kLocatorBytes + kEnd64Bytes || records_begin != at - kLocatorBytes - kEnd64Bytes)
      bad(file_, "the zip64 locator points to byte ", records_begin, ", expected the ", kEnd64Bytes,
          " bytes before it");
    const std::string end64 = bytes_at(file_, records_begin, kEnd64Bytes, "the zip64 end record");
    if (load<uint32_t>(end64, 0) != kEnd64 || load<uint64_t>(end64, 4) != kEnd64Bytes - 12)
      bad(file_, "byte ", records_begin, ": no zip64 end record");
    const Directory wide{load<uint64_t>(end64, 48), load<uint64_t>(end64, 40), load<uint64_t>(end64, 32)};
    const auto agree = [&](uint64_t narrow, uint64_t full, uint64_t value) {
      if (narrow != full && narrow != value)
        bad(file_, "the two end records disagree: ", narrow, " and ", value);
    };
    agree(d.offset, kFull32, wide.offset);
    agree(d.bytes, kFull32, wide.bytes);
    agree(d.count, kFull16, wide.count);
    if (load<uint64_t>(end64, 24) != wide.count) bad(file_, "the archive is spread over several disks");
    d = wide;
  } else if (load<uint16_t>(end, 8) != d.count || load<uint16_t>(end, 4) != 0) {
    bad(file_, "the archive is spread over several disks");
  }
  if (d.offset > records_begin || d.bytes != records_begin - d.offset)
    bad(file_, "the central directory claims bytes ", d.offset, " + ", d.bytes, ", expected it to end at ",
        records_begin);
  if (d.bytes > kMaxDirectoryBytes || d.count > d.bytes / kCentralBytes)
    bad(file_, "a central directory of ", d.bytes, " bytes for ", d.count, " entries");
  return d;
}

void ZipReader::read_directory(const Directory& d) {
  const std::string bytes = bytes_at(file_, d.offset, d.bytes, "the central directory");
  std::vector<std::tuple<uint64_t, uint64_t, std::string>> extents;  // of header and content
  uint64_t at = 0;
  for (uint64_t i = 0; i < d.count; ++i) {
    if (bytes.size() - at < kCentralBytes || load<uint32_t>(bytes, at) != kCentral)
      bad(file_, "entry ", i, " of the central directory is damaged, at byte ", d.offset + at);
    const auto flags = load<uint16_t>(bytes, at + 8), method = load<uint16_t>(bytes, at + 10);
    uint64_t packed = load<uint32_t>(bytes, at + 20), size = load<uint32_t>(bytes, at + 24),
             local = load<uint32_t>(bytes, at + 42);
    const uint64_t name_bytes = load<uint16_t>(bytes, at + 28), extra_bytes = load<uint16_t>(bytes, at + 30),
                   comment_bytes = load<uint16_t>(bytes, at + 32);
    const auto disk = load<uint16_t>(bytes, at + 34);
    ZipEntry entry{0, 0, load<uint32_t>(bytes, at + 16)};
    at += kCentralBytes;
    if (bytes.size() - at < name_bytes + extra_bytes + comment_bytes)
      bad(file_, "entry ", i, " runs over the end of the central directory");
    const std::string name = bytes.substr(at, name_bytes);
    const std::string_view extra = std::string_view(bytes).substr(at + name_bytes, extra_bytes);
    at += name_bytes + extra_bytes + comment_bytes;

    if (leaves_folder(name)) bad(file_, "the name of entry '", name, "' leaves the archive's folder");
    if (flags & kEncryptedFlags) bad(file_, "entry ", name, " is encrypted");
    if (method != 0)
      bad(file_, "entry ", name, " is compressed (method ", method,
          "), expected stored entries; mend it by saving the weights again with torch.save");
    // The zip64 field holds, in this order, those of the four values that are full here.
    for (uint64_t e = 0; e + 4 <= extra.size();) {
      const auto id = load<uint16_t>(extra, e), length = load<uint16_t>(extra, e + 2);
      e += 4;
      if (length > extra.size() - e) bad(file_, "entry ", name, ": a field of ", length, " bytes is cut off");
      if (id == kZip64Field) {
        uint64_t left = length, from = e;
        for (uint64_t* value : {&size, &packed, &local}) {
          if (*value != kFull32) continue;
          if (left < 8) bad(file_, "entry ", name, ": its zip64 field is too short");
          *value = load<uint64_t>(extra, from);
          from += 8, left -= 8;
        }
      }
      e += length;
    }
    if (packed != size) bad(file_, "entry ", name, " is stored, but its sizes are ", packed, " and ", size);
    if (disk != 0 && disk != kFull16) bad(file_, "entry ", name, " lies on another disk");
    entry.bytes = size;
    if (local > d.offset || size > d.offset - local)
      bad(file_, "entry ", name, " claims ", size, " bytes from byte ", local,
          ", beyond the central directory at ", d.offset);
    check_local_header(name, entry, local);
    if (entry.offset > d.offset || entry.bytes > d.offset - entry.offset)
      bad(file_, "entry ", name, " claims ", size, " bytes from byte ", entry.offset,
          ", beyond the central directory at ", d.offset);
    extents.emplace_back(local, entry.offset + entry.bytes, name);
    if (!entries_.emplace(name, entry).second) bad(file_, "two entries are named ", name);
  }
  if (at != bytes.size())
    bad(file_, bytes.size() - at, " bytes after the last of ", d.count, " entries of the central directory");
  std::sort(extents.begin(), extents.end());
  for (size_t i = 1; i < extents.size(); ++i)
    if (std::get<0>(extents[i]) < std::get<1>(extents[i - 1]))
      bad(file_, "entries ", std::get<2>(extents[i - 1]), " and ", std::get<2>(extents[i]), " overlap");
}

// Sizes and checksum may be zero there (they follow the content); the name must be the same.
void ZipReader::check_local_header(const std::string& name, ZipEntry& entry, uint64_t local) const {
  const std::string header = bytes_at(file_, local, kLocalBytes, str("the local header of ", name));
  if (load<uint32_t>(header, 0) != kLocal) bad(file_, "entry ", name, ": no local header at byte ", local);
  const uint64_t name_bytes = load<uint16_t>(header, 26), extra_bytes = load<uint16_t>(header, 28);
  if (load<uint16_t>(header, 8) != 0 || name_bytes != name.size() ||
      bytes_at(file_, local + kLocalBytes, name_bytes, "a name") != name)
    bad(file_, "entry ", name, ": the local header at byte ", local, " tells another name or method");
  entry.offset = local + kLocalBytes + name_bytes + extra_bytes;
  if (entry.offset > file_.size()) bad(file_, "entry ", name, " begins beyond the end of the file");
}

std::string ZipReader::read(const std::string& name, uint64_t limit) const {
  const ZipEntry* entry = find(name);
  RK_CHECK(entry, "[ZipReader] no entry ", name);
  if (entry->bytes > limit)
    bad(file_, "entry ", name, " has ", entry->bytes, " bytes, expected at most ", limit);
  return bytes_at(file_, entry->offset, entry->bytes, name);
}

void ZipReader::verify() const {
  std::vector<std::byte> buffer(std::min(kBlockBytes, file_.size()));
  for (const auto& [name, entry] : entries_) {
    uint32_t sum = 0;
    for (uint64_t done = 0; done < entry.bytes;) {
      const auto block = std::span(buffer).first(std::min(kBlockBytes, entry.bytes - done));
      file_.read_at(entry.offset + done, block);
      sum = io::crc32(block, sum);
      done += block.size();
    }
    if (sum != entry.crc32)
      bad(file_, "entry ", name, ": its content has CRC-32 ", sum, ", expected ", entry.crc32,
          ": it is damaged; copy the file again");
  }
}

ZipWriter::ZipWriter(const std::filesystem::path& path) : file_(path, "weights.file") {}

void ZipWriter::add(const std::string& name, std::span<const std::byte> content) {
  begin(name, content.size(), io::crc32(content));
  file_.write_at(at_, content);
  at_ += content.size();
}

void ZipWriter::add_zeros(const std::string& name, uint64_t bytes) {
  begin(name, bytes, 0);
  at_ += bytes;
}

void ZipWriter::begin(const std::string& name, uint64_t bytes, uint32_t crc32) {
  constexpr uint64_t kAlign = 64;
  const Record record{name, bytes, at_, crc32};
  const bool wide = record.bytes >= kFull32;
  std::string extra;
  if (wide) {
    store<uint16_t>(extra, kZip64Field);
    store<uint16_t>(extra, 16);
    store<uint64_t>(extra, record.bytes);
    store<uint64_t>(extra, record.bytes);
  }
  const uint64_t unpadded = at_ + kLocalBytes + name.size() + extra.size() + 4;
  const uint64_t padding = (kAlign - unpadded % kAlign) % kAlign;
  store<uint16_t>(extra, kPaddingField);
  store<uint16_t>(extra, uint16_t(padding));
  extra.append(padding, 'Z');

  std::string header;
  store<uint32_t>(header, kLocal);
  for (const uint16_t v : {uint16_t(wide ? 45 : 20), kUtf8Flag, uint16_t(0), uint16_t(0), uint16_t(0x21)})
    store<uint16_t>(header, v);  // version needed, flags, method, time, date (1980-01-01)
  const uint32_t size = wide ? kFull32 : uint32_t(record.bytes);
  for (const uint32_t v : {record.crc32, size, size}) store<uint32_t>(header, v);
  store<uint16_t>(header, uint16_t(name.size()));
  store<uint16_t>(header, uint16_t(extra.size()));
  header += name + extra;
  file_.write_at(at_, std::as_bytes(std::span(header)));
  at_ += header.size();
  records_.push_back(record);
}

void ZipWriter::finish() {
  std::string directory;
  for (const Record& r : records_) {
    const bool wide_size = r.bytes >= kFull32, wide_place = r.local >= kFull32;
    std::string extra;
    if (wide_size || wide_place) {
      store<uint16_t>(extra, kZip64Field);
      store<uint16_t>(extra, uint16_t((wide_size ? 16 : 0) + (wide_place ? 8 : 0)));
      if (wide_size) store<uint64_t>(extra, r.bytes), store<uint64_t>(extra, r.bytes);
      if (wide_place) store<uint64_t>(extra, r.local);
    }
    store<uint32_t>(directory, kCentral);
    const uint16_t version = extra.empty() ? 20 : 45;
    for (const uint16_t v : {version, version, kUtf8Flag, uint16_t(0), uint16_t(0), uint16_t(0x21)})
      store<uint16_t>(directory, v);
    const uint32_t size = wide_size ? kFull32 : uint32_t(r.bytes);
    for (const uint32_t v : {r.crc32, size, size}) store<uint32_t>(directory, v);
    store<uint16_t>(directory, uint16_t(r.name.size()));
    store<uint16_t>(directory, uint16_t(extra.size()));
    for (int i = 0; i < 3; ++i) store<uint16_t>(directory, 0);  // comment, disk, internal attributes
    store<uint32_t>(directory, 0);                              // external attributes
    store<uint32_t>(directory, wide_place ? kFull32 : uint32_t(r.local));
    directory += r.name + extra;
  }
  const uint64_t start = at_, bytes = directory.size(), count = records_.size();
  const bool wide = start >= kFull32 || bytes >= kFull32 || count >= kFull16;
  if (wide) {
    store<uint32_t>(directory, kEnd64);
    store<uint64_t>(directory, kEnd64Bytes - 12);
    for (int i = 0; i < 2; ++i) store<uint16_t>(directory, 45);
    for (int i = 0; i < 2; ++i) store<uint32_t>(directory, 0);
    for (const uint64_t v : {count, count, bytes, start}) store<uint64_t>(directory, v);
    store<uint32_t>(directory, kLocator64);
    store<uint32_t>(directory, 0);
    store<uint64_t>(directory, start + bytes);
    store<uint32_t>(directory, 1);
  }
  store<uint32_t>(directory, kEnd);
  for (int i = 0; i < 2; ++i) store<uint16_t>(directory, 0);
  for (int i = 0; i < 2; ++i) store<uint16_t>(directory, uint16_t(std::min<uint64_t>(count, kFull16)));
  store<uint32_t>(directory, uint32_t(std::min<uint64_t>(bytes, kFull32)));
  store<uint32_t>(directory, uint32_t(std::min<uint64_t>(start, kFull32)));
  store<uint16_t>(directory, 0);
  file_.write_at(start, std::as_bytes(std::span(directory)));
  file_.sync();
  file_.close();
}

}  // namespace rookery::foreign
