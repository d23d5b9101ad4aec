// safetensors_fuzz.cpp: libFuzzer target for safetensors: any bytes as the file, and as the header of one
// that gives its length right.
#include <cstring>

#include "tests/fuzz/weights_case.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rookery;
  static const std::string path = foreign::fuzz_path("file.safetensors");
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  foreign::weights_case(path, bytes);
  const uint64_t length = size;
  std::string file(reinterpret_cast<const char*>(&length), 8);
  foreign::weights_case(path, file.append(bytes).append(64, '\1'));
  return 0;
}
