// trainer.h: the training loop. step() is the index of the system: data, forward and backward, update. What a
// run leaves on disk: metrics.h (logs) and checkpointing.h.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/loader/loader.h"
#include "trainer/eval/scorer.h"
#include "trainer/loop/checkpointing.h"
#include "trainer/loop/console.h"
#include "trainer/loop/metrics.h"
#include "trainer/loop/session.h"
#include "trainer/loop/signals.h"
#include "trainer/loop/train_state.h"
#include "trainer/optim/adamw.h"
#include "trainer/optim/schedule.h"
#include "trainer/recipes/recipe.h"

namespace rookery::loop {

struct TrainOptions {
  bool fresh = false;  // begin anew: refuses a folder that holds a run, unless force
  bool force = false;
  std::string resume_from;          // a step of this run, or a checkpoint folder; empty: the newest
  bool accept_data_change = false;  // go on although data, tokenizer or architecture keys differ
  double max_seconds = 0;  // save and leave with kStopped before so much time has passed; 0: no limit
  std::vector<std::string> command_line;                      // for env.json, as are
  std::vector<std::pair<std::string, std::string>> versions;  // name and version of the program's parts
};

class Trainer {
 public:
  Trainer(config::LoadedRun run, TrainOptions options, Console& console);
  ExitCode run();  // trains to the end of the schedule, or until asked to stop

 private:
  struct StepReport {
    double loss, loss_max, lr, forward_s, backward_s, optim_s;
    AdamW::Report update;
    bool applied;
  };
  StepReport step(const std::vector<data::Batch>& batches);
  void evaluate();
  void save();
  void explain_memory();
  void start_log();

  TrainOptions options_;
  Console& console_;
  Session session_;
  RunFolder folder_;  // holds the lock of the run
  std::unique_ptr<Recipe> recipe_;
  std::unique_ptr<data::Loader> loader_;
  std::vector<std::pair<std::string, std::shared_ptr<data::TokenSet>>> validation_;
  Schedule schedule_;
  AdamW optim_;
  TrainState state_;
  std::unique_ptr<MetricsLog> log_;
  double longest_step_s_ = 0, longest_save_s_ = 0, last_save_at_ = 0;
  int failed_saves_ = 0;
  int64_t machine_memory_ = 0;
};

// The sources of data.sources as a loader, checked against model and tokenizer.
std::unique_ptr<data::Loader> make_loader(const config::RunConfig& config, int64_t vocab_size);
Schedule make_schedule(const config::RunConfig& config);
AdamwConfig make_adamw_config(const config::RunConfig& config);

}  // namespace rookery::loop
