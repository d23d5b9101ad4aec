// jsonl_fuzz.cpp: libFuzzer target for lines of JSON (cmake -DROOKERY_FUZZ=ON with clang++): whatever the
// bytes, no crash, and what is taken as sound is sound to another parser, with the same text.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "data/text/json_line.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rookery::data;
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  int64_t replaced = 0;
  const std::string mended = replace_bad_text(line, replaced);
  if (find_bad_text(mended) != std::string_view::npos) std::abort();
  std::string text;
  const JsonText ours = json_text(mended, "text", false, text);
  if (ours.fault != RecordFault::kNone) return 0;
  const auto theirs = nlohmann::json::parse(mended, nullptr, false);
  // A lone surrogate in a part that is not read, or a number beyond double's range, is no fault for us.
  if (theirs.is_discarded()) return 0;
  if (!theirs.is_object() || !theirs.contains("text") || theirs["text"] != text) std::abort();
  return 0;
}
