// tfevents_reader.h: reads TensorBoard event files for the tests. Shares no code with the writer: its own CRC
// table, its own protobuf walk. Takes any bytes without crashing (tests/fuzz/tfevents_fuzz.cpp).
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rookery::test {

struct TfHistogram {
  double min = 0, max = 0, num = 0, sum = 0, sum_squares = 0;
  std::vector<double> limits, counts;
};

struct TfValue {
  std::string tag;
  std::optional<float> scalar;
  std::optional<TfHistogram> histogram;
  std::string plugin;        // "text" for texts
  uint64_t tensor_type = 0;  // 7: string
  std::vector<uint64_t> shape;
  std::vector<std::string> strings;
};

struct TfEvent {
  double wall_time = 0;
  int64_t step = 0;
  std::string file_version;
  std::optional<uint64_t> session_status;  // 1: start
  std::vector<TfValue> values;
};

struct TfFile {
  std::vector<TfEvent> events;
  bool cut = false;   // ends inside a record, which readers accept
  std::string error;  // empty, or why reading stopped before the end
};

namespace tf_detail {

inline uint32_t crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c & 1) ? (c >> 1) ^ 0x82F63B78u : c >> 1;
      table[i] = c;
    }
    return table;
  }();
  uint32_t crc = ~0u;
  for (char b : bytes) crc = kTable[(crc ^ static_cast<unsigned char>(b)) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

inline uint32_t unmask(uint32_t masked) { return std::rotl(masked - 0xA282EAD8u, 15); }

template <class T>
T little(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

struct Field {
  uint64_t number = 0, type = 0, integer = 0;
  std::string_view bytes;  // of types 1, 2 and 5
};

// Walks the fields of a message; `ok` turns false on bytes that are not one.
class Fields {
 public:
  explicit Fields(std::string_view message) : rest_(message) {}
  bool ok = true;

  std::optional<Field> next() {
    if (!ok || rest_.empty()) return std::nullopt;
    Field f;
    const uint64_t key = varint();
    f.number = key >> 3;
    f.type = key & 7;
    if (f.number == 0) ok = false;
    if (f.type == 0) {
      f.integer = varint();
    } else if (f.type == 1) {
      f.bytes = take(8);
    } else if (f.type == 5) {
      f.bytes = take(4);
    } else if (f.type == 2) {
      f.bytes = take(varint());
    } else {
      ok = false;
    }
    if (!ok) return std::nullopt;
    return f;
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) break;
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      value |= uint64_t(byte & 0x7F) << shift;
      if (!(byte & 0x80)) return value;
    }
    ok = false;
    return 0;
  }
  std::string_view take(uint64_t size) {
    if (size > rest_.size()) {
      ok = false;
      return {};
    }
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }
  std::string_view rest_;
};

inline bool doubles(std::string_view bytes, std::vector<double>& out) {
  for (; bytes.size() >= 8; bytes.remove_prefix(8)) out.push_back(little<double>(bytes));
  return bytes.empty();
}

inline bool read_histogram(std::string_view message, TfHistogram& h) {
  Fields fields(message);
  while (auto f = fields.next()) {
    double* const member[] = {nullptr, &h.min, &h.max, &h.num, &h.sum, &h.sum_squares};
    if (f->type == 1 && f->number >= 1 && f->number <= 5) *member[f->number] = little<double>(f->bytes);
    if (f->type == 2 && f->number == 6 && !doubles(f->bytes, h.limits)) return false;
    if (f->type == 2 && f->number == 7 && !doubles(f->bytes, h.counts)) return false;
  }
  return fields.ok;
}

inline bool read_tensor(std::string_view message, TfValue& value) {
  Fields fields(message);
  while (auto f = fields.next()) {
    if (f->type == 0 && f->number == 1) value.tensor_type = f->integer;
    if (f->type == 2 && f->number == 8) value.strings.emplace_back(f->bytes);
    if (f->type != 2 || f->number != 2) continue;
    Fields shape(f->bytes);
    while (auto dim = shape.next()) {
      Fields inside(dim->bytes);
      while (auto size = inside.next())
        if (size->number == 1 && size->type == 0) value.shape.push_back(size->integer);
      if (!inside.ok) return false;
    }
    if (!shape.ok) return false;
  }
  return fields.ok;
}

inline bool read_metadata(std::string_view message, TfValue& value) {
  Fields fields(message);
  while (auto f = fields.next()) {
    if (f->type != 2 || f->number != 1) continue;
    Fields plugin(f->bytes);
    while (auto p = plugin.next())
      if (p->type == 2 && p->number == 1) value.plugin = p->bytes;
    if (!plugin.ok) return false;
  }
  return fields.ok;
}

inline bool read_value(std::string_view message, TfValue& value) {
  Fields fields(message);
  while (auto f = fields.next()) {
    if (f->type == 5 && f->number == 2) value.scalar = little<float>(f->bytes);
    if (f->type != 2) continue;
    if (f->number == 1) value.tag = f->bytes;
    if (f->number == 5 && !read_histogram(f->bytes, value.histogram.emplace())) return false;
    if (f->number == 8 && !read_tensor(f->bytes, value)) return false;
    if (f->number == 9 && !read_metadata(f->bytes, value)) return false;
  }
  return fields.ok;
}

inline bool read_event(std::string_view message, TfEvent& event) {
  Fields fields(message);
  while (auto f = fields.next()) {
    if (f->type == 1 && f->number == 1) event.wall_time = little<double>(f->bytes);
    if (f->type == 0 && f->number == 2) event.step = static_cast<int64_t>(f->integer);
    if (f->type == 2 && f->number == 3) event.file_version = f->bytes;
    if (f->type == 2 && f->number == 5) {
      Fields summary(f->bytes);
      while (auto v = summary.next())
        if (v->type == 2 && v->number == 1 && !read_value(v->bytes, event.values.emplace_back()))
          return false;
      if (!summary.ok) return false;
    }
    if (f->type == 2 && f->number == 7) {
      Fields session(f->bytes);
      while (auto s = session.next())
        if (s->type == 0 && s->number == 1) event.session_status = s->integer;
      if (!session.ok) return false;
    }
  }
  return fields.ok;
}

}  // namespace tf_detail

inline TfFile read_tfevents(std::string_view bytes) {
  TfFile file;
  while (!bytes.empty()) {
    constexpr size_t kHead = 12, kTail = 4;
    if (bytes.size() < kHead) {
      file.cut = true;
      return file;
    }
    const auto length = tf_detail::little<uint64_t>(bytes);
    if (tf_detail::crc32c(bytes.substr(0, 8)) !=
        tf_detail::unmask(tf_detail::little<uint32_t>(bytes.substr(8)))) {
      file.error = "checksum of a record's length";
      return file;
    }
    bytes.remove_prefix(kHead);
    if (bytes.size() < kTail || length > bytes.size() - kTail) {
      file.cut = true;
      return file;
    }
    const std::string_view payload = bytes.substr(0, length);
    if (tf_detail::crc32c(payload) != tf_detail::unmask(tf_detail::little<uint32_t>(bytes.substr(length)))) {
      file.error = "checksum of a record";
      return file;
    }
    bytes.remove_prefix(length + kTail);
    if (!tf_detail::read_event(payload, file.events.emplace_back())) {
      file.error = "not an event";
      return file;
    }
  }
  return file;
}

inline TfFile read_tfevents_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return read_tfevents(std::string(std::istreambuf_iterator<char>(in), {}));
}

}  // namespace rookery::test
