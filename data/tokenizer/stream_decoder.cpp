// stream_decoder.cpp: see stream_decoder.h.
#include "data/tokenizer/stream_decoder.h"

#include "data/tokenizer/utf8.h"
#include "kernels/base/error.h"

namespace rookery::data {

std::string StreamDecoder::push(int32_t id) {
  try {
    held_ += tokenizer_.decode({&id, 1});
  } catch (const Error& e) {
    if (e.code() != ExitCode::kData) throw;
    return finish() + std::string(kReplacementCharacter);
  }
  return take_complete();
}

std::string StreamDecoder::finish() {
  std::string text = take_complete();
  if (!held_.empty()) text += kReplacementCharacter;
  held_.clear();
  return text;
}

std::string StreamDecoder::take_complete() {
  std::string text;
  size_t at = 0;
  while (at < held_.size()) {
    const Utf8Char c = first_utf8_char(std::string_view(held_).substr(at));
    if (c.kind == Utf8Char::Kind::kIncomplete) break;
    if (c.kind == Utf8Char::Kind::kValid) {
      text += held_.substr(at, c.length);
    } else {
      text += kReplacementCharacter;
    }
    at += c.length;
  }
  held_.erase(0, at);
  return text;
}

}  // namespace rookery::data
