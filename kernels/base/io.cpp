// io.cpp: file writing by POSIX calls with fault points between them, reading, maps.
// Checksums: checksum.cpp. Fault points: fault.cpp.
#include "kernels/base/io.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/fault.h"

namespace rookery::io {
namespace {

std::string errno_text(int error) { return std::generic_category().message(error); }

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

// Free bytes for a message: 0 when even that cannot be asked.
uint64_t free_bytes_or_zero(const fs::path& path) noexcept {
  struct statvfs s;
  return ::statvfs(path.c_str(), &s) == 0 ? uint64_t(s.f_bavail) * s.f_frsize : 0;
}

[[noreturn]] void fail_io(ExitCode code, std::string_view id, const fs::path& path, std::string_view what,
                          int error) {
  std::string advice;
  if (error == ENOSPC || error == EDQUOT)
    advice = str("; ", free_bytes_or_zero(parent_of(path)), " bytes are free there, mend it by making room");
  else if (error == EACCES || error == EPERM || error == EROFS)
    advice = "; mend it by choosing a folder that you may write to";
  fail(code, id, path, ": ", what, " failed: ", errno_text(error), advice);
}

// The errno that an injected fault stands for; 0 for faults that mean nothing to this operation.
int injected_errno(FaultAction action) {
  if (action == FaultAction::kEnospc) return ENOSPC;
  if (action == FaultAction::kEio) return EIO;
  return 0;
}

int pass(std::string_view point, std::string_view step) {
  return injected_errno(fault_point(str(point, step)));
}

bool exists_without_following(const fs::path& path) {
  struct stat s;
  return ::lstat(path.c_str(), &s) == 0;
}

// A descriptor that is closed when it goes out of scope.
struct Descriptor {
  int fd = -1;
  explicit Descriptor(int f) : fd(f) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

// Opens a regular file for reading; a FIFO or device is refused without waiting for its other end.
int open_regular(const fs::path& path, struct stat& s) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail(ExitCode::kNoInput, "IO-07", path, ": cannot be opened: ", errno_text(errno));
  if (::fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
    ::close(fd);
    fail(ExitCode::kNoInput, "IO-07", path, ": found a folder, pipe or device, expected a regular file");
  }
  return fd;
}

void read_fully(int fd, const fs::path& path, uint64_t offset, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pread(fd, bytes.data(), bytes.size(), off_t(offset));
    if (n > 0) {
      offset += uint64_t(n);
      bytes = bytes.subspan(size_t(n));
    } else if (n == 0 || errno != EINTR) {
      fail_io(ExitCode::kIo, "IO-08", path, str("reading ", bytes.size(), " bytes at ", offset),
              n ? errno : EIO);
    }
  }
}

}  // namespace

struct OutputFile::State {
  fs::path path;
  std::string point;
  int fd = -1;
  uint64_t end = 0;  // where write() goes on

  ~State() {
    if (fd >= 0) ::close(fd);
  }
};

OutputFile::OutputFile(const fs::path& path, std::string_view point, Mode mode)
    : state_(new State{path, std::string(point)}) {
  int error = pass(point, ".open");
  if (!error) {
    const int how = mode == Mode::kCreateNew ? O_EXCL : mode == Mode::kTruncate ? O_TRUNC : 0;
    state_->fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | how, 0666);
    error = state_->fd < 0 ? errno : 0;
  }
  if (error) {
    const bool disk = error == ENOSPC || error == EIO || error == EDQUOT;
    fail_io(disk ? ExitCode::kIo : ExitCode::kCannotCreate, "IO-01", path, "creating the file", error);
  }
  if (mode == Mode::kAppend) state_->end = size();
}
OutputFile::OutputFile(OutputFile&&) noexcept = default;
OutputFile& OutputFile::operator=(OutputFile&&) noexcept = default;
OutputFile::~OutputFile() = default;

void OutputFile::write(std::span<const std::byte> bytes) {
  write_at(state_->end, bytes);
  state_->end += bytes.size();
}

void OutputFile::write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

void OutputFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  RK_CHECK(state_ && state_->fd >= 0, "write to a closed file");
  const FaultAction fault = fault_point(str(state_->point, ".write"));
  std::vector<std::byte> flipped;
  if (fault == FaultAction::kBitFlip && !bytes.empty()) {
    flipped.assign(bytes.begin(), bytes.end());
    flipped[flipped.size() / 2] ^= std::byte{1};
    bytes = flipped;
  }
  // Half of the bytes arrive, as on a real disk that fills up; a short write goes on with the rest.
  const int injected = injected_errno(fault);
  size_t most = injected || fault == FaultAction::kShortWrite ? (bytes.size() + 1) / 2 : bytes.size();
  const size_t total = bytes.size();
  int error = 0;
  while (!bytes.empty() && !error) {
    const ssize_t n = ::pwrite(state_->fd, bytes.data(), std::min(most, bytes.size()), off_t(offset));
    if (n > 0) {
      offset += uint64_t(n);
      bytes = bytes.subspan(size_t(n));
      most = bytes.size();
      error = injected;
    } else if (n == 0) {
      error = EIO;
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (error) fail_io(ExitCode::kIo, "IO-02", state_->path, str("writing ", total, " bytes"), error);
}

void OutputFile::read_at(uint64_t offset, std::span<std::byte> bytes) const {
  read_fully(state_->fd, state_->path, offset, bytes);
}

void OutputFile::truncate(uint64_t size) {
  int error = pass(state_->point, ".write");
  if (!error && ::ftruncate(state_->fd, off_t(size)) != 0) error = errno;
  if (error)
    fail_io(ExitCode::kIo, "IO-02", state_->path, str("setting the size to ", size, " bytes"), error);
  state_->end = std::min(state_->end, size);
}

uint64_t OutputFile::size() const {
  struct stat s;
  RK_CHECK(::fstat(state_->fd, &s) == 0, state_->path, ": fstat failed");
  return uint64_t(s.st_size);
}

void OutputFile::sync() {
  int error = pass(state_->point, ".fsync");
  if (!error && ::fsync(state_->fd) != 0) error = errno;
  if (error) fail_io(ExitCode::kIo, "IO-03", state_->path, "fsync", error);
}

void OutputFile::close() {
  if (state_->fd < 0) return;
  int error = pass(state_->point, ".close");
  if (::close(std::exchange(state_->fd, -1)) != 0 && !error) error = errno;
  if (error) fail_io(ExitCode::kIo, "IO-04", state_->path, "close", error);
}

const fs::path& OutputFile::path() const { return state_->path; }

fs::path temporary_beside(const fs::path& path) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::random_device random;
  std::string name = path.filename().string() + '.';
  for (int word = 0; word < 2; ++word)
    for (uint32_t bits = random(), i = 0; i < 8; ++i, bits >>= 4) name += kHex[bits & 15];
  return path.parent_path() / (name + ".tmp");
}

bool is_temporary(const fs::path& path) {
  const std::string name = path.filename().string();
  if (name.size() < 21 || !name.ends_with(".tmp") || name[name.size() - 21] != '.') return false;
  return std::string_view(name).substr(name.size() - 20, 16).find_first_not_of("0123456789abcdef") ==
         std::string_view::npos;
}

