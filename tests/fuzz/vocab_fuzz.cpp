// vocab_fuzz.cpp: libFuzzer target for the vocabulary reader (cmake -DROOKERY_FUZZ=ON with clang++).
// What is checked: vocab_case.h.
#include "tests/fuzz/vocab_case.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  rookery::data::vocabulary_case({reinterpret_cast<const char*>(data), size});
  return 0;
}
