// seeds.cpp: writes the seed corpus of the libFuzzer targets: FOLDER/<target>/..., small sound files of each
// kind, so that mutations start from where a reader has already gone a long way.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/data/support.h"
#include "tests/support/tokenizer_json.h"
#include "trainer/checkpoint/foreign/pickle.h"
#include "trainer/checkpoint/foreign/safetensors.h"
#include "trainer/checkpoint/foreign/torch_file.h"

namespace {

namespace fs = std::filesystem;
using namespace rookery::foreign;

const std::vector<TensorInfo> kTensors = {{"emb.weight", Type::kBf16, {6, 4}},
                                          {"blocks.0.att.x", Type::kF32, {1, 1, 4}},
                                          {"scalar", Type::kI64, {}}};

void put(const fs::path& path, const std::string& content) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

void write_all(const fs::path& path, std::unique_ptr<TensorWriter> (*make)(const fs::path&)) {
  fs::create_directories(path.parent_path());
  fs::remove(path);
  const auto writer = make(path);
  for (const TensorInfo& t : writer->tensors())
    writer->write(std::vector<std::byte>(t.bytes(), std::byte{3}));
  writer->finish();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 64;
  const fs::path folder = argv[1];
  write_all(folder / "torch_fuzz/small.pth", [](const fs::path& p) { return write_torch_file(p, kTensors); });
  put(folder / "torch_fuzz/data.pkl", pickle_tensors(kTensors));
  put(folder / "torch_fuzz/wrapped.pkl", "\x80\x02}(X\x05\x00\x00\x00model}X\x01\x00\x00\x00nK\x05su.");
  write_all(folder / "safetensors_fuzz/small.safetensors", [](const fs::path& p) {
    return write_safetensors(p, kTensors, {{"k", "v"}});
  });
  put(folder / "safetensors_fuzz/header.json",
      R"({"a":{"dtype":"F16","shape":[4,8],"data_offsets":[0,64]}})");
  for (const uint8_t code : {uint8_t{8}, uint8_t{4}})
    put(folder / rookery::str("idx_fuzz/small", int(code), ".idx"),
        rookery::test::make_idx(code, {4, 4}, {0, code == 8 ? 8 : 16}, {0, 1, 2}));
  put(folder / "vocab_fuzz/small.txt",
      "1 '\\x00' 1\n257 '  ' 2\n300 \"it's\" 4\n301 '\\n\\t' 2\r\n302 '\\xa0' 2\n303 '\\u3000' 3\n304 "
      "b'\\xe4 ' 2\n");
  put(folder / "bpe_fuzz/small.json", rookery::test::bpe_json(rookery::data::SplitPattern::kQwen2,
                                                              {{"h", "i"}, {"hi", "hi"}, {"\xE4", "\xBD"}})
                                          .dump());
  put(folder / "yaml_fuzz/small.yaml",
      "model: {arch: fuzz, num_layers: 2, scales: [1e-3, 2]}\ndata:\n  tokenizer: v.txt\n  sources:\n    - "
      "path: a.h5\n"
      "recipe: {max_steps: 10}\noptim:\n  lr: 6e-4 # comment\n  schedule: \"cosine\"\n");
  put(folder / "jsonl_fuzz/line.json",
      R"({"id": 1, "text": "a\n\u00e9\ud83d\ude42", "more": [1.5e3, true, null, {}]})");
  put(folder / "tfevents_fuzz/payload",
      std::string("\x09\x00\x00\x40\xfc\x54\xd9\x41\x1a\x0d", 10) + "brain.Event:2");
  // More of the user's own: every file given after the folder, by the target in whose folder it goes.
  for (int i = 2; i + 1 < argc; i += 2) {
    std::ifstream in(argv[i + 1], std::ios::binary);
    put(folder / argv[i] / fs::path(argv[i + 1]).filename(), {std::istreambuf_iterator<char>(in), {}});
  }
  return 0;
}
