// append_log.h: a log file that a run can live without. A full disk or a deleted file costs records, never
// the training. Built on io::OutputFile; used for metrics.jsonl, train.log (metrics.cpp) and TensorBoard
// files (tensorboard.cpp).
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/base/io.h"

namespace rookery::loop {

class AppendLog {
 public:
  using Preamble = std::function<std::string()>;
  using Warn = std::function<void(const std::string&)>;

  // Opens `path` for appending, or creates it beginning with `preamble()`. Unlike what follows this throws,
  // so that a run folder that cannot be written is found at the start. `point` prefixes the fault points;
  // `warn` hears of the first failure.
  AppendLog(io::fs::path path, std::string point, Preamble preamble, Warn warn);

  // Writes the whole record or nothing: what a failed write left behind is cut off before the next one.
  // Reaches the kernel before it returns, so a killed process loses nothing. A file that somebody deleted is
  // created anew.
  void append(std::string_view record);
  // fsync, for what must survive a power failure.
  void sync();

  const io::fs::path& path() const { return path_; }

 private:
  void open();
  void write_whole(std::string_view bytes);
  bool still_there() const;
  void failed(const std::string& what);

  io::fs::path path_;
  std::string point_;
  Preamble preamble_;
  Warn warn_;
  std::optional<io::OutputFile> file_;
  ino_t inode_ = 0;
  uint64_t good_size_ = 0;  // the file up to here holds whole records
  bool torn_ = false;       // a write failed: bytes after good_size_ are worthless
  bool warned_ = false;
};

}  // namespace rookery::loop
