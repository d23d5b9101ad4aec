// trainer.h: the training loop. step() is the index of the system: data, forward and backward, update. What a
// run leaves on disk: metrics.h (logs) and checkpointing.h.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/loader/loader.h"
#include "trainer/loop/checkpointing.h"
#include "trainer/loop/console.h"
#include "trainer/loop/memory_plan.h"
#include "trainer/loop/metrics.h"
#include "trainer/loop/session.h"
#include "trainer/loop/signals.h"
#include "trainer/loop/step.h"
#include "trainer/loop/trace.h"
#include "trainer/loop/train_state.h"
#include "trainer/optim/adamw.h"
#include "trainer/optim/schedule.h"
#include "trainer/recipes/recipe.h"

namespace rookery::loop {

struct TrainOptions {
  bool fresh = false;  // begin anew: refuses a folder that holds a run, unless force
  bool force = false;  // with fresh or resume_from: removes the checkpoints that stand in the way
  // A step of this run, or a checkpoint folder; empty: the newest. Refused, unless force, where the run holds
  // newer checkpoints: they are of the way that is not taken.
  std::string resume_from;
  bool accept_data_change = false;  // go on although data, precision or architecture keys differ
  int64_t profile_steps = 0;        // of this process, written to RUN/trace.json
  double max_seconds = 0;  // save and leave with kStopped before so much time has passed; 0: no limit
  std::function<void(std::string_view)> on_phase;  // hears what this rank is about to do; may be empty
  std::vector<std::string> command_line;           // for env.json, as are
  std::vector<std::pair<std::string, std::string>> versions;  // name and version of the program's parts
};

// Name and content of each set of data.val.
using ValidationSets = std::vector<std::pair<std::string, std::shared_ptr<data::TokenSet>>>;

class Trainer {
 public:
  // Every rank of the mesh, which outlives it, makes one; the console of rank 0 is the run's.
  Trainer(config::LoadedRun run, TrainOptions options, Console& console, const Mesh& mesh = Mesh::single());
  ExitCode run();  // trains to the end of the schedule, or until asked to stop

 private:
  struct StepReport {
    TrainStep::Report work;
    double lr;
    bool applied;
  };
  std::vector<data::Batch> next_batches();  // of one step
  StepReport step(const std::vector<data::Batch>& batches);
  void log_norms(double lr);
  void evaluate();
  void save(bool last_chance);
  void finish_save();  // of the one that is under way
  void attempt_save(bool last_chance, const std::function<std::optional<RunFolder::Saved>()>& work);
  // The state to begin with: of a checkpoint, or new weights.
  void resume(const RunFolder::Found& found);
  void begin();
  void make_way(std::optional<int64_t> resumed_step);
  void save_trace();
  void explain_memory();
  int64_t memory_bytes() const;
  std::vector<PhaseSpread> spread(const std::array<double, 5>& seconds);
  void warn_of_straggler(int64_t rank, double seconds, double others);
  struct Request : RunRequest {
    bool written;  // all ranks have written their part of the checkpoint that is under way
  };
  Request agree(RunRequest mine);
  void phase(std::string_view name) const;
  bool first() const { return session_.mesh->world().rank() == 0; }
  void start_log();
  // A line for the console and train.log ('W': a warning); what is said before that is open is kept for it.
  void tell(char level, const std::string& text);

  TrainOptions options_;
  Console& console_;
  SignalGuard signals_;  // from the start, as the time limit: loading counts
  RunControl control_;
  MemoryPlan planned_;  // filled on the way to session_
  Session session_;
  std::unique_ptr<Recipe> recipe_;
  std::unique_ptr<data::Loader> loader_;
  ValidationSets validation_;
  Schedule schedule_;
  AdamW optim_;
  TrainStep step_;
  std::unique_ptr<MetricsLog> log_;
  std::optional<StepTrace> trace_;
  std::vector<std::pair<char, std::string>> early_;  // told before log_ was open
  RunFolder folder_;  // holds the lock of the run; after what finds mistakes, which so leave no folder
  TrainState state_;
  double longest_step_s_ = 0, longest_save_s_ = 0, last_save_at_ = 0;
  int failed_saves_ = 0;
  std::vector<std::string> hosts_;  // of the ranks
  int64_t slow_steps_ = 0, slow_rank_ = -1;
  double save_began_s_ = 0;  // how long training stood still for the start of a save
  int64_t total_memory_ = 0;
};

// The sources of data.sources as a loader, checked against model and tokenizer.
std::unique_ptr<data::Loader> make_loader(const config::RunConfig& config, int64_t vocab_size,
                                          const Mesh& mesh = Mesh::single());
// The micro-batches of the step that begins with this sample, as this rank computes them. Which samples a
// step has never depends on the mesh.
std::vector<data::Batch> read_step(data::Loader& loader, const config::RunConfig& config, const Mesh& mesh,
                                   int64_t first_sample);
// The sets of data.val, each of at least one window, with ids and tokenizer of the model.
ValidationSets open_validation(const config::RunConfig& config, int64_t vocab_size);
// Tells sets of other content apart, wherever they lie: counts, and a checksum of samples of the tokens.
std::string data_fingerprint(const data::TokenSet& set);
Schedule make_schedule(const config::RunConfig& config);
AdamwConfig make_adamw_config(const config::RunConfig& config);

}  // namespace rookery::loop
