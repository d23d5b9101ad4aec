// weights_case.h: what must hold for any bytes given as a file of weights; used by the libFuzzer targets and
// by the test with fixed mutations.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/error.h"
#include "trainer/checkpoint/foreign/tensor_file.h"

namespace rookery::foreign {

// True if the file is read, false if it is refused with a data error. Anything else is a bug: another error,
// a crash, a tensor that is larger than the file allows.
inline bool weights_case(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
  try {
    const auto file = open_tensor_file(path);
    std::vector<std::byte> content;
    for (size_t i = 0; i < file->tensors().size(); ++i) {
      const TensorInfo& t = file->tensors()[i];
      RK_CHECK(t.bytes() <= bytes.size() + (1u << 16), "tensor ", t.name, " of ", t.bytes(), " bytes");
      content.resize(t.bytes());
      file->read(i, 0, content);
      if (content.size() < 2 * size_of(t.type)) continue;
      std::vector<std::byte> last(size_of(t.type));  // by another way to the same bytes
      file->read(i, content.size() - last.size(), last);
      RK_CHECK(std::equal(last.begin(), last.end(), content.end() - long(last.size())), "tensor ", t.name,
               " differs from itself");
    }
    try {
      file->verify();
    } catch (const Error& e) {
      if (e.code() != ExitCode::kData) throw;
    }
    return true;
  } catch (const Error& e) {
    if (e.code() != ExitCode::kData) throw;
    return false;
  }
}

// A file of this process's own, in memory where there is such a place.
inline std::string fuzz_path(const std::string& name) {
  std::string folder =
      ::access("/dev/shm", W_OK) == 0 ? "/dev/shm/rookery-fuzz-XXXXXX" : "/tmp/rookery-fuzz-XXXXXX";
  if (!::mkdtemp(folder.data())) std::abort();
  return folder + "/" + name;
}

}  // namespace rookery::foreign
