// convert.h: weights from any form that we read into any that we write, tensor by tensor: memory does not
// grow with the model. Next: model_file.h (reading), layout.h (the forms).
#pragma once

#include <functional>
#include <optional>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/foreign/model_file.h"

namespace rookery::foreign {

// A run (its newest whole checkpoint), a checkpoint folder, or what open_model_file() reads.
ModelFile open_weights(const fs::path& path, const std::vector<std::string>& overrides = {});

// What is written.
enum class Target {
  kCheckpoint,   // a run folder with one checkpoint at step 0: for --run, init.from, ckpt
  kTorch,        // .pth
  kSafetensors,  // one file, our names
  kFolder,       // Hugging Face: config.json, model.safetensors or shards with an index, tokenizer files
};

struct ConvertOptions {
  Target target = Target::kCheckpoint;
  std::string form;          // of kFolder: "hf", "fla"; empty: the only one that the architecture has
  std::optional<Type> type;  // of the elements; nothing: as they are
  bool saturate = false;     // numbers beyond the largest of `type` become that; else they are an error
  bool allow_nan = false;    // NaN and infinity are taken over; else they are an error
  bool replace = false;      // an output that is there
  uint64_t shard_bytes = 5'000'000'000;  // of kFolder, at most, where a tensor is not larger
  fs::path tokenizer;                    // copied into the folder or run in place of the source's own
  // Called with what was written, reopened and compared with the source, before it takes its final name.
  std::function<void(const ModelFile& written)> check;
};

struct ConvertReport {
  uint64_t tensors = 0;
  uint64_t saturated = 0, not_finite = 0;  // elements
};

// `out` appears under its name only when it is complete, was read back and has the same values (rounded where
// `type` asks for it). Errors: WTS-10 (NaN or infinity), WTS-11 (overflow), WTS-12 (the output is there, or
// is the input), WTS-13 (read back differently); all names are listed.
ConvertReport convert(const ModelFile& from, const fs::path& out, const ConvertOptions& options);

// The fields of the section `model`, zeros that stand for a default filled in from the shapes.
std::map<std::string, std::string> model_keys(const ModelFile& model);

}  // namespace rookery::foreign
