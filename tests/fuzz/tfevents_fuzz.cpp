// tfevents_fuzz.cpp: any bytes as an event file, and as the payload of a record whose checksums are right
// (which random bytes never are).
#include <cstddef>
#include <cstdint>

#include "tests/support/tfevents_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  rookery::test::read_tfevents(bytes);
  rookery::test::TfEvent event;
  rookery::test::tf_detail::read_event(bytes, event);
  return 0;
}
