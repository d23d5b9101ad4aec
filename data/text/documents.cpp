// documents.cpp: chunks end behind a line (JSON Lines), a separator line or the file (plain text).
#include "data/text/documents.h"

#include <algorithm>
#include <numeric>

#include "kernels/base/error.h"

namespace rookery::data {

namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::string_view kBlank = " \t\r\n";

// Calls visit(line, next): the line without its end (LF or CRLF), and the offset behind it.
template <class Visit>
void for_each_line(std::string_view bytes, Visit visit) {
  for (size_t begin = 0; begin < bytes.size();) {
    const size_t newline = bytes.find('\n', begin);
    const size_t next = newline == std::string_view::npos ? bytes.size() : newline + 1;
    std::string_view line = bytes.substr(begin, (newline == std::string_view::npos ? next : newline) - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    visit(line, next);
    begin = next;
  }
}

uint64_t count_lines(std::string_view bytes) {
  return static_cast<uint64_t>(std::count(bytes.begin(), bytes.end(), '\n'));
}

}  // namespace

std::string excerpt(std::string_view text, size_t limit) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (char c : text.substr(0, limit)) {
    if (c >= 32 && c < 127) {
      out += c;
    } else {
      out += "\\x";
      out += kDigits[static_cast<uint8_t>(c) >> 4];
      out += kDigits[static_cast<uint8_t>(c) & 15];
    }
  }
  return text.size() > limit ? out + "..." : out;
}

TextChunkReader::TextChunkReader(const std::vector<TextInput>& files, TextOptions options, TextPlace start)
    : files_(files), options_(std::move(options)), place_(start) {}

void TextChunkReader::open() {
  const TextInput& input = files_[place_.file];
  file_ = std::make_unique<InputFile>(input.path);
  if (file_->size() != input.size || file_->mtime_ns() != input.mtime_ns)
    fail(ExitCode::kData, "DATA-04", input.path.native(), ": was changed while in use: ", input.size,
         " bytes before, ", file_->size(), " now");
  if (place_.offset != 0) return;
  std::array<char, 4096> buffer;
  std::string_view head(buffer.data(), std::min<uint64_t>(buffer.size(), file_->size()));
  file_->read_at(0, std::as_writable_bytes(std::span(buffer)).first(head.size()));
  if (head.starts_with(kByteOrderMark)) place_.offset = kByteOrderMark.size();
  head.remove_prefix(place_.offset);
  const size_t first = head.find_first_not_of(kBlank);
  if (input.kind == TextKind::kJsonLines && first != std::string_view::npos && head[first] == '[')
    fail(ExitCode::kData, "DATA-12", input.path.native(), ":1: byte ", place_.offset + first,
         ": a JSON array begins here, expected one object per line: convert it, e.g. with `jq -c '.[]'`");
}

// The end of the last whole record in `bytes`; 0 if there is none.
uint64_t TextChunkReader::records_end(std::string_view bytes) const {
  if (files_[place_.file].kind == TextKind::kJsonLines) return bytes.rfind('\n') + 1;  // npos + 1 = 0
  uint64_t end = 0;
  if (!options_.separated || !bytes.ends_with('\n')) bytes = bytes.substr(0, bytes.rfind('\n') + 1);
  if (options_.separated)
    for_each_line(bytes, [&](std::string_view line, size_t next) {
      if (line == options_.separator) end = next;
    });
  return end;
}

bool TextChunkReader::next(TextChunk& chunk) {
  while (true) {
    if (place_.file == files_.size()) return false;
    if (!file_) open();
    if (place_.offset < file_->size()) break;
    file_.reset();
    place_ = {place_.file + 1, 0, 0};
  }
  const TextInput& input = files_[place_.file];
  const uint64_t rest = file_->size() - place_.offset;
  uint64_t want = std::min(options_.chunk_bytes, rest), end = 0;
  chunk.bytes.clear();
  while (true) {
    const size_t have = chunk.bytes.size();
    chunk.bytes.resize(want);
    file_->read_at(place_.offset + have, std::as_writable_bytes(std::span(chunk.bytes)).subspan(have));
    end = want == rest ? want : records_end(chunk.bytes);
    if (end != 0) break;
    if (want > options_.max_record_bytes)
      fail(ExitCode::kData, "DATA-13", input.path.native(), ":", place_.line + 1, ": byte ", place_.offset,
           ": a record of more than ", options_.max_record_bytes, " bytes begins here",
           input.kind == TextKind::kJsonLines ? ", expected one object per line"
           : options_.separated               ? ", expected separator lines in between"
                                              : ": use --separator to cut a file into documents",
           "; raise --max-record-bytes if it is meant");
    want = std::min({rest, want * 2, options_.max_record_bytes + 1});
  }
  chunk.bytes.resize(end);
  chunk.begin = place_;
  place_.offset += end;
  place_.line += count_lines(chunk.bytes);
  chunk.end = place_;
  return true;
}

int64_t TextCounts::bad_records() const { return std::accumulate(bad.begin(), bad.end(), int64_t{0}); }

void TextCounts::add(const TextCounts& other) {
  for (size_t i = 0; i < bad.size(); ++i) bad[i] += other.bad[i];
  empty += other.empty;
  replaced += other.replaced;
  for (size_t i = 0; i < other.locations.size() && locations.size() < kLocations; ++i)
    locations.push_back(other.locations[i]);
}

