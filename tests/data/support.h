// support.h: what the data tests share: errors with their id and text, small .bin/.idx pairs, files with
// given content.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace rookery::test {

// Runs `body`, which must throw Error with this code, id (if not empty) and all these words in its text.
inline void expect_error(const std::function<void()>& body, ExitCode code, const std::string& id,
                         const std::vector<std::string>& words) {
  try {
    body();
    ADD_FAILURE() << "no error, expected " << id;
  } catch (const Error& e) {
    EXPECT_EQ(static_cast<int>(e.code()), static_cast<int>(code)) << e.what();
    if (!id.empty()) {
      EXPECT_EQ(e.id(), id) << e.what();
    }
    for (const auto& word : words)
      EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << word << " in: " << e.what();
  }
}

inline void write_text(const std::filesystem::path& path, const std::string& content) {
  std::filesystem::remove(
      path);  // a file system may wait for the disk when a file is truncated and written again
  std::ofstream(path, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The raw little-endian bytes of values, for building files by hand.
template <class T>
void append(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

// An .idx with these arrays, as the format's page tells (independent of the writer under test).
inline std::string make_idx(uint8_t code, const std::vector<int32_t>& lengths,
                            const std::vector<int64_t>& pointers, const std::vector<int64_t>& docs) {
  std::string out("MMIDIDX\0\0", 9);
  append<uint64_t>(out, 1);
  append(out, code);
  append<uint64_t>(out, lengths.size());
  append<uint64_t>(out, docs.size());
  for (auto v : lengths) append(out, v);
  for (auto v : pointers) append(out, v);
  for (auto v : docs) append(out, v);
  return out;
}

}  // namespace rookery::test
