// append_log.cpp: see append_log.h.
#include "trainer/loop/append_log.h"

#include <sys/stat.h>

#include "kernels/base/error.h"

namespace rookery::loop {

AppendLog::AppendLog(io::fs::path path, std::string point, Preamble preamble, Warn warn)
    : path_(std::move(path)),
      point_(std::move(point)),
      preamble_(std::move(preamble)),
      warn_(std::move(warn)) {
  open();
  if (good_size_ == 0) write_whole(preamble_());
}

void AppendLog::open() {
  file_.reset();
  file_.emplace(path_, point_, io::OutputFile::Mode::kAppend);
  struct stat info {};
  inode_ = ::stat(path_.c_str(), &info) == 0 ? info.st_ino : 0;
  good_size_ = file_->size();
  torn_ = false;
}

void AppendLog::write_whole(std::string_view bytes) {
  torn_ = true;
  file_->write(bytes);
  torn_ = false;
  good_size_ += bytes.size();
}

bool AppendLog::still_there() const {
  struct stat info {};
  return ::stat(path_.c_str(), &info) == 0 && info.st_ino == inode_;
}

void AppendLog::append(std::string_view record) {
  try {
    if (!file_ || !still_there()) open();
    if (torn_) file_->truncate(good_size_);
    torn_ = false;
    if (good_size_ == 0) write_whole(preamble_());
    write_whole(record);
  } catch (const Error& error) {
    failed(error.what());
  }
}

void AppendLog::sync() {
  try {
    if (file_) file_->sync();
  } catch (const Error& error) {
    failed(error.what());
  }
}

void AppendLog::failed(const std::string& what) {
  if (warned_) return;
  warned_ = true;  // before the call: the listener may log to this very file
  warn_(str("a log file cannot be written; records are lost until it can: ", what));
}

}  // namespace rookery::loop
