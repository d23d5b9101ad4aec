// vocab_case.h: what must hold for any bytes given as a vocabulary file; used by the libFuzzer target and by
// the test with fixed mutations.
#pragma once

#include <string_view>

#include "data/tokenizer/stream_decoder.h"
#include "data/tokenizer/utf8.h"
#include "data/tokenizer/vocab_tokenizer.h"
#include "kernels/base/error.h"

namespace rookery::data {

// True if `file` is a vocabulary, false if it is refused with a data error. Anything else is a bug: it throws
// or crashes.
inline bool vocabulary_case(std::string_view file) {
  try {
    const auto entries = parse_vocabulary(file, "fuzz");
    const std::string canonical = format_vocabulary(entries);
    RK_CHECK(format_vocabulary(parse_vocabulary(canonical, "canonical")) == canonical,
             "writing and reading differ");
    const VocabTokenizer tokenizer(canonical, "canonical");
    for (const VocabEntry& e : entries) {
      RK_CHECK(tokenizer.token(e.id) == e.bytes, "id ", e.id, " lost its bytes");
      RK_CHECK(tokenizer.encode(e.bytes) == std::vector<int32_t>{e.id}, "token ", e.id,
               " does not encode to itself");
    }
    StreamDecoder decoder(tokenizer);
    std::string streamed;
    for (int32_t id = -1; id <= tokenizer.vocab_size(); ++id) streamed += decoder.push(id);
    streamed += decoder.finish();
    RK_CHECK(find_invalid_utf8(streamed) == std::string_view::npos,
             "the streaming decoder gave invalid UTF-8");
    if (tokenizer.missing_bytes().empty()) {
      RK_CHECK(tokenizer.decode(tokenizer.encode(file)) == file, "a text does not come back");
    }
    return true;
  } catch (const Error& e) {
    if (e.code() != ExitCode::kData || !std::string_view(e.what()).starts_with("fuzz:")) throw;
    return false;
  }
}

}  // namespace rookery::data
