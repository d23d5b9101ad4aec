// bpe_fuzz.cpp: libFuzzer target for the reader of tokenizer.json (cmake -DROOKERY_FUZZ=ON with clang++).
// What is checked: bpe_case.h.
#include "tests/fuzz/bpe_case.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  rookery::data::tokenizer_json_case({reinterpret_cast<const char*>(data), size});
  return 0;
}
