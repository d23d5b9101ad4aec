// stream_decoder.h: tokens to text as they come, for a terminal or a chat. Tokens may end inside a character;
// such bytes are held back until the character is complete, so every piece given out is valid UTF-8.
#pragma once

#include <string>

#include "data/tokenizer/tokenizer.h"

namespace rookery::data {

class StreamDecoder {
 public:
  // `tokenizer` must outlive the decoder.
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // The text that is complete after one more token; may be empty. Bytes that are not UTF-8, and ids that are
  // not in the vocabulary (a model may have more rows than it has tokens), come out as U+FFFD.
  std::string push(int32_t id);
  // What was held back, as U+FFFD; the decoder is then as new.
  std::string finish();

 private:
  std::string take_complete();

  const Tokenizer& tokenizer_;
  std::string held_;  // at most 3 bytes between calls
};

}  // namespace rookery::data
