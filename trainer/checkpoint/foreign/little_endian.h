// little_endian.h: numbers out of and into bytes, for the file formats of this folder.
#pragma once

#include <bit>
#include <cstring>
#include <string>
#include <string_view>

namespace rookery::foreign {

static_assert(std::endian::native == std::endian::little);

// The number at `offset`; the caller has checked that it lies inside.
template <class T>
T load(std::string_view bytes, uint64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

template <class T>
void store(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

}  // namespace rookery::foreign
