// checksum.cpp: CRC-32C (by the SSE4.2 instruction where there is one, else by tables), CRC-32 and SHA-256
// (FIPS 180-4). Declared in io.h and crc32.h.
#include <array>
#include <bit>
#include <cstring>

#include "kernels/base/crc32.h"
#include "kernels/base/io.h"
#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace rookery::io {
namespace {

// The polynomials, bits reversed: CRC-32C, and the CRC-32 of zip and zlib.
constexpr uint32_t kCastagnoli = 0x82f63b78, kZip = 0xedb88320;

// tables[k][b]: what byte b contributes to the remainder when k more bytes follow it.
using CrcTables = std::array<std::array<uint32_t, 256>, 8>;
constexpr CrcTables crc_tables(uint32_t polynomial) {
  CrcTables t{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t r = b;
    for (int i = 0; i < 8; ++i) r = (r >> 1) ^ (r & 1 ? polynomial : 0);
    t[0][b] = r;
  }
  for (uint32_t b = 0; b < 256; ++b)
    for (size_t k = 1; k < 8; ++k) t[k][b] = (t[k - 1][b] >> 8) ^ t[0][t[k - 1][b] & 255];
  return t;
}
constexpr CrcTables kCastagnoliTables = crc_tables(kCastagnoli), kZipTables = crc_tables(kZip);

// Slicing by 8: eight table look-ups replace eight dependent steps.
uint32_t crc_by_tables(const CrcTables& tables, std::span<const std::byte> bytes, uint32_t seed) {
  uint32_t r = ~seed;
  while (bytes.size() >= 8) {
    uint32_t next = 0;
    for (size_t k = 0; k < 8; ++k) {
      const uint32_t b = uint32_t(bytes[k]) ^ (k < 4 ? (r >> (8 * k)) & 255 : 0);
      next ^= tables[7 - k][b];
    }
    r = next;
    bytes = bytes.subspan(8);
  }
  for (const std::byte b : bytes) r = (r >> 8) ^ tables[0][(r ^ uint32_t(b)) & 255];
  return ~r;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t crc32c_sse42(std::span<const std::byte> bytes, uint32_t seed) {
  uint64_t r = ~seed;
  while (bytes.size() >= 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data(), 8);
    r = _mm_crc32_u64(r, word);
    bytes = bytes.subspan(8);
  }
  auto r32 = uint32_t(r);
  for (const std::byte b : bytes) r32 = _mm_crc32_u8(r32, uint8_t(b));
  return ~r32;
}
#endif

constexpr std::array<uint32_t, 64> kRound = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

class Sha256 {
 public:
  void add(std::span<const std::byte> bytes) {
    length_ += bytes.size();
    while (!bytes.empty()) {
      const size_t n = std::min(bytes.size(), block_.size() - filled_);
      std::memcpy(block_.data() + filled_, bytes.data(), n);
      filled_ += n;
      bytes = bytes.subspan(n);
      if (filled_ == block_.size()) compress();
    }
  }

  std::string finish() {
    const uint64_t bits = length_ * 8;
    const std::byte one{0x80}, zero{0};
    add({&one, 1});
    while (filled_ != 56) add({&zero, 1});
    for (int i = 7; i >= 0; --i) {
      const auto b = std::byte(bits >> (8 * i));
      add({&b, 1});
    }
    std::string hex;
    for (const uint32_t word : h_)
      for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[(word >> shift) & 15];
    return hex;
  }

 private:
  void compress() {
    std::array<uint32_t, 64> w;
    for (size_t i = 0; i < 16; ++i)
      w[i] = uint32_t(block_[4 * i]) << 24 | uint32_t(block_[4 * i + 1]) << 16 |
             uint32_t(block_[4 * i + 2]) << 8 | uint32_t(block_[4 * i + 3]);
    for (size_t i = 16; i < 64; ++i) {
      const uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
      const uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = h_;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      const uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kRound[i] + w[i];
      const uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      const uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const std::array<uint32_t, 8> sum = {a, b, c, d, e, f, g, h};
    for (size_t i = 0; i < 8; ++i) h_[i] += sum[i];
    filled_ = 0;
  }

  std::array<uint32_t, 8> h_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> block_;
  size_t filled_ = 0;
  uint64_t length_ = 0;
};

}  // namespace

uint32_t crc32c_portable(std::span<const std::byte> bytes, uint32_t seed) {
  return crc_by_tables(kCastagnoliTables, bytes, seed);
}

uint32_t crc32(std::span<const std::byte> bytes, uint32_t seed) {
  return crc_by_tables(kZipTables, bytes, seed);
}

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t seed) {
#if defined(__x86_64__)
  static const bool has_instruction = __builtin_cpu_supports("sse4.2");
  if (has_instruction) return crc32c_sse42(bytes, seed);
#endif
  return crc32c_portable(bytes, seed);
}

std::string sha256(std::string_view bytes) {
  Sha256 hash;
  hash.add(std::as_bytes(std::span(bytes.data(), bytes.size())));
  return hash.finish();
}

std::string sha256_file(const fs::path& path) {
  const MappedFile file(path);
  Sha256 hash;
  hash.add(file.bytes());
  return hash.finish();
}

}  // namespace rookery::io
