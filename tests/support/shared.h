// shared.h: where the tests find the shared data folder (vocabulary, golden files): ROOKERY_SHARED, default
// ../shared.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

namespace rookery::test {

inline std::filesystem::path shared_path(const std::filesystem::path& relative) {
  const char* folder = std::getenv("ROOKERY_SHARED");
  return std::filesystem::path(folder ? folder : "../shared") / relative;
}

}  // namespace rookery::test

// First line of a test that needs a shared file.
#define RK_NEEDS_SHARED(path)         \
  if (!std::filesystem::exists(path)) \
  GTEST_SKIP() << path << " is not there: set ROOKERY_SHARED to the shared folder"
