// checkpointing.h: a run's folder and what goes between the live tensors and trainer/checkpoint (which knows
// pieces, not tensors).
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "parallel/shard/param_store.h"
#include "trainer/config/run_config.h"
#include "trainer/loop/train_state.h"
#include "trainer/optim/adamw.h"

namespace rookery::loop {

// Holds the lock of the run while it lives. Each rank has one, on the same folder; what is no query every
// rank calls, and rank 0 does what one must do.
class RunFolder {
 public:
  using Warn = std::function<void(const std::string&)>;
  // Makes the folder, takes the lock, removes what interrupted saves left. `warn` hears what was cleaned and
  // which checkpoints were passed over.
  RunFolder(std::filesystem::path run_dir, Warn warn, Communicator& world = Mesh::single().world());
  ~RunFolder();
  RunFolder(RunFolder&&) noexcept;

  const std::filesystem::path& path() const { return path_; }
  std::optional<int64_t> newest_step() const;  // complete or not; nothing: there is no checkpoint
  void remove_checkpoints(int64_t after_step);
  // Before training: the folder can be written to, and a checkpoint of this size fits (kCannotCreate, kIo).
  void check_space(const ParamStore& store) const;

  // The newest complete checkpoint, or the one that `which` names (a step, or a checkpoint folder of any
  // run); nothing if the run has none.
  struct Found {
    std::filesystem::path path;
    TrainState state;
    std::string config_yaml;
    std::string saved_at;  // UTC
    int ranks = 1;         // that wrote it
  };
  std::optional<Found> find(const std::string& which) const;
  // Reads what this rank owns of the checkpoint that find() returned, whatever mesh wrote it.
  void load(const Found& found, ParamStore& store, AdamW& optim);

  // Complete and verified under its final name when this returns; then retention by `keep`, whose failure is
  // a warning. Throws kIo or kCannotCreate, on all ranks what one of them met, and leaves no trace where it
  // cannot save.
  struct Saved {
    std::filesystem::path folder;
    int64_t step;
    double write_s;  // of the thread that wrote this rank's part beside the training; NaN: there was none
  };
  Saved save(const TrainState& state, const ParamStore& store, const AdamW& optim,
             const std::string& config_yaml, const config::CheckpointConfig& keep);
  // The same beside the training: start_save() copies what this rank owns to memory of the host, a thread
  // writes it; finish_save() waits for the thread and completes the checkpoint. Each throws as save().
  void start_save(const TrainState& state, const ParamStore& store, const AdamW& optim,
                  const std::string& config_yaml, const config::CheckpointConfig& keep);
  bool saving() const;   // started and not finished
  bool written() const;  // by this rank: finish_save() waits for the others at most
  Saved finish_save();

 private:
  struct Impl;
  struct Save;
  void begin(const TrainState& state, const ParamStore& store, const AdamW& optim,
             const std::string& config_yaml, const config::CheckpointConfig& keep);
  std::filesystem::path path_;
  std::unique_ptr<Impl> impl_;
};

// The weights of a run folder's newest whole checkpoint, of the checkpoint folder that is named, or of
// another program's file: .pth, safetensors, a Hugging Face folder.
class Weights {
 public:
  explicit Weights(const std::filesystem::path& path);
  ~Weights();
  const std::filesystem::path& path() const;
  config::RunConfig config() const;  // of another program's file: the model, and the tokenizer beside it
  int64_t step() const;
  std::string identity() const;  // equal only for the same weights, wherever they lie
  void load(
      ParamStore& store) const;  // every tensor must be there, with its shape (and dtype, if it is ours)

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Tells runs apart, whatever their folders are called: time and process.
std::string new_run_id();

}  // namespace rookery::loop
