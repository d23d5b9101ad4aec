// idx_fuzz.cpp: libFuzzer target for .idx files (cmake -DROOKERY_FUZZ=ON with clang++): whatever the bytes, a
// set is refused with kData or can be read through. The .bin beside it holds 16 tokens.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "data/dataset/token_set.h"
#include "kernels/base/error.h"

namespace {

std::string make_folder() {
  std::string folder = "/tmp/rookery-idx-fuzz-XXXXXX";
  if (!::mkdtemp(folder.data())) std::abort();
  return folder;
}

void write(const std::string& path, const void* data, size_t size) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (!file || std::fwrite(data, 1, size, file) != size || std::fclose(file) != 0) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string prefix = make_folder() + "/set";
  const uint16_t tokens[16] = {1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0};
  write(prefix + ".bin", tokens, sizeof tokens);
  write(prefix + ".idx", data, size);
  for (auto view : {rookery::data::TokenView::kDocuments, rookery::data::TokenView::kFlat}) {
    try {
      auto set = rookery::data::open_token_set(prefix, view);
      for (int64_t k = 0; k < set->num_docs(); ++k) set->read_doc(k);
      for (int64_t i = 0; i < set->num_tokens(); ++i) set->doc_at(i);
    } catch (const rookery::Error& e) {
      if (e.code() != rookery::ExitCode::kData) std::abort();
    }
  }
  return 0;
}
