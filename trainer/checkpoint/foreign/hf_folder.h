// hf_folder.h: a folder as Hugging Face's libraries keep a model: config.json, the weights in one file or in
// shards with an index, and files of the tokenizer.
#pragma once

#include <nlohmann/json.hpp>

#include "trainer/checkpoint/foreign/tensor_file.h"

namespace rookery::foreign {

struct HfFolder {
  nlohmann::ordered_json config;  // null: there is no config.json
  std::unique_ptr<TensorFile> tensors;
};

// The index is believed as far as its names are plain file names of the folder, each file is there and each
// tensor is in the file that it names. Errors: WTS-07, and those of the files; kNoInput: no such folder.
HfFolder open_hf_folder(const fs::path& folder);

// Everything in the folder that belongs to a tokenizer, to be handed on: tokenizer.json, vocabularies, ...
std::vector<fs::path> tokenizer_files(const fs::path& folder);

}  // namespace rookery::foreign
