// input_file.cpp: pread with retries, and the identity checks of an open file.
#include "data/dataset/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "kernels/base/error.h"
#include "kernels/base/fault.h"

namespace rookery::data {

namespace {

int64_t mtime_of(const struct stat& s) {
  return int64_t{s.st_mtim.tv_sec} * 1'000'000'000 + s.st_mtim.tv_nsec;
}

}  // namespace

InputFile::InputFile(fs::path path) : path_(std::move(path)) {
  // O_NONBLOCK: opening a FIFO by mistake must not wait for a writer.
  fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd_ < 0)
    fail(ExitCode::kNoInput, "DATA-21", path_.native(), ": cannot be opened: ", std::strerror(errno),
         " (working folder ", fs::current_path().native(), "); mend the path or the file's permissions");
  struct stat s {};
  if (::fstat(fd_, &s) != 0 || !S_ISREG(s.st_mode)) {
    ::close(fd_);
    fail(ExitCode::kNoInput, "DATA-22", path_.native(), ": is not a regular file (a folder, FIFO or device)");
  }
  size_ = static_cast<uint64_t>(s.st_size);
  device_ = s.st_dev;
  inode_ = s.st_ino;
  mtime_ns_ = mtime_of(s);
}

InputFile::~InputFile() { ::close(fd_); }

void InputFile::read_at(uint64_t offset, std::span<std::byte> out) const {
  int failures = 0;
  while (!out.empty()) {
    ssize_t n = -1;
    if (fault_point("data.read") == FaultAction::kEio) {
      errno = EIO;
    } else {
      n = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    }
    if (n > 0) {
      out = out.subspan(static_cast<size_t>(n));
      offset += static_cast<uint64_t>(n);
    } else if (n == 0) {
      fail(ExitCode::kData, "DATA-04", path_.native(), ": ends at byte ", offset, ", but held ", size_,
           " bytes when it was opened: it was cut or replaced while in use");
    } else if (errno != EINTR) {
      if (++failures > 3)
        fail(ExitCode::kIo, "DATA-23", path_.native(), ": cannot be read at byte ", offset, ": ",
             std::strerror(errno), ", tried ", failures, " times; mend the disk, or read a copy");
      std::this_thread::sleep_for(std::chrono::milliseconds(50 << failures));
    }
  }
}

void InputFile::check_unchanged() const {
  struct stat s {};
  if (::stat(path_.c_str(), &s) != 0)
    fail(ExitCode::kData, "DATA-04", path_.native(), ": is no longer there (", std::strerror(errno), ")");
  if (s.st_dev != device_ || s.st_ino != inode_)
    fail(ExitCode::kData, "DATA-04", path_.native(), ": was replaced by another file while in use");
  if (static_cast<uint64_t>(s.st_size) != size_ || mtime_of(s) != mtime_ns_)
    fail(ExitCode::kData, "DATA-04", path_.native(), ": was changed while in use: ", size_,
         " bytes when it was opened, ", static_cast<uint64_t>(s.st_size), " now");
}

}  // namespace rookery::data
