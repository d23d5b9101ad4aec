// trainer.cpp: see step() first.
#include "trainer/loop/trainer.h"

#include <chrono>
#include <cmath>

#include "data/tokenizer/tokenizer.h"
#include "trainer/loop/environment.h"
#include "trainer/loop/human.h"

namespace rookery::loop {
namespace {

constexpr int kMaxFailedSaves = 3;         // then the run ends with kIo; the last good checkpoint stays
constexpr int64_t kMaxSkippedInARow = 10;  // non-finite steps, then kNumerics

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string mib(double bytes) { return fixed(bytes / (1 << 20), 1) + " MiB"; }

double scalar(const Tensor& t) { return to_doubles(t)[0]; }

}  // namespace

Trainer::StepReport Trainer::step(const std::vector<data::Batch>& batches) {
  StepReport report{};
  Arena& arena = session_.device->arena();
  const auto& recipe = *session_.config.recipe;
  const int64_t count = session_.config.tokens_per_step();
  report.lr = schedule_.at(state_.step);

  arena.begin_step("train");
  session_.store->begin_step();
  for (const data::Batch& batch : batches) {
    const double start = now();
    Tape tape;
    nn::SeqContext seq;
    nn::Context cx{&tape, seq};
    const DeviceBatch tensors = to_device(batch, *session_.device);
    const ops::LossOut loss =
        recipe_->loss(*session_.model, tensors, cx, count, static_cast<int64_t>(batches.size()));
    const double forward_done = now();
    tape.backward(loss.loss);
    report.backward_s += now() - forward_done;
    report.forward_s += forward_done - start;
    const double value = scalar(loss.loss.value());
    report.loss += value;
    report.loss_max = std::max(report.loss_max, value * static_cast<double>(batches.size()));
  }
  session_.store->finish_reduction();
  const double start = now();
  report.update = std::isfinite(report.loss) ? optim_.step(report.lr) : AdamW::Report{NAN, 1, false};
  report.applied = report.update.finite;
  report.optim_s = now() - start;
  arena.end_step();

  ++state_.step;
  state_.samples += recipe.global_batch_size;
  state_.tokens += count;
  state_.skipped += !report.applied;
  state_.skipped_in_a_row = report.applied ? 0 : state_.skipped_in_a_row + 1;
  return report;
}

ExitCode Trainer::run() {
  const config::RunConfig& c = session_.config;
  const int64_t total = c.total_steps(), accum = c.grad_accum_steps(1), rows = c.recipe->micro_batch_size;
  SignalGuard signals(console_.style().terminal);
  RunControl control(folder_.path(), signals, options_.max_seconds);
  if (state_.step >= total) {
    log_->info(str("the run is complete: ", state_.step, " of ", total, " steps are done"));
    return ExitCode::kOk;
  }
  const int64_t first_step = state_.step;
  while (state_.step < total) {
    const double start = now(), waited_before = loader_->wait_seconds();
    std::vector<data::Batch> batches;
    for (int64_t i = 0; i < accum; ++i) batches.push_back(loader_->next(state_.samples + i * rows, rows));
    const double waited = loader_->wait_seconds() - waited_before;
    const StepReport report = step(batches);
    const double step_s = now() - start;
    if (state_.step - first_step > 1) longest_step_s_ = std::max(longest_step_s_, step_s);

    StepMetrics m;
    m.step = state_.step;
    m.total_steps = total;
    m.tokens = state_.tokens;
    m.total_tokens = total * c.tokens_per_step();
    m.step_tokens = c.tokens_per_step();
    m.loss = report.loss;
    m.loss_max = report.loss_max;
    m.lr = report.lr;
    m.weight_decay = c.optim.weight_decay;
    m.grad_norm = report.update.grad_norm;
    m.clip_coef = report.update.clip_coef;
    m.skipped = state_.skipped;
    m.step_time_s = step_s;
    m.data_wait_s = waited;
    m.forward_s = report.forward_s;
    m.backward_s = report.backward_s;
    m.optim_s = report.optim_s;
    m.memory_bytes = peak_memory_bytes();
    m.memory_total_bytes = machine_memory_;
    log_->step(m);
    if (state_.step - first_step == 1) explain_memory();
    if (!report.applied) {
      log_->warning(str("step ", state_.step, ": loss ", report.loss, ", gradient norm ",
                        report.update.grad_norm, ": not finite; the step was not applied. Samples ",
                        state_.samples - c.recipe->global_batch_size, " to ", state_.samples - 1));
      if (state_.skipped_in_a_row >= kMaxSkippedInARow)
        fail(ExitCode::kNumerics, "TRAIN-03", folder_.path().string(), ": ", state_.skipped_in_a_row,
             " steps in a row were not finite, the last one is step ", state_.step,
             ". The last checkpoint is good. Lower optim.lr, or look at the samples named in train.log");
    }

    if (c.eval.every_steps > 0 && (state_.step % c.eval.every_steps == 0 || state_.step == total)) evaluate();
    const RunRequest request = control.poll(longest_step_s_, longest_save_s_);
    const auto& when = c.checkpoint;
    const bool due = (when.every_steps > 0 && state_.step % when.every_steps == 0) ||
                     (when.every_minutes > 0 && now() - last_save_at_ > when.every_minutes * 60);
    if (due || request.save || request.stop || state_.step == total) save();
    if (request.stop && state_.step < total) {
      log_->info(str("stopped by ", request.reason, " after step ", state_.step, " of ", total,
                     "; start again to go on"));
      return request.code;
    }
  }
  console_.end_bar();
  return ExitCode::kOk;
}

// Mean loss per token over the windows of each validation set, from the first on: the same windows every
// time.
void Trainer::evaluate() {
  const config::RunConfig& c = session_.config;
  const int64_t T = c.data.seq_len, rows = c.recipe->micro_batch_size;
  eval::Scorer scorer(*session_.model, *session_.device, session_.store->dtype(), T);
  double sum = 0;
  for (const auto& [name, set] : validation_) {
    const double start = now();
    const int64_t all = (set->num_tokens() - 1) / T;
    const int64_t windows =
        c.eval.max_tokens > 0 ? std::min(all, std::max<int64_t>(1, c.eval.max_tokens / T)) : all;
    eval::Score score;
    for (int64_t first = 0; first < windows; first += rows) {
      const int64_t count = std::min(rows, windows - first);
      std::vector<int32_t> tokens(static_cast<size_t>(count * (T + 1)));
      for (int64_t row = 0; row < count; ++row)
        set->read((first + row) * T, std::span<int32_t>(tokens).subspan(row * (T + 1), T + 1));
      session_.device->arena().begin_step(str("eval ", count));
      score.add(scorer.score_rows(tokens, count));
      session_.device->arena().end_step();
    }
    EvalMetrics m;
    m.step = state_.step;
    m.tokens = state_.tokens;
    m.set = name;
    m.loss = score.nats / static_cast<double>(score.tokens);
    if (set->info().text_bytes > 0)
      m.bits_per_byte = m.loss / std::log(2.0) * static_cast<double>(set->num_tokens()) /
                        static_cast<double>(set->info().text_bytes);
    m.seconds = now() - start;
    log_->evaluation(m);
    sum += m.loss;
  }
  if (!validation_.empty()) {
    state_.last_validation = sum / static_cast<double>(validation_.size());
    state_.best_validation = std::min(state_.best_validation, state_.last_validation);
  }
}

void Trainer::save() {
  const double start = now();
  loader_->check_unchanged();
  log_->sync();
  try {
    const auto where = folder_.save(state_, *session_.store, optim_, config::resolved_yaml(session_.config),
                                    session_.config.checkpoint);
    log_->checkpoint(state_.step, now() - start, where.string());
    failed_saves_ = 0;
  } catch (const Error& error) {
    // A full disk now may be free at the next save; what is on disk stays good.
    if (error.code() != ExitCode::kIo && error.code() != ExitCode::kCannotCreate) throw;
    if (++failed_saves_ >= kMaxFailedSaves || state_.step >= session_.config.total_steps()) throw;
    log_->warning(str("saving failed (", failed_saves_, " of ", kMaxFailedSaves,
                      "), training goes on: ", error.what()));
  }
  last_save_at_ = now();
  longest_save_s_ = std::max(longest_save_s_, last_save_at_ - start);
}

void Trainer::explain_memory() {
  const Arena::Plan* plan = session_.device->arena().plan("train");
  if (plan == nullptr) return;
  const double elements = static_cast<double>(session_.store->num_elements()) *
                          static_cast<double>(dtype_size(session_.store->dtype()));
  const auto slab = static_cast<double>(plan->slab_bytes);
  log_->info(str("memory: parameters ", mib(elements), " + gradients ", mib(elements), " + moments ",
                 mib(2 * elements), " + activations ", mib(slab), " (", plan->requests,
                 " blocks packed; live at once at most ", mib(static_cast<double>(plan->peak_bytes)),
                 ") = ", mib(4 * elements + slab)));
}

Schedule make_schedule(const config::RunConfig& c) {
  Schedule s;
  s.kind = c.optim.schedule == "cosine"   ? ScheduleKind::kCosine
           : c.optim.schedule == "linear" ? ScheduleKind::kLinear
           : c.optim.schedule == "wsd"    ? ScheduleKind::kWsd
                                          : ScheduleKind::kConstant;
  s.lr = c.optim.lr;
  s.lr_final = c.optim.lr_final;
  s.warmup_steps = c.optim.warmup_steps;
  s.warmup_from = c.optim.warmup_from;
  s.total_steps = c.total_steps();
  s.decay_steps = c.optim.decay_steps;
  return s;
}

AdamwConfig make_adamw_config(const config::RunConfig& c) {
  return {c.optim.beta1, c.optim.beta2, c.optim.eps, c.optim.weight_decay, c.optim.grad_clip};
}

std::unique_ptr<data::Loader> make_loader(const config::RunConfig& c, int64_t vocab_size) {
  std::vector<data::LoaderSource> sources;
  for (const auto& source : c.data.sources)
    sources.push_back(
        {data::open_token_set(source.path, data::TokenView::kFlat), source.weight, source.name});
  data::LoaderOptions options;
  options.sampling.seq_len = c.data.seq_len;
  options.sampling.sampling = data::sampling_from_string(c.data.sampling);
  options.sampling.seed = static_cast<uint64_t>(c.seed);
  options.vocab_size = vocab_size;
  if (!c.data.tokenizer.empty()) options.tokenizer_sha256 = data::load_tokenizer(c.data.tokenizer)->sha256();
  return std::make_unique<data::Loader>(std::move(sources), options);
}

Trainer::Trainer(config::LoadedRun run, TrainOptions options, Console& console)
    : options_(std::move(options)),
      console_(console),
      session_(make_session(std::move(run.config))),
      folder_(session_.config.run_dir, [this](std::string_view text) { console_.line(text); }),
      recipe_(make_recipe(*session_.config.recipe)),
      loader_(make_loader(session_.config, session_.model->vocab_size())),
      schedule_(make_schedule(session_.config)),
      optim_(*session_.store, make_adamw_config(session_.config),
             [this](const Parameter& p) { return session_.model->optim_group(p); }) {
  const config::RunConfig& c = session_.config;
  for (const auto& set : c.data.val) {
    validation_.emplace_back(set.name, data::open_token_set(set.path));
    if (validation_.back().second->num_tokens() < c.data.seq_len + 1)
      fail(ExitCode::kData, "DATA-07", set.path.string(), ": validation set '", set.name, "' holds ",
           validation_.back().second->num_tokens(), " tokens, a window needs ", c.data.seq_len + 1,
           ". Use a larger set or a smaller data.seq_len");
  }

  if (options_.fresh && folder_.has_checkpoints() && !options_.force)
    fail(ExitCode::kCannotCreate, "TRAIN-01", folder_.path().string(),
         ": holds a run, and --fresh would begin another in its place. Choose another run_dir, or add "
         "--force to remove its checkpoints");
  if (options_.fresh) folder_.remove_checkpoints();
  folder_.check_space(*session_.store);
  const auto found = folder_.find(options_.resume_from);
  if (found) {
    const auto changes =
        config::resume_changes(config::parse_run(found->config_yaml, found->path.string()), c);
    if (!changes.stop.empty() && !options_.accept_data_change) {
      std::string list;
      for (const auto& d : changes.stop) list += str("\n  ", d.path, ": saved ", d.left, ", now ", d.right);
      fail(ExitCode::kConfig, "TRAIN-02", found->path.string(),
           ": this run has another architecture, data or precision:", list,
           "\nUse another run_dir, or --accept-data-change if the model still fits");
    }
    folder_.load(*found, *session_.store, optim_);
    state_ = found->state;
    console_.line(str("resuming ", folder_.path().string(), " at step ", state_.step, " (tokens ",
                      human_count(static_cast<double>(state_.tokens)), ") from ", found->path.string()));
    for (const auto& d : changes.note)
      console_.line(str("changed since it was saved: ", d.path, " was ", d.left, ", is ", d.right));
  } else {
    session_.model->parameters.initialize(static_cast<uint64_t>(c.seed));
    state_.seed = c.seed;
    state_.run_id = new_run_id();
    if (!c.init.from.empty()) Weights(c.init.from).load(*session_.store);
  }
  start_log();
}

void Trainer::start_log() {
  const config::RunConfig& c = session_.config;
  create_run_folder(folder_.path());
  io::write_file_atomic(folder_.path() / "config.resolved.yaml", config::resolved_yaml(c), "run.config");
  write_environment(folder_.path(), options_.command_line, options_.versions);
  MetricsLog::Options log;
  log.run_dir = folder_.path();
  log.run_id = state_.run_id;
  log.first_step = state_.step + 1;
  log.first_tokens = state_.tokens;
  log.every_steps = c.log.every_steps;
  log.tensorboard = c.log.tensorboard;
  log.flops_per_token = train_flops_per_token(*session_.model);
  log.peak_tflops = c.hardware.peak_tflops.value_or(0);
  log_ = std::make_unique<MetricsLog>(log, console_);
  machine_memory_ = this_machine().memory_bytes;
  last_save_at_ = now();

  int64_t embedding = 0;
  if (const Parameter* emb = session_.model->parameters.find("emb.weight")) embedding = emb->global.numel();
  log_->info(str(c.name, ": ", c.model.name(), ", ",
                 human_count(static_cast<double>(session_.store->num_elements())), " parameters (",
                 human_count(static_cast<double>(session_.store->num_elements() - embedding)),
                 " without the embedding), ", c.precision, ", ", session_.device->pool().num_threads(),
                 " threads, ", session_.device->isa()));
  for (size_t i = 0; i < loader_->sources().size(); ++i) {
    const auto& source = loader_->sources()[i];
    const int64_t samples = loader_->samples_by_source(c.total_steps() * c.recipe->global_batch_size)[i];
    log_->info(
        str("data ", source.name.empty() ? source.set->path().string() : source.name, ": ",
            human_count(static_cast<double>(source.set->num_tokens())), " tokens, ", source.set->num_docs(),
            " documents, ",
            fixed(static_cast<double>(samples) / static_cast<double>(loader_->samples_per_epoch(i)), 2),
            " epochs in this run"));
  }
  for (const std::string& warning : loader_->warnings()) log_->warning(warning);
  log_->text(state_.step, "run/config", "```yaml\n" + config::resolved_yaml(c) + "\n```");
}

}  // namespace rookery::loop
