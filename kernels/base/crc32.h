// crc32.h: CRC-32 as zip archives and zlib have it. Checkpoints and data sets use CRC-32C: io.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace rookery::io {

// crc32(b, crc32(a)) is that of a then b.
uint32_t crc32(std::span<const std::byte> bytes, uint32_t seed = 0);

}  // namespace rookery::io
