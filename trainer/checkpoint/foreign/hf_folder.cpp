#include "trainer/checkpoint/foreign/hf_folder.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "kernels/base/error.h"
#include "kernels/base/io.h"
#include "trainer/checkpoint/foreign/strict_json.h"

namespace rookery::foreign {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxConfigBytes = 16u << 20, kMaxIndexBytes = 64u << 20;

template <class... Args>
[[noreturn]] void bad(const fs::path& path, const Args&... what) {
  fail(ExitCode::kData, "WTS-07", path, ": ", what...);
}

// The tensors of several files as those of one.
class Shards : public TensorFile {
 public:
  Shards(const fs::path& index_path, const Json& index) : TensorFile(index_path) {
    if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
      bad(path_, "expected an object with a weight_map");
    std::map<std::string, std::set<std::string>> wanted;  // by file
    for (const auto& [name, file] : index["weight_map"].items()) {
      if (!file.is_string()) bad(path_, "weight_map: the file of ", name, " is no string");
      const auto& text = file.get_ref<const std::string&>();
      if (text.empty() || text == "." || text == ".." ||
          text.find_first_of(std::string_view("/\\\0", 3)) != text.npos)
        bad(path_, "weight_map: tensor ", name, " names the file '", text,
            "', expected a plain file name of the same folder");
      wanted[text].insert(name);
    }
    for (const auto& [file, names] : wanted) add(file, names);
  }

  void read(size_t i, uint64_t offset, std::span<std::byte> out) const override {
    files_[places_[i].file]->read(places_[i].index, offset, out);
  }
  void verify() const override {
    for (const auto& file : files_) file->verify();
  }

 private:
  void add(const std::string& name, std::set<std::string> wanted) {
    const fs::path path = path_.parent_path() / name;
    if (!fs::exists(path))
      bad(path_, "lists ", name, ", which is not in the folder; mend it by downloading all shards");
    files_.push_back(open_tensor_file(path));
    const TensorFile& file = *files_.back();
    for (size_t i = 0; i < file.tensors().size(); ++i) {
      const TensorInfo& tensor = file.tensors()[i];
      if (wanted.erase(tensor.name) == 0) {
        notes_.push_back(str(path, ": tensor ", tensor.name, " is not in the index and is passed over"));
        continue;
      }
      tensors_.push_back(tensor);
      places_.push_back({files_.size() - 1, i});
    }
    if (!wanted.empty())
      bad(path_, "says that ", name, " holds ", *wanted.begin(), wanted.size() > 1 ? " and others" : "",
          ", which it does not");
    notes_.insert(notes_.end(), file.notes().begin(), file.notes().end());
  }

  struct Place {
    size_t file, index;
  };
  std::vector<std::unique_ptr<TensorFile>> files_;
  std::vector<Place> places_;
};

Json read_json(const fs::path& path, uint64_t limit) {
  return parse_strict_json(io::read_file(path, limit), "WTS-06", path.string());
}

bool is_deepspeed(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == "latest" || name.starts_with("zero_pp_rank_") || name.starts_with("mp_rank_")) return true;
    if (name == "checkpoint" && entry.is_directory()) return true;
  }
  return false;
}

}  // namespace

HfFolder open_hf_folder(const fs::path& folder) {
  if (!fs::is_directory(folder))
    fail(ExitCode::kNoInput, "WTS-07", folder, ": is no folder; mend it by checking the name");
  HfFolder hf;
  if (fs::exists(folder / "config.json")) {
    hf.config = read_json(folder / "config.json", kMaxConfigBytes);
    if (!hf.config.is_object()) bad(folder / "config.json", "expected a JSON object");
  }
  for (const char* name : {"model.safetensors", "pytorch_model.bin"}) {
    const fs::path file = folder / name, index = folder / str(name, ".index.json");
    if (fs::exists(file)) {
      hf.tensors = open_tensor_file(file);
      return hf;
    }
    if (fs::exists(index)) {
      hf.tensors = std::make_unique<Shards>(index, read_json(index, kMaxIndexBytes));
      return hf;
    }
  }
  if (is_deepspeed(folder))
    bad(folder,
        "is a checkpoint of DeepSpeed, whose weights are spread over ranks; mend it by running its "
        "zero_to_fp32.py and giving the file that comes out");
  bad(folder, "holds neither model.safetensors nor pytorch_model.bin nor an index of shards");
}

std::vector<fs::path> tokenizer_files(const fs::path& folder) {
  static constexpr std::array kNames = {
      "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
      "merges.txt",     "tokenizer.model",       "added_tokens.json",       "generation_config.json"};
  std::vector<fs::path> found;
  for (const char* name : kNames)
    if (fs::is_regular_file(folder / name)) found.push_back(folder / name);
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && name.starts_with("rwkv_vocab") && name.ends_with(".txt"))
      found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace rookery::foreign
