// tensorboard.cpp: the few protobuf messages that an event file needs, written by hand.
// Field numbers: tensorflow/core/{util/event,framework/summary,framework/tensor}.proto.
#include "trainer/loop/tensorboard.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/base/str.h"
#include "trainer/loop/human.h"

namespace rookery::loop {
namespace {

static_assert(std::endian::native == std::endian::little, "event files are little-endian");

template <class T>
std::string raw(T value) {
  std::string out(sizeof value, '\0');
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

// A protobuf message under construction. Wire types: 0 varint, 1 fixed64, 2 length-delimited, 5 fixed32.
class Message {
 public:
  Message& integer(int field, int64_t value) {
    varint(field << 3 | 0);
    varint(static_cast<uint64_t>(value));
    return *this;
  }
  Message& real(int field, double value) {
    varint(field << 3 | 1);
    bytes_ += raw(value);
    return *this;
  }
  Message& real(int field, float value) {
    varint(field << 3 | 5);
    bytes_ += raw(value);
    return *this;
  }
  Message& bytes(int field, std::string_view value) {
    varint(field << 3 | 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  Message& packed(int field, const std::vector<double>& values) {
    std::string all;
    for (double v : values) all += raw(v);
    return bytes(field, all);
  }
  const std::string& done() const { return bytes_; }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = io::crc32c(std::as_bytes(std::span(bytes.data(), bytes.size())));
  return ((crc >> 15) | (crc << 17)) +
         0xA282EAD8u;  // so that the CRC of data that holds CRCs stays meaningful
}

std::string host_name() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0 || name[0] == '\0') return "localhost";
  std::string host = name;
  std::replace(host.begin(), host.end(), '/', '_');
  return host;
}

constexpr std::string_view kPrefix = "events.out.tfevents.";

io::fs::path new_file(const io::fs::path& folder, double now) {
  auto seconds = static_cast<int64_t>(now);
  std::error_code ignored;  // a folder that cannot be listed fails when the file is created
  for (const auto& entry : io::fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(kPrefix)) continue;
    int64_t older = 0;
    const char* digits = name.c_str() + kPrefix.size();
    const auto [end, error] = std::from_chars(digits, name.c_str() + name.size(), older);
    if (error == std::errc() && end == digits + 10) seconds = std::max(seconds, older + 1);
  }
  for (int n = 0;; ++n) {
    const io::fs::path path = folder / str(kPrefix, seconds, ".", host_name(), ".", ::getpid(), ".", n);
    if (!io::fs::exists(path, ignored)) return path;
  }
}

std::vector<double> bucket_limits() {
  std::vector<double> positive;
  for (double limit = 1e-12; limit < 1e20; limit *= 1.1) positive.push_back(limit);
  positive.push_back(std::numeric_limits<double>::max());
  std::vector<double> limits;
  for (auto it = positive.rbegin(); it != positive.rend(); ++it) limits.push_back(-*it);
  limits.push_back(0);
  limits.insert(limits.end(), positive.begin(), positive.end());
  return limits;
}

std::string histogram_proto(std::span<const float> values) {
  static const std::vector<double> kLimits = bucket_limits();
  std::vector<double> counts(kLimits.size());
  double min = std::numeric_limits<double>::infinity(), max = -min, number = 0, sum = 0, sum_squares = 0;
  for (const double v : values) {
    if (!std::isfinite(v)) continue;
    min = std::min(min, v);
    max = std::max(max, v);
    ++number;
    sum += v;
    sum_squares += v * v;
    // Bucket i counts limit[i-1] < v <= limit[i].
    ++counts[std::lower_bound(kLimits.begin(), kLimits.end(), v) - kLimits.begin()];
  }
  Message proto;
  if (number == 0) return proto.real(1, 0.0).real(2, 0.0).real(3, 0.0).real(4, 0.0).real(5, 0.0).done();
  // The empty tails are dropped, but for one bucket on the left: its limit is the left edge of the picture.
  const auto used = [](double count) { return count > 0; };
  size_t first = std::find_if(counts.begin(), counts.end(), used) - counts.begin();
  const size_t last = counts.rend() - std::find_if(counts.rbegin(), counts.rend(), used);
  if (first > 0) --first;
  return proto.real(1, min)
      .real(2, max)
      .real(3, number)
      .real(4, sum)
      .real(5, sum_squares)
      .packed(6, {kLimits.begin() + first, kLimits.begin() + last})
      .packed(7, {counts.begin() + first, counts.begin() + last})
      .done();
}

}  // namespace

std::string tf_record(std::string_view payload) {
  const std::string length = raw<uint64_t>(payload.size());
  return str(length, raw(masked_crc(length)), payload, raw(masked_crc(payload)));
}

TensorBoard::TensorBoard(const io::fs::path& folder, Options options) : options_(std::move(options)) {
  if (!options_.clock) options_.clock = unix_now;
  file_ = std::make_unique<AppendLog>(
      new_file(folder, options_.clock()), "log.tensorboard",
      [this] { return tf_record(Message().real(1, options_.clock()).bytes(3, "brain.Event:2").done()); },
      options_.warn);
  if (options_.restart_step)
    file_->append(tf_record(Message()
                                .real(1, options_.clock())
                                .integer(2, *options_.restart_step)
                                .bytes(7, Message().integer(1, 1).done())  // SessionLog.status = START
                                .done()));
}

void TensorBoard::event(int64_t step, std::string_view summary) {
  file_->append(tf_record(Message().real(1, options_.clock()).integer(2, step).bytes(5, summary).done()));
}

void TensorBoard::scalars(int64_t step, std::span<const Scalar> values) {
  Message summary;
  for (const Scalar& s : values) summary.bytes(1, Message().bytes(1, s.tag).real(2, s.value).done());
  event(step, summary.done());
}

void TensorBoard::text(int64_t step, std::string_view name, std::string_view markdown) {
  constexpr int kStringType = 7;  // DT_STRING
  const std::string shape = Message().bytes(2, Message().integer(1, 1).done()).done();
  const std::string tensor = Message().integer(1, kStringType).bytes(2, shape).bytes(8, markdown).done();
  const std::string metadata = Message().bytes(1, Message().bytes(1, "text").done()).done();
  const std::string value =
      Message().bytes(1, str(name, "/text_summary")).bytes(8, tensor).bytes(9, metadata).done();
  event(step, Message().bytes(1, value).done());
}

void TensorBoard::histogram(int64_t step, const std::string& tag, std::span<const float> values) {
  const std::string value = Message().bytes(1, tag).bytes(5, histogram_proto(values)).done();
  event(step, Message().bytes(1, value).done());
}

}  // namespace rookery::loop
