// run_config.h: every key of a run, in one place. The fields are listed in run_config.cpp (help, bounds),
// where the conditions between keys stand too: RunConfig::validate. Models and recipes add their own keys:
// ModelConfig, RecipeConfig.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "parallel/mesh/degrees.h"
#include "trainer/config/fields.h"
#include "trainer/config/reader.h"
#include "trainer/config/writers.h"

namespace rookery::config {

// What is wrong between keys, by the path of the key to change.
struct Finding {
  std::string path, message;
};

// Section `model`: `arch` names the struct, derived from this one, that lists the other keys
// (trainer/models).
struct ModelConfig {
  static constexpr const char* kSelector = "arch";
  static constexpr const char* kSelectorHelp = "architecture";
  static constexpr const char* kDefault = "";
  virtual ~ModelConfig() = default;
  virtual std::string arch() const = 0;
  virtual void fields(Visitor& v) = 0;
  // Conditions between the model's own keys; called by RunConfig::validate. Paths are full:
  // "model.num_heads".
  virtual void check(std::vector<Finding>& findings) const { (void)findings; }
  virtual int64_t num_blocks() const { return 1; }  // that the stages of a pipeline can share
  // What the ranks of the tensor axis share, each an equal part: heads, channels, words.
  struct Shared {
    const char* key;  // "num_heads"
    int64_t size;
  };
  virtual std::vector<Shared> shared() const { return {}; }
};
void register_model_config(const std::string& arch, Registry<ModelConfig>::Factory factory);

// Section `recipe`: `kind` names the struct. The keys here are common to all kinds; a kind with keys of its
// own lists these first.
struct RecipeConfig {
  static constexpr const char* kSelector = "kind";
  static constexpr const char* kSelectorHelp = "way of training";
  static constexpr const char* kDefault = "pretrain";
  int64_t micro_batch_size = 8, global_batch_size = 8;  // in sequences
  std::optional<int64_t> max_steps, max_tokens;         // exactly one
  std::string recompute = "none";
  virtual ~RecipeConfig() = default;
  virtual std::string kind() const = 0;
  virtual void fields(Visitor& v);
  virtual void check(std::vector<Finding>& findings) const { (void)findings; }
};
void register_recipe_config(const std::string& kind, Registry<RecipeConfig>::Factory factory);

struct SourceConfig {
  fs::path path;
  double weight = 1;
  std::string name;
  void fields(Visitor& v);
};

struct ValidationSet {
  std::string name;
  fs::path path;
  void fields(Visitor& v);
};

struct DataConfig {
  std::vector<SourceConfig> sources;
  fs::path tokenizer;
  std::string sampling = "shuffled";
  int64_t seq_len = 512;
  std::vector<ValidationSet> val;
  bool has_tokenizer() const { return !tokenizer.empty() && tokenizer != "none"; }
  void fields(Visitor& v);
};

struct OptimConfig {
  double lr = 6e-4, lr_final = 6e-5;
  std::string schedule = "cosine";
  int64_t warmup_steps = 10;
  double warmup_from = 0.01;
  int64_t decay_steps = 0;
  double beta1 = 0.9, beta2 = 0.99, eps = 1e-18;
  double weight_decay = 0.001;
  double grad_clip = 1;
  void fields(Visitor& v);
};

struct CheckpointConfig {
  int64_t every_steps = 1000;
  double every_minutes = 30;
  int64_t keep_last = 3, keep_every = 0, keep_best = 0;
  bool async = false;
  void fields(Visitor& v);
};

struct EvalConfig {
  int64_t every_steps = 0, max_tokens = 0;
  double stop_accuracy = 0;
  void fields(Visitor& v);
};

struct LogConfig {
  int64_t every_steps = 10, norms_every_steps = 100;
  bool tensorboard = true;
  void fields(Visitor& v);
};

struct InitConfig {
  fs::path from;
  void fields(Visitor& v);
};

struct HardwareConfig {
  std::optional<double> peak_tflops;
  void fields(Visitor& v);
};

struct MeshConfig {
  int64_t data = 0, seq = 1, tensor = 1, pipe = 1, expert = 1, zero = 1;
  std::vector<int64_t> pipe_split;
  std::string seq_method = "ring";
  // data 0: what the other axes leave of so many ranks.
  MeshDegrees degrees(int64_t world) const;
  void fields(Visitor& v);
};

struct RunConfig {
  std::string name;
  fs::path run_dir;
  int64_t seed = 1;
  std::string precision = "fp32";
  std::string device = "auto", graph = "auto";
  bool deterministic = false;
  int64_t threads = 0;
  Selected<ModelConfig> model;
  DataConfig data;
  Selected<RecipeConfig> recipe;
  OptimConfig optim;
  MeshConfig mesh;
  CheckpointConfig checkpoint;
  EvalConfig eval;
  LogConfig log;
  InitConfig init;
  HardwareConfig hardware;
  void fields(Visitor& v);

  // Valid after validate().
  int64_t grad_accum_steps(int64_t world) const {
    return recipe->global_batch_size / (recipe->micro_batch_size * mesh.degrees(world).data);
  }
  int64_t tokens_per_step() const { return recipe->global_batch_size * data.seq_len; }
  int64_t total_steps() const {
    return recipe->max_steps ? *recipe->max_steps : *recipe->max_tokens / tokens_per_step();
  }

  // The only place of conditions between keys. Throws Error(kConfig) with all that is violated, the
  // arithmetic shown, for `world` ranks; with `origins` each is reported at the line of its key.
  void validate(int64_t world, const Origins& origins = {}) const;
};

struct LoadedRun {
  RunConfig config;
  Origins origins;
  std::vector<fs::path> files;  // all that were read, includes too
};

// Reads, completes (name: that of the last file; run_dir: runs/NAME) and validates, for so many ranks;
// kWorldOfMesh: for the smallest world that `mesh` asks for.
inline constexpr int64_t kWorldOfMesh = 0;
LoadedRun load_run(const std::vector<fs::path>& files, const std::vector<std::string>& overrides,
                   int64_t world = 1);

// A resolved configuration out of a checkpoint or run folder; `name` stands for it in messages. Not
// validated, and it may lack keys: that of converted weights has no data.
RunConfig parse_run(const std::string& yaml, const std::string& name);

std::string resolved_yaml(const RunConfig& config, const Origins* origins = nullptr);

// Equal for equal configurations: lower-case hex SHA-256 of the resolved YAML. Ranks compare it at the start.
std::string fingerprint(const RunConfig& config);

// What a change of a key means for a run that goes on from a checkpoint.
enum class ResumeClass {
  kStop,  // architecture, precision, what the order of the data follows from: another run
  kNote,  // hyper-parameters and paths: allowed, listed in the log
  kFree,  // where and how often things are written
};
ResumeClass resume_class(const std::string& path);

struct ResumeChanges {
  std::vector<Difference> stop, note, free;  // left: the saved value, right: the one now
};
ResumeChanges resume_changes(const RunConfig& saved, const RunConfig& now);

}  // namespace rookery::config
