#include "kernels/cuda/product_choices.h"

#include <algorithm>
#include <charconv>
#include <span>

#include "kernels/base/crc32.h"
#include "kernels/base/str.h"

namespace rookery::cuda {
namespace {

constexpr std::string_view kFormat = "rookery cublaslt 2";
constexpr size_t kKeyWords = 14;

std::string line_of(const ProductKey& key, const AlgorithmWords& words) {
  std::string line;
  for (const int64_t v : {key.m, key.n, key.k, key.lda, key.ldb, key.ldc}) line += str(v, " ");
  for (const int v : {key.transposed_a, key.transposed_b, key.in, key.out, key.accumulate, key.align_a,
                      key.align_b, key.align_c})
    line += str(v, " ");
  for (const uint64_t v : words) line += str(v, " ");
  return line + str(io::crc32(std::as_bytes(std::span(line))));
}

}  // namespace

std::string choices_file_name(std::string gpu, size_t version) {
  for (char& c : gpu)
    if (!(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z') && !(c >= 'a' && c <= 'z')) c = '-';
  return str("cublaslt-", gpu, "-", version, ".txt");
}

std::string choices_text(const ProductChoices& choices) {
  std::string text = str(kFormat, "\n");
  for (const auto& [key, words] : choices) text += line_of(key, words) + "\n";
  return text;
}

ProductChoices choices_from(std::string_view text) {
  ProductChoices choices;
  auto next_line = [&] {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    return line;
  };
  if (next_line() != kFormat) return choices;
  while (!text.empty()) {
    const std::string_view line = next_line();
    std::array<uint64_t, kKeyWords + AlgorithmWords{}.size()> v;
    const char* at = line.data();
    bool whole = true;
    for (uint64_t& value : v) {
      const auto [end, error] = std::from_chars(at, line.data() + line.size(), value);
      whole = whole && error == std::errc() && end < line.data() + line.size() && *end == ' ';
      if (!whole) break;
      at = end + 1;
    }
    if (!whole) continue;
    auto number = [&](size_t i) { return static_cast<int64_t>(v[i]); };
    auto small = [&](size_t i) { return static_cast<int>(v[i]); };
    const ProductKey key{number(0), number(1), number(2), number(3), number(4), number(5), small(6),
                         small(7),  small(8),  small(9),  small(10), small(11), small(12), small(13)};
    AlgorithmWords words;
    std::copy(v.begin() + kKeyWords, v.end(), words.begin());
    if (line_of(key, words) == line) choices[key] = words;
  }
  return choices;
}

}  // namespace rookery::cuda
