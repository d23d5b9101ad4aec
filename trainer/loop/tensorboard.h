// tensorboard.h: event files that TensorBoard reads: scalars, text, histograms. Protobuf messages in TFRecord
// framing. Format: https://github.com/tensorflow/tensorboard (event.proto, summary.proto); an independent
// reader stands in tests/support/tfevents_reader.h. Who decides what is written: metrics.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "trainer/loop/append_log.h"

namespace rookery::loop {

struct Scalar {
  std::string tag;
  float value;
};

// One event file. Each call is one event and reaches the kernel before it returns: nothing waits for a flush.
// After the constructor nothing throws; what cannot be written is lost with one warning (AppendLog), a
// deleted file is created anew.
class TensorBoard {
 public:
  struct Options {
    // The first step of this process, where earlier events may exist: TensorBoard then drops older events
    // with step >= it.
    std::optional<int64_t> restart_step;
    std::function<double()> clock;  // seconds since 1970; unix_now() by default
    AppendLog::Warn warn = [](const std::string&) {};
  };
  // Creates events.out.tfevents.<seconds>.<host>.<pid>.<n> in `folder` (one folder is one run), never
  // touching an older file, and with a time in its name later than theirs, since TensorBoard reads them in
  // the order of their names.
  TensorBoard(const io::fs::path& folder, Options options);
  TensorBoard(const TensorBoard&) = delete;  // the file's preamble refers to this object

  void scalars(int64_t step, std::span<const Scalar> values);
  // Shown as Markdown under `name`.
  void text(int64_t step, std::string_view name, std::string_view markdown);
  // Buckets at 0 and +-1e-12 * 1.1^k up to 1e20; non-finite values are left out.
  void histogram(int64_t step, const std::string& tag, std::span<const float> values);
  void sync() { file_->sync(); }

  const io::fs::path& path() const { return file_->path(); }

 private:
  void event(int64_t step, std::string_view summary);

  Options options_;
  std::unique_ptr<AppendLog> file_;
};

// The framing of one record: u64 length, masked CRC-32C of it, payload, masked CRC-32C of that;
// little-endian.
std::string tf_record(std::string_view payload);

}  // namespace rookery::loop
