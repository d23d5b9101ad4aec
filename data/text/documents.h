// documents.h: text files as documents, in constant memory: a reader cuts files into chunks of whole records,
// a parser turns a chunk into documents. Chunks are independent of each other, so many threads can parse. One
// record: json_line.h.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset/input_file.h"
#include "data/text/inputs.h"
#include "data/text/json_line.h"

namespace rookery::data {

enum class OnBad { kError, kSkip, kReplace };

struct TextOptions {
  std::string field = "text";  // of JSON Lines
  bool separated =
      false;  // plain text: a line equal to `separator` ends a document; else a file is one document
  std::string separator;                // "" is the blank line
  OnBad on_bad_record = OnBad::kError;  // kError | kSkip
  OnBad on_bad_text =
      OnBad::kError;  // invalid UTF-8, lone surrogates, raw NUL and U+FFFE: also kReplace, by U+FFFD
  uint64_t max_record_bytes = uint64_t{1} << 30;
  uint64_t chunk_bytes = uint64_t{1} << 20;
};

// A place between two records of a list of files.
struct TextPlace {
  size_t file = 0;      // index into the list
  uint64_t offset = 0;  // bytes
  uint64_t line = 0;    // lines before it
};

struct TextChunk {
  TextPlace begin, end;
  std::string bytes;
};

// Cuts files into chunks. The chunks depend on the files and options only, so a reader that starts at the end
// of a chunk goes on exactly as the one that made it.
class TextChunkReader {
 public:
  TextChunkReader(const std::vector<TextInput>& files, TextOptions options, TextPlace start);
  // False at the end of the last file. Throws kData (DATA-13) on a record above max_record_bytes, (DATA-12)
  // on a JSON array in place of JSON Lines, (DATA-04) when a file is not what the list says, and what
  // InputFile throws.
  bool next(TextChunk& chunk);

 private:
  void open();
  uint64_t records_end(std::string_view bytes) const;

  const std::vector<TextInput>& files_;
  TextOptions options_;
  TextPlace place_;
  std::unique_ptr<InputFile> file_;
};

// What was passed over, and where first.
struct TextCounts {
  static constexpr size_t kLocations = 10;
  std::array<int64_t, 8> bad{};        // by RecordFault
  int64_t empty = 0;                   // documents without any text
  int64_t replaced = 0;                // U+FFFD put in place of bad text
  std::vector<std::string> locations;  // "file:line: byte offset: what", of the first bad records

  int64_t bad_records() const;
  void add(const TextCounts& other);
};

// Calls `document` with each text of the chunk, in order; the view is valid during the call. Faults follow
// the options: an Error kData (DATA-12, DATA-14) with file:line, byte offset and excerpt, or a count.
void parse_documents(const std::vector<TextInput>& files, const TextOptions& options, const TextChunk& chunk,
                     TextCounts& counts, const std::function<void(std::string_view)>& document);

// A piece of text for a message: at most `limit` bytes, control characters and non-ASCII bytes as \xNN.
std::string excerpt(std::string_view text, size_t limit = 60);

}  // namespace rookery::data