void write_file_atomic(const fs::path& path, std::string_view content, std::string_view point) {
  const fs::path temporary = temporary_beside(path);
  try {
    OutputFile file(temporary, point);
    file.write(content);
    file.sync();
    file.close();
    rename(temporary, path, point);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void rename(const fs::path& from, const fs::path& to, std::string_view point, bool durable) {
  int error = pass(point, ".rename");
  if (!error && ::rename(from.c_str(), to.c_str()) != 0) error = errno;
  if (error) fail_io(ExitCode::kIo, "IO-05", from, str("renaming to ", to), error);
  error = pass(point, ".renamed");
  if (error) fail_io(ExitCode::kIo, "IO-05", to, "making the rename durable", error);
  if (!durable) return;
  sync_directory(parent_of(to));
  if (parent_of(from) != parent_of(to)) sync_directory(parent_of(from));
}

void exchange(const fs::path& a, const fs::path& b, std::string_view point) {
  int error = pass(point, ".exchange");
  if (!error && ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) != 0) error = errno;
  if (error == EINVAL || error == ENOSYS) {
    const fs::path aside = temporary_beside(b);
    error = 0;
    for (const auto& [from, to] : {std::pair{b, aside}, {a, b}, {aside, a}})
      if (!error && ::rename(from.c_str(), to.c_str()) != 0) error = errno;
  }
  if (error) fail_io(ExitCode::kIo, "IO-05", a, str("exchanging with ", b), error);
  error = pass(point, ".exchanged");
  if (error) fail_io(ExitCode::kIo, "IO-05", b, "making the exchange durable", error);
  sync_directory(parent_of(a));
  if (parent_of(a) != parent_of(b)) sync_directory(parent_of(b));
}

void create_directories(const fs::path& path) {
  int error = pass("io.mkdir", "");
  std::error_code ec;
  if (!error && !fs::is_directory(path, ec)) {
    ec.clear();
    fs::create_directories(path, ec);
    error = ec.value();
  }
  if (error) fail_io(ExitCode::kCannotCreate, "IO-09", path, "making the folder", error);
}

void remove(const fs::path& path, std::string_view point) {
  if (!exists_without_following(path)) return;
  int error = pass(point, ".remove");
  if (!error && ::remove(path.c_str()) != 0 && errno != ENOENT) error = errno;
  if (error) fail_io(ExitCode::kIo, "IO-06", path, "removing it", error);
}

void remove_all(const fs::path& path, std::string_view point) {
  std::error_code ec;
  if (fs::is_directory(fs::symlink_status(path, ec))) {
    std::vector<fs::path> entries;
    fs::directory_iterator at(path, ec);  // its ++ throws, increment() does not
    for (; !ec && at != fs::directory_iterator(); at.increment(ec)) entries.push_back(at->path());
    if (ec) fail_io(ExitCode::kIo, "IO-06", path, "listing the folder", ec.value());
    for (const fs::path& entry : entries) remove_all(entry, point);
  }
  remove(path, point);
}

void sync_directory(const fs::path& path) {
  int error = pass("io.syncdir", "");
  if (!error) {
    const Descriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    // Some network file systems do not know fsync of a folder (EINVAL); there is nothing more to be done
    // then.
    if (folder.fd < 0 || (::fsync(folder.fd) != 0 && errno != EINVAL)) error = errno;
  }
  if (error) fail_io(ExitCode::kIo, "IO-03", path, "fsync of the folder", error);
}

uint64_t free_bytes(const fs::path& path) {
  struct statvfs s;
  if (::statvfs(path.c_str(), &s) != 0) fail_io(ExitCode::kIo, "IO-10", path, "asking for free space", errno);
  return uint64_t(s.f_bavail) * s.f_frsize;
}

std::string read_file(const fs::path& path, uint64_t limit) {
  struct stat s;
  const Descriptor file(open_regular(path, s));
  std::string text;
  std::array<char, 1 << 16> buffer;
  for (;;) {
    const ssize_t n = ::read(file.fd, buffer.data(), buffer.size());
    if (n == 0) return text;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io(ExitCode::kIo, "IO-08", path, "reading", errno);
    text.append(buffer.data(), size_t(n));
    if (text.size() > limit)
      fail(ExitCode::kData, "IO-11", path, ": holds ", s.st_size, " bytes, expected at most ", limit);
  }
}

struct InputFile::State {
  fs::path path;
  Descriptor file;
  uint64_t size;
};

InputFile::InputFile(const fs::path& path) {
  struct stat s;
  const int fd = open_regular(path, s);
  state_.reset(new State{path, Descriptor(fd), uint64_t(s.st_size)});
}
InputFile::InputFile(InputFile&&) noexcept = default;
InputFile& InputFile::operator=(InputFile&&) noexcept = default;
InputFile::~InputFile() = default;

void InputFile::read_at(uint64_t offset, std::span<std::byte> bytes) const {
  if (offset > state_->size || bytes.size() > state_->size - offset)
    fail(ExitCode::kData, "IO-12", state_->path, ": ends at byte ", state_->size, ", expected ", bytes.size(),
         " bytes at ", offset);
  read_fully(state_->file.fd, state_->path, offset, bytes);
}
uint64_t InputFile::size() const { return state_->size; }
const fs::path& InputFile::path() const { return state_->path; }

struct MappedFile::State {
  fs::path path;
  struct stat stat = {};
  void* data = nullptr;
  size_t size = 0;

  ~State() {
    if (data) ::munmap(data, size);
  }
};

MappedFile::MappedFile(const fs::path& path) : state_(new State{path}) {
  const Descriptor file(open_regular(path, state_->stat));
  state_->size = size_t(state_->stat.st_size);
  if (state_->size == 0) return;
  void* data = ::mmap(nullptr, state_->size, PROT_READ, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED)
    fail_io(ExitCode::kNoInput, "IO-08", path, str("mapping ", state_->size, " bytes"), errno);
  state_->data = data;
}
MappedFile::MappedFile(MappedFile&&) noexcept = default;
MappedFile& MappedFile::operator=(MappedFile&&) noexcept = default;
MappedFile::~MappedFile() = default;

std::span<const std::byte> MappedFile::bytes() const {
  return {static_cast<const std::byte*>(state_->data), state_->size};
}
const fs::path& MappedFile::path() const { return state_->path; }

bool MappedFile::changed() const {
  struct stat now;
  const struct stat& then = state_->stat;
  return ::stat(state_->path.c_str(), &now) != 0 || now.st_dev != then.st_dev || now.st_ino != then.st_ino ||
         now.st_size != then.st_size || now.st_mtim.tv_sec != then.st_mtim.tv_sec ||
         now.st_mtim.tv_nsec != then.st_mtim.tv_nsec;
}

}  // namespace rookery::io
