// metrics.h: what a run says about itself: the progress line, metrics.jsonl, train.log and TensorBoard, from
// one struct per step. Fed by the training loop; `rookery plot` and the tests read metrics.jsonl back through
// read_metrics.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/loop/append_log.h"
#include "trainer/loop/console.h"
#include "trainer/loop/tensorboard.h"

namespace rookery::loop {

inline constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

// Seconds that ranks spent in a part of a step.
struct PhaseSpread {
  std::string name;
  double min = 0, median = 0, max = 0;
  int64_t slowest = 0;  // rank
  std::string host;     // of that rank
};

// One optimizer step. Losses in nats per token, times in seconds.
struct StepMetrics {
  int64_t step = 0, total_steps = 0;     // number of this step, the first is 1; of so many
  int64_t tokens = 0, total_tokens = 0;  // consumed when this step is done; when the run is
  int64_t step_tokens = 0;               // consumed by this step
  double loss = 0;                       // token-weighted mean over the whole global batch
  double loss_max = 0;                   // the worst micro-batch of any rank
  double lr = 0, weight_decay = 0;
  double grad_norm = 0, clip_coef = 1;  // global norm before clipping; what the gradient was multiplied with
  int64_t skipped = 0;                  // steps of the run so far that were not applied
  double step_time_s = 0;               // whole step, without checkpoint and evaluation
  double data_wait_s = 0, forward_s = 0, backward_s = 0, optim_s = 0;
  int64_t memory_bytes = 0, memory_total_bytes = 0;  // peak of this process; what the machine has
  std::vector<PhaseSpread> phases = {};              // of several ranks
};

// A validation pass. Write it before the checkpoint of the same step, or a resume from that checkpoint would
// lack it.
struct EvalMetrics {
  int64_t step = 0;    // steps done
  int64_t tokens = 0;  // training tokens consumed
  std::string set;     // name of the validation set
  double loss = 0;     // nats per token
  double bits_per_byte = kUnknown;
  double accuracy = kUnknown;  // share of the targets that were answered right
  double seconds = 0;
};

// Norms (L2) of the parameters of each part of the model, of their gradients before clipping and of the
// change of a step, at a slower interval.
struct NormMetrics {
  int64_t step = 0, tokens = 0;  // done
  struct Part {
    std::string name;
    double param = 0, grad = 0, change = 0;
  };
  std::vector<Part> parts;
};

// Speed of a run. The first steps (memory plan, cold caches) are left out, and so are checkpoints and
// evaluation in `tokens_per_second`.
class Throughput {
 public:
  explicit Throughput(int64_t warmup_steps = 5) : warmup_(warmup_steps) {}
  void step(int64_t tokens, double seconds, double data_wait_s);
  // Time in which no step ran: checkpoint, evaluation.
  void pause(double seconds);

  double tokens_per_second() const;       // smoothed over about 50 steps; kUnknown until warm
  double tokens_per_second_wall() const;  // mean since warm, pauses included; kUnknown until warm
  double data_share() const;  // smoothed share of step time spent waiting for data; kUnknown until warm

 private:
  int64_t warmup_;
  double tokens_ = 0, seconds_ = 0, data_ = 0;  // decaying sums
  double all_tokens_ = 0, all_seconds_ = 0;
};

// The speed figures of one log record; kUnknown where not known.
struct Rates {
  double tok_per_s = kUnknown, tok_per_s_wall = kUnknown, tflops = kUnknown, mfu = kUnknown, hfu = kUnknown,
         eta_s = kUnknown, data_share = kUnknown;
};

// step=1200/50000 tokens=629.1M/26.2G loss=3.4127 loss_max=3.52 ppl=30.3 lr=5.98e-04 gnorm=0.61 tok/s=412.3k
// tflops=0.12 mfu=n/a hfu=n/a mem=1.2/7.8GiB data=0.3% eta=2d03h skipped=0, on one line.
std::string step_line(const StepMetrics& m, const Rates& r);

// The record of metrics.jsonl, without line end. Numbers are the shortest text that reads back to the same
// double; losses are rounded to float32 before, so that they equal TensorBoard's; what is not finite or not
// known is null.
std::string step_record(const StepMetrics& m, const Rates& r, double time);
std::string eval_record(const EvalMetrics& m, double time);
std::string norm_record(const NormMetrics& m, double time);

class MetricsLog {
 public:
  struct Options {
    io::fs::path run_dir;  // exists, with tb/ in it (environment.h)
    std::string run_id;
    int64_t first_step = 1;    // the first step that this process will do: steps of the checkpoint + 1
    int64_t first_tokens = 0;  // tokens consumed before it
    int64_t every_steps = 10;  // a record each so many steps, and for the first and the last step
    bool tensorboard = true;
    double flops_per_token = 0;  // of the model, forward and backward, nothing recomputed; 0: not known
    double recomputed_flops_per_token = 0;  // forward passes done again in the backward pass
    double peak_tflops = 0;                 // of the device; 0: not known, and then mfu and hfu are n/a
    int rank = 0;  // above 0 there is RUN/logs/rank-N.log, for warnings, and nothing else
    std::function<std::string()> slowest_source;  // of the data, for the hint that the steps wait for it
  };
  // Opens the files of RUN; a metrics.jsonl that is there already gets a resume record, after the torn end
  // that a killed process may have left is cut off. Errors: kIo, kCannotCreate from io; kData METRICS-01 if
  // metrics.jsonl is of another schema.
  MetricsLog(Options options, Console& console);
  MetricsLog(const MetricsLog&) = delete;
  ~MetricsLog();  // writes how often the last message was repeated

  // After every step: redraws the bar; writes the line and the records if the step is to be logged.
  void step(const StepMetrics& m);
  void evaluation(const EvalMetrics& m);
  void norms(const NormMetrics& m);
  // seconds: for which training stood still; write_s: of the thread that wrote beside it, if there was one.
  void checkpoint(int64_t step, double seconds, const std::string& where, double write_s = kUnknown);
  // A line for train.log and the console. One that repeats itself is counted instead.
  void info(std::string_view text) { message('I', text); }
  void warning(std::string_view text) { message('W', text); }
  // A line for train.log alone: the console had it before the log was open.
  void already_shown(char level, std::string_view text) { log_text(level, text); }
  // Markdown for TensorBoard: run/config, samples/generated.
  void text(int64_t step, std::string_view name, std::string_view markdown);
  // fsync of metrics.jsonl and the event files: call it before a checkpoint, whose resume relies on the
  // records before it.
  void sync();

 private:
  void message(char level, std::string_view text);
  void report_repeats();
  void log_text(char level, std::string_view text);
  void check_console();
  Rates rates(const StepMetrics& m) const;

  Options options_;
  Console& console_;
  Throughput throughput_;
  std::string prefix_;  // rank and host of a line in train.log
  std::unique_ptr<AppendLog> text_, records_;
  std::unique_ptr<TensorBoard> tensorboard_, tensorboard_by_tokens_;
  std::string last_message_;
  int64_t repeated_ = 0;
  double smooth_loss_ = kUnknown;
  bool console_reported_ = false, data_hint_given_ = false;
};

// The records of a metrics.jsonl that count: a {"event":"resume","step":s} removes those before it with step
// >= s. Each is an object with "event" ("step", "eval", "checkpoint") and "step". A torn last line is left
// out. Errors: kNoInput if there is no such file; kData METRICS-01 (schema), METRICS-02 (a line that is no
// record, with its number).
std::vector<nlohmann::json> read_metrics(const io::fs::path& path);

}  // namespace rookery::loop
