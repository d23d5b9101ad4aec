// hdf5_layout.h: the constants of an HDF5 token set (docs/data.md) that its reader and its writer share.
#pragma once

#include <cstdint>

namespace rookery::data::hdf5_layout {

inline constexpr const char* kFormat = "rookery-tokens";
inline constexpr uint32_t kVersion = 1;
inline constexpr uint64_t kChecksumTokens = uint64_t{1} << 20;  // tokens under one CRC-32C

}  // namespace rookery::data::hdf5_layout
