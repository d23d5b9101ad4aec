// torch_fuzz.cpp: libFuzzer target for .pth files: any bytes as the archive, and any bytes as the pickle
// inside a sound one (whose checksums and offsets random changes would break first).
#include "tests/fuzz/weights_case.h"
#include "trainer/checkpoint/foreign/pickle.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rookery;
  static const std::string path = foreign::fuzz_path("file.pth");
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  foreign::weights_case(path, bytes);
  try {
    foreign::unpickle(bytes, "fuzz");
  } catch (const Error& e) {
    if (e.code() != ExitCode::kData) std::abort();
  }
  return 0;
}
