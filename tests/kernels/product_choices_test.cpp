// product_choices_test.cpp: the file of the fastest matrix products, whole, damaged, and of others.
#include "kernels/cuda/product_choices.h"

#include <gtest/gtest.h>

namespace rookery::cuda {
namespace {

ProductChoices some() {
  ProductChoices choices;
  for (int64_t i = 0; i < 3; ++i)
    choices[{32768 + i, 2048, 8192, 8192, 8192, 2048, 0, 1, 2, 2, static_cast<int>(i % 2), 16, 16, 16}] = {
        1, 2, 3, 4, 5, 6, ~uint64_t{0}, static_cast<uint64_t>(i)};
  return choices;
}

TEST(ProductChoices, ComeBackAsTheyWere) {
  EXPECT_EQ(choices_from(choices_text(some())), some());
  EXPECT_EQ(choices_from(choices_text({})), ProductChoices());
}

// Whatever happens to a byte, what is read was written: lines that were hit are left out.
TEST(ProductChoices, DamageCostsItsLine) {
  const std::string text = choices_text(some());
  const size_t first = text.find('\n') + 1;
  for (size_t i = 0; i < text.size(); ++i)
    for (const char to : {'0', '9', ' ', '\n', '-', '\xff'}) {
      if (text[i] == to) continue;
      std::string damaged = text;
      damaged[i] = to;
      const ProductChoices read = choices_from(damaged);
      const size_t left = i < first ? 0 : text[i] == '\n' && i + 1 < text.size() ? 1 : 2;
      EXPECT_EQ(read.size(), left) << "byte " << i << " as " << int{to};
      for (const auto& [key, words] : read) EXPECT_EQ(some().at(key), words);
    }
  for (size_t length = 0; length < text.size(); ++length) {
    const ProductChoices read = choices_from(text.substr(0, length));
    EXPECT_LE(read.size(), 3u);
    for (const auto& [key, words] : read) EXPECT_EQ(some().at(key), words);
  }
}

TEST(ProductChoices, AnotherFormatIsNotRead) {
  std::string text = choices_text(some());
  text.replace(0, text.find('\n'), "rookery cublaslt 1");
  EXPECT_TRUE(choices_from(text).empty());
  EXPECT_TRUE(choices_from("").empty());
}

TEST(ProductChoices, EachGpuAndVersionHasItsOwnFile) {
  EXPECT_EQ(choices_file_name("NVIDIA H200", 130002), "cublaslt-NVIDIA-H200-130002.txt");
  EXPECT_NE(choices_file_name("NVIDIA H200", 130002), choices_file_name("NVIDIA H200", 130100));
  EXPECT_NE(choices_file_name("NVIDIA H200", 130002), choices_file_name("NVIDIA H100 PCIe", 130002));
  EXPECT_EQ(choices_file_name("../../a", 1), "cublaslt-------a-1.txt");
}

}  // namespace
}  // namespace rookery::cuda