namespace {

// One chunk being parsed.
class Parser {
 public:
  Parser(const TextInput& input, const TextOptions& options, const TextChunk& chunk, TextCounts& counts,
         const std::function<void(std::string_view)>& document)
      : input_(input), options_(options), chunk_(chunk), counts_(counts), document_(document) {}

  void json_lines() {
    std::string text;
    for_each_line(chunk_.bytes, [&](std::string_view line, size_t) {
      if (line.find_first_not_of(kBlank) == std::string_view::npos) return;
      const char* record = line.data();
      check_size(line);
      std::string mended;
      if (const size_t at = find_bad_text(line); at != std::string_view::npos) {
        if (options_.on_bad_text != OnBad::kReplace) return bad(RecordFault::kBadText, line, record, at);
        mended = replace_bad_text(line, counts_.replaced);
        line = mended;
      }
      const JsonText found = json_text(line, options_.field, options_.on_bad_text == OnBad::kReplace, text);
      if (found.fault != RecordFault::kNone) return bad(found.fault, line, record, found.offset);
      counts_.replaced += found.replaced;
      give(text);
    });
  }

  void plain() {
    if (!options_.separated) return plain_document(chunk_.bytes);
    size_t begin = 0, previous = 0;
    const std::string_view bytes = chunk_.bytes;
    for_each_line(bytes, [&](std::string_view line, size_t next) {
      if (line == options_.separator) {
        plain_document(bytes.substr(begin, previous - begin));
        begin = next;
      }
      previous = next;
    });
    if (begin < bytes.size()) plain_document(bytes.substr(begin));
  }

 private:
  // Blank lines alone are no text, as between JSON lines; text is taken as it is, blank lines included.
  void plain_document(std::string_view text) {
    check_size(text);
    if (text.find_first_not_of(kBlank) == std::string_view::npos) return give("");
    const size_t at = find_bad_text(text);
    if (at == std::string_view::npos) return give(text);
    if (options_.on_bad_text == OnBad::kReplace) return give(replace_bad_text(text, counts_.replaced));
    const size_t line = at == 0 ? 0 : text.rfind('\n', at - 1) + 1;  // npos + 1 = 0
    bad(RecordFault::kBadText, text.substr(line), text.data() + line, at - line);
  }

  void give(std::string_view text) {
    if (text.empty())
      ++counts_.empty;
    else
      document_(text);
  }

  // The reader bounds what it must hold; this bounds each record, wherever a chunk happened to end.
  void check_size(std::string_view record) const {
    if (record.size() > options_.max_record_bytes)
      fail(ExitCode::kData, "DATA-13", place(record.data(), 0), "a record of ", record.size(),
           " bytes, expected at most ", options_.max_record_bytes,
           "; raise --max-record-bytes if it is meant");
  }

  // "file:line: byte offset: " for the byte `at` of the line that begins at `line` in the chunk.
  std::string place(const char* line, size_t at) const {
    const size_t begin = static_cast<size_t>(line - chunk_.bytes.data());
    const uint64_t number =
        chunk_.begin.line + count_lines(std::string_view(chunk_.bytes).substr(0, begin)) + 1;
    return str(excerpt(input_.path.native(), 4096), ":", number, ": byte ", chunk_.begin.offset + begin + at,
               ": ");
  }

  // `line` is what was parsed: the bytes of the chunk at `begin`, mended perhaps.
  void bad(RecordFault fault, std::string_view line, const char* begin, size_t at) {
    const bool text_fault = fault == RecordFault::kBadText;
    const bool names_field = fault == RecordFault::kMissingField || fault == RecordFault::kNotText ||
                             fault == RecordFault::kDuplicateField;
    auto what = [&] {
      return str(place(begin, at), to_string(fault),
                 names_field ? str(" '", options_.field, "'") : std::string(), ": \"",
                 excerpt(line.substr(at > 20 ? at - 20 : 0)), "\"");
    };
    if ((text_fault ? options_.on_bad_text : options_.on_bad_record) == OnBad::kError)
      fail(ExitCode::kData, text_fault ? "DATA-14" : "DATA-12", what(),
           text_fault
               ? ", expected UTF-8 text without NUL bytes: mend it, or use --on-bad-text skip or replace"
               : str(", expected an object with a text field '", options_.field,
                     "': mend it, name the --field, or use --on-bad-record skip"));
    ++counts_.bad[static_cast<size_t>(fault)];
    if (counts_.locations.size() < TextCounts::kLocations) counts_.locations.push_back(what());
  }

  const TextInput& input_;
  const TextOptions& options_;
  const TextChunk& chunk_;
  TextCounts& counts_;
  const std::function<void(std::string_view)>& document_;
};

}  // namespace

void parse_documents(const std::vector<TextInput>& files, const TextOptions& options, const TextChunk& chunk,
                     TextCounts& counts, const std::function<void(std::string_view)>& document) {
  const TextInput& input = files[chunk.begin.file];
  Parser parser(input, options, chunk, counts, document);
  if (input.kind == TextKind::kJsonLines)
    parser.json_lines();
  else
    parser.plain();
}

}  // namespace rookery::data
