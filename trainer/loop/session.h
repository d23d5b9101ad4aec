// session.h: a model with its memory on a device: what training, evaluation and generation start from.
#pragma once

#include <filesystem>
#include <memory>

#include "parallel/pipeline/stages.h"
#include "parallel/shard/param_store.h"
#include "trainer/config/run_config.h"
#include "trainer/models/model.h"

namespace rookery::loop {

struct Session {
  config::RunConfig config;
  const Mesh* mesh = &Mesh::single();  // outlives the session
  std::unique_ptr<Device> device;      // before what lives on it
  std::unique_ptr<Model> model;        // whole, but
  StageBlocks stage;                   // the memory of the parameters is of these blocks
  std::unique_ptr<ParamStore> store;
  int64_t step = 0;                  // of the checkpoint the weights are from; 0: none
  std::filesystem::path checkpoint;  // empty: none
  std::string identity;              // of that checkpoint: Weights::identity
};

// A model by its configuration, weights zero. type kMeta: shapes and memory plans only. precision bf16: on
// the CPU matrix products round their operands, on a GPU all activations and the parameters that operations
// read are bf16. Throws kUnavailable for bf16 on a processor or build without it.
Session make_session(config::RunConfig config, DeviceType type = DeviceType::kCpu);
Session make_session(config::RunConfig config, std::unique_ptr<Device> device,
                     const Mesh& mesh = Mesh::single());

// The weights that a path holds (Weights tells which paths), and their model. threads 0: all cores.
Session load_session(const std::filesystem::path& path, int64_t threads = 0);

// Of each unit of the model (Parameter::unit), for sequences of this length: by what a pipeline is cut.
std::vector<UnitCost> unit_costs(Model& model, int64_t seq_len);
// Blocks of each of so many stages: mesh.pipe_split, or an even cut.
std::vector<int64_t> stage_split(const config::RunConfig& config, Model& model, int64_t stages);

// Whether every token is multiplied by it: matrices, but not the table of embeddings (a look-up, unless it is
// the head too) nor the per-head bonus.
bool multiplies_tokens(Model& model, const Parameter& p);
// Of a training step on sequences of this length: 6 x the elements of these + 3 x the sequence mixers.
double train_flops_per_token(Model& model, int64_t seq_len);
// What model.recompute adds: of a second forward pass of the blocks, by the same count. Element-wise
// operations count in neither.
double recomputed_flops_per_token(Model& model, int64_t seq_len);

}  // namespace rookery::loop
