// hdf5_set.cpp: the reader of HDF5 token sets.
#include "data/dataset/token_set.h"
#include "kernels/base/error.h"

namespace rookery::data {

std::unique_ptr<TokenSet> open_hdf5_set(const fs::path& path, const fs::path&) {
  fail(ExitCode::kData, "DATA-18", path.native(),
       ": HDF5 token sets cannot be read by this build, expected a .bin/.idx pair");
}

}  // namespace rookery::data
