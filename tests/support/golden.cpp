#include "tests/support/golden.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <regex>
#include <sstream>
#include <stdexcept>

namespace rookery::test {
namespace fs = std::filesystem;

GoldenFile GoldenFile::read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream buffer;
  buffer << in.rdbuf();
  const std::string bytes = buffer.str();
  if (bytes.size() < 8) throw std::runtime_error(path.string() + ": not a golden file");
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  const auto json = nlohmann::json::parse(bytes.substr(8, header));
  GoldenFile file;
  file.path = path;
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") {
      for (const auto& [key, value] : entry.items()) file.meta[key] = value.get<std::string>();
      continue;
    }
    GoldenTensor t;
    t.dtype = entry.at("dtype");
    t.shape = entry.at("shape").get<std::vector<int64_t>>();
    const auto begin = entry.at("data_offsets")[0].get<uint64_t>(),
               end = entry.at("data_offsets")[1].get<uint64_t>();
    const char* data = bytes.data() + 8 + header + begin;
    auto load = [&]<class T>(T, auto convert) {
      for (uint64_t at = 0; at < end - begin; at += sizeof(T)) {
        T value;
        std::memcpy(&value, data + at, sizeof(T));
        t.values.push_back(convert(value));
      }
    };
    if (t.dtype == "F64") load(double{}, [](double v) { return v; });
    if (t.dtype == "F32") load(float{}, [](float v) { return static_cast<double>(v); });
    if (t.dtype == "I32") load(int32_t{}, [](int32_t v) { return static_cast<double>(v); });
    if (t.dtype == "BF16")
      load(uint16_t{}, [](uint16_t v) {
        const uint32_t wide = static_cast<uint32_t>(v) << 16;
        float f;
        std::memcpy(&f, &wide, 4);
        return static_cast<double>(f);
      });
    file.tensors.emplace(name, std::move(t));
  }
  return file;
}

const GoldenTensor& GoldenFile::operator[](const std::string& name) const {
  const auto it = tensors.find(name);
  if (it == tensors.end()) throw std::runtime_error(path.string() + ": no tensor " + name);
  return it->second;
}

std::vector<int32_t> GoldenFile::ints(const std::string& name) const {
  const auto& values = (*this)[name].values;
  return {values.begin(), values.end()};
}

double GoldenFile::number(const std::string& key, double otherwise) const {
  const auto it = meta.find(key);
  return it == meta.end() ? otherwise : std::stod(it->second);
}

fs::path golden_folder() {
  if (const char* folder = std::getenv("ROOKERY_GOLDEN"); folder && *folder) return folder;
  const char* shared = std::getenv("ROOKERY_SHARED");
  const fs::path golden = fs::path(shared && *shared ? shared : "../shared") / "golden";
  return fs::is_directory(golden) ? golden : fs::path("tests/golden/data");
}

double rel_l2(const std::vector<double>& got, const std::vector<double>& expected) {
  if (got.size() != expected.size()) return INFINITY;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += (got[i] - expected[i]) * (got[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  const double result = norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
  return std::isnan(result) ? INFINITY : result;
}

namespace {
// The figures of the fp32 column come first in a row, those of the bf16 column second.
Measured measured(const fs::path& file, int column, Measured otherwise) {
  std::ifstream readme(file.parent_path() / "README.md");
  const std::regex figures(
      R"(logits ([0-9.e+-]+), loss ([0-9.e+-]+), grads median [0-9.e+-]+, worst ([0-9.e+-]+))");
  for (std::string line; std::getline(readme, line);) {
    if (line.find("| " + file.filename().string() + " |") == std::string::npos) continue;
    std::sregex_iterator match(line.begin(), line.end(), figures);
    for (int i = 0; i < column && match != std::sregex_iterator(); ++i) ++match;
    if (match != std::sregex_iterator())
      return {std::stod((*match)[1]), std::stod((*match)[2]), std::stod((*match)[3])};
  }
  return otherwise;
}
}  // namespace

Measured measured_fp32(const fs::path& file) { return measured(file, 0, {6e-7, 6e-7, 5e-6}); }
// The error of a loss is one signed sum over the logits' errors and small by chance in some files: at least a
// sixtieth of these.
Measured measured_bf16(const fs::path& file) {
  Measured m = measured(file, 1, {1.2e-2, 1.1e-3, 5e-2});
  m.loss = std::max(m.loss, m.logits / 60);
  return m;
}

}  // namespace rookery::test
