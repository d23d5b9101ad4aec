// text_sample.cpp: takes every n-th stretch of the files. Plain text is cut at line ends, JSON Lines at
// records.
#include "data/tokenizer/text_sample.h"

#include <algorithm>
#include <span>

#include "data/tokenizer/utf8.h"
#include "kernels/base/error.h"

namespace rookery::data {
namespace {

constexpr uint64_t kStretch = uint64_t{16} << 10;

// Which stretches to take, so that `wanted` of `total` bytes come at even distances (Bresenham's line).
class Chooser {
 public:
  Chooser(uint64_t total, uint64_t wanted)
      : total_(static_cast<double>(total)), share_(std::min(1.0, static_cast<double>(wanted) / total_)) {}

  bool takes_all() const { return share_ == 1.0; }
  // `size` more bytes come by: are they taken?
  bool take(uint64_t size) {
    due_ += share_ * static_cast<double>(size);
    if (!takes_all() && taken_ >= due_) return false;
    taken_ += static_cast<double>(size);
    return true;
  }

 private:
  double total_, share_, due_ = 0, taken_ = 0;
};

void append_document(std::string& out, std::string_view text) {
  out += text;
  if (!out.ends_with('\n')) out += '\n';
}

// Without the piece of a line, or of a character, at either end.
std::string_view whole_lines(std::string_view text, bool from_start, bool to_end) {
  if (!from_start) {
    const size_t line = text.find('\n');
    text.remove_prefix(line == std::string_view::npos ? 0 : line + 1);
    while (!text.empty() && (text[0] & 0xC0) == 0x80) text.remove_prefix(1);
  }
  if (!to_end) {
    const size_t line = text.rfind('\n');
    if (line != std::string_view::npos) return text.substr(0, line + 1);
    size_t last = text.size();  // the last character's first byte
    while (last > 0 && text.size() - last < 4 && (last == text.size() || (text[last] & 0xC0) == 0x80)) --last;
    const bool cut =
        last < text.size() && first_utf8_char(text.substr(last)).kind == Utf8Char::Kind::kIncomplete;
    if (cut) return text.substr(0, last);
  }
  return text;
}

void sample_plain(const TextInput& input, const TextOptions& options, Chooser& chooser, std::string& out) {
  const InputFile file(input.path);
  const uint64_t stretch = chooser.takes_all() ? std::max<uint64_t>(1, file.size()) : kStretch;
  for (uint64_t begin = 0; begin < file.size(); begin += stretch) {
    const uint64_t end = std::min(file.size(), begin + stretch);
    if (!chooser.take(end - begin)) continue;
    std::string raw(end - begin, '\0');
    file.read_at(begin, std::as_writable_bytes(std::span(raw)));
    std::string_view text = whole_lines(raw, begin == 0, end == file.size());
    if (begin == 0 && text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
    if (const size_t bad = find_invalid_utf8(text);
        bad != std::string_view::npos && options.on_bad_text == OnBad::kError) {
      fail(ExitCode::kData, "DATA-14", input.path.string(), ": byte ",
           begin + static_cast<uint64_t>(text.data() + bad - raw.data()),
           " is not valid UTF-8. Convert the file to UTF-8, or have such bytes passed over");
    }
    append_document(out, text);
  }
}

void sample_json_lines(const TextInput& input, const TextOptions& given, Chooser& chooser, std::string& out) {
  TextOptions options = given;
  const std::vector<TextInput> files{input};
  options.chunk_bytes = kStretch;
  TextChunkReader reader(files, options, {});
  TextChunk chunk;
  TextCounts counts;
  while (reader.next(chunk)) {
    if (!chooser.take(chunk.bytes.size())) continue;
    parse_documents(files, options, chunk, counts,
                    [&](std::string_view text) { append_document(out, text); });
  }
}

}  // namespace

LanguageSample sample_language(std::string name, const std::vector<TextInput>& files,
                               const TextOptions& options, int64_t bytes) {
  uint64_t total = 0;
  for (const TextInput& input : files) total += input.size;
  Chooser chooser(total, static_cast<uint64_t>(bytes));
  LanguageSample sample{std::move(name), {}};
  for (const TextInput& input : files) {
    (input.kind == TextKind::kPlain ? sample_plain : sample_json_lines)(input, options, chooser, sample.text);
  }
  if (sample.text.find_first_not_of(" \r\n\t") == std::string::npos) {
    fail(ExitCode::kData, "VOCAB-10", "language ", sample.name, ": no text in ", files.size(),
         " file(s). Give files that hold text");
  }
  return sample;
}

}  // namespace rookery::data
