// bpe_case.h: what must hold for any bytes given as a tokenizer.json; used by the libFuzzer target and by the
// test with fixed mutations.
#pragma once

#include <string_view>

#include "data/tokenizer/bpe_tokenizer.h"
#include "kernels/base/error.h"

namespace rookery::data {

// True if `file` is a tokenizer.json of byte-level BPE, false if it is refused with a data error. Anything
// else is a bug: it throws or crashes.
inline bool tokenizer_json_case(std::string_view file) {
  try {
    const BpeTokenizer tokenizer(file, "fuzz");
    RK_CHECK(!tokenizer.token(tokenizer.vocab_size() - 1).empty(), "the last id has no token");
    RK_CHECK(!tokenizer.token(tokenizer.eot_id()).empty(), "the end of text has no token");
    for (const std::string_view text :
         {file.substr(0, 4096), std::string_view(" it's  123\r\n \u4f60e\u0301\xFF<|endoftext|>hi")}) {
      RK_CHECK(tokenizer.decode(tokenizer.encode(text)) == tokenizer.normalise(text),
               "a text does not come back");
      tokenizer.decode(tokenizer.encode_prompt(text));
    }
    return true;
  } catch (const Error& e) {
    if (e.code() != ExitCode::kData || !std::string_view(e.what()).starts_with("fuzz:")) throw;
    return false;
  }
}

}  // namespace rookery::data
