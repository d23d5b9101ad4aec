// model_file.h: weights of another program as those of one of our models: which architecture and sizes it is,
// and its tensors in the order, under the names and in the shapes of that model's parameters.
#pragma once

#include <nlohmann/json.hpp>

#include "trainer/checkpoint/foreign/tensor_file.h"
#include "trainer/config/run_config.h"

namespace rookery::foreign {

struct ModelFile {
  config::Selected<config::ModelConfig> model;
  std::shared_ptr<const TensorFile> tensors;
  std::vector<std::string> notes;
  fs::path tokenizer;                     // vocabulary or tokenizer.json; empty: none is known
  std::vector<fs::path> tokenizer_files;  // with all that belongs to it, to be handed on
  // Of a Hugging Face folder: its form (layout.h) and what its config.json says; else empty.
  std::string form;
  nlohmann::ordered_json folder_config;
};

// path: .pth, safetensors or a Hugging Face folder. Architecture, sizes and ranks come from names and shapes,
// the rest from config.json, from what convert() noted in a safetensors file, and from `overrides`
// ("model.rope_theta=1e6"). Errors: those of the files; WTS-08: not a model that we know, or a key that it
// does not have; WTS-09: tensors missing, unexpected or of another shape, all of them listed.
ModelFile open_model_file(const fs::path& path, const std::vector<std::string>& overrides = {});

// Under this key of a safetensors file's metadata convert() notes the section `model`, as JSON.
inline constexpr std::string_view kModelMetadata = "rookery_model";

// A run's configuration with this model, all else at its defaults.
config::RunConfig run_config_of(const config::Selected<config::ModelConfig>& model);

// Whether the path is for open_model_file rather than a run or a checkpoint of ours.
bool is_foreign(const fs::path& path);

}  // namespace rookery::foreign
