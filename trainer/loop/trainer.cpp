// trainer.cpp: see step() first.
#include "trainer/loop/trainer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "data/tokenizer/tokenizer.h"
#include "kernels/base/io.h"
#include "parallel/comm/text.h"
#include "trainer/config/writers.h"
#include "trainer/loop/device.h"
#include "trainer/loop/environment.h"
#include "trainer/loop/human.h"
#include "trainer/plan/count.h"

namespace rookery::loop {
namespace {

constexpr int kMaxFailedSaves = 3;         // then the run ends with kIo; the last good checkpoint stays
constexpr int64_t kMaxSkippedInARow = 10;  // non-finite steps, then kNumerics
// A rank that works so many times as long as the middle one, in so many steps running, holds up the others.
constexpr double kStraggles = 2;
constexpr int64_t kStragglesSteps = 3;
constexpr std::array<const char*, 5> kPhases = {"data", "forward", "backward", "wait", "optim"};
constexpr size_t kWait = 3;  // of them, for the other ranks

// On the device that the configuration asks for, unless its plan is beyond the memory that is free there.
Session affordable_session(config::RunConfig config, MemoryPlan& plan, const Mesh& mesh) {
  auto device = make_device(config);
  // The update on a GPU knows neither slices nor a norm whose parts are on other ranks.
  const bool cut = (mesh.replicas().size() > 1 && config.mesh.zero > 0) || mesh.degree(Axis::kTensor) > 1 ||
                   mesh.degree(Axis::kPipe) > 1;
  if (device->type() != DeviceType::kCpu && cut)
    fail(ExitCode::kUnavailable, "MESH-01", "mesh: ", mesh.degrees(), ", zero ", config.mesh.zero,
         ": on a GPU ranks share a batch and nothing else so far; set mesh.zero to 0, mesh.tensor and "
         "mesh.pipe to 1, or device: cpu");
  // What each of several ranks needs is not planned: one rank would need more.
  if (mesh.world().size() > 1) return make_session(std::move(config), std::move(device), mesh);
  const int64_t free = device->on_host() ? available_memory_bytes()
                                         : static_cast<int64_t>(device->accelerator().memory().free);
  plan = plan_memory(config, device->type());
  check_memory(plan, config, free);
  return make_session(std::move(config), std::move(device));
}

// "a, b": the parts of which more than 5 % more, or less, is held than was planned.
std::string surprises(const MemoryPlan& planned, const MemoryPlan& held) {
  std::string text;
  for (const auto& [name, part] : {std::pair{"parameters", &MemoryPlan::parameters},
                                   {"gradients", &MemoryPlan::gradients},
                                   {"moments", &MemoryPlan::moments},
                                   {"compute copies", &MemoryPlan::copies},
                                   {"activations", &MemoryPlan::activations},
                                   {"workspaces", &MemoryPlan::workspaces}}) {
    const int64_t expected = planned.*part, found = held.*part;
    if (std::abs(found - expected) > expected / 20)
      text += str(text.empty() ? "" : ", ", name, " ", mib(found), " instead of ", mib(expected));
  }
  return text;
}

std::string device_text(const Device& device) {
  if (!device.on_host()) return device.accelerator().name();
  return str(device.type() == DeviceType::kEmul ? "emulated GPU, " : "", device.num_threads(), " threads, ",
             device.isa());
}

}  // namespace

Trainer::StepReport Trainer::step(const std::vector<data::Batch>& batches) {
  StepReport report{};
  report.lr = schedule_.at(state_.step);
  phase("step");
  report.work = step_.run(batches, report.lr);
  report.applied = report.work.update.finite;

  ++state_.step;
  state_.samples += session_.config.recipe->global_batch_size;
  state_.tokens += session_.config.tokens_per_step();
  state_.skipped += !report.applied;
  state_.skipped_in_a_row = report.applied ? 0 : state_.skipped_in_a_row + 1;
  state_.last_validation = NAN;
  return report;
}

std::vector<data::Batch> Trainer::next_batches() {
  const Range range(*session_.device, "data", Profile::Kind::kPhase);
  phase("data");
  return read_step(*loader_, session_.config, *session_.mesh, state_.samples);
}

ExitCode Trainer::run() {
  const config::RunConfig& c = session_.config;
  const int64_t total = c.total_steps();
  if (state_.step >= total) {
    log_->info(str("the run is complete: ", state_.step, " of ", total, " steps are done"));
    return ExitCode::kOk;
  }
  if (state_.goal_reached) {
    log_->info(str("the run is complete: eval.stop_accuracy was reached at step ", state_.step));
    return ExitCode::kOk;
  }
  const int64_t first_step = state_.step;
  while (state_.step < total) {
    const double start = steady_now(), waited_before = loader_->wait_seconds();
    if (trace_) trace_->begin_step();
    const std::vector<data::Batch> batches = next_batches();
    const double waited = loader_->wait_seconds() - waited_before;
    const StepReport report = step(batches);
    if (trace_) trace_->end_step();
    const double step_s = steady_now() - start;

    StepMetrics m;
    m.step = state_.step;
    m.total_steps = total;
    m.tokens = state_.tokens;
    m.total_tokens = total * c.tokens_per_step();
    m.step_tokens = c.tokens_per_step();
    m.loss = report.work.loss;
    m.loss_max = report.work.loss_max;
    m.lr = report.lr;
    m.weight_decay = c.optim.weight_decay;
    m.grad_norm = report.work.update.grad_norm;
    m.clip_coef = report.work.update.clip_coef;
    m.skipped = state_.skipped;
    m.step_time_s = step_s;
    m.data_wait_s = waited;
    m.forward_s = report.work.forward_s;
    m.backward_s = report.work.backward_s;
    m.optim_s = report.work.optim_s;
    m.memory_bytes = memory_bytes();
    m.memory_total_bytes = total_memory_;
    const double worked = m.forward_s + m.backward_s + report.work.wait_s + m.optim_s;
    m.phases = spread({step_s - worked, m.forward_s, m.backward_s, report.work.wait_s, m.optim_s});
    log_->step(m);
    if (state_.step - first_step == 1 && session_.mesh->world().size() == 1) explain_memory();
    if (!report.applied) {
      log_->warning(str("step ", state_.step, ": loss ", report.work.loss, ", gradient norm ",
                        report.work.update.grad_norm, ": not finite; the step was not applied. Samples ",
                        state_.samples - c.recipe->global_batch_size, " to ", state_.samples - 1));
      if (state_.skipped_in_a_row >= kMaxSkippedInARow)
        fail(ExitCode::kNumerics, "TRAIN-03", folder_.path().string(), ": ", state_.skipped_in_a_row,
             " steps in a row were not finite, the last one is step ", state_.step,
             ". The last checkpoint is good. Lower optim.lr, or look at the samples named in train.log");
    }

    if (const int64_t every = c.log.norms_every_steps;
        every > 0 && state_.step % every == 0 && report.applied &&
        session_.mesh->degree(Axis::kPipe) == 1)  // a stage knows its own parts alone
      log_norms(report.lr);

    const double best = state_.best_validation;
    if (c.eval.every_steps > 0 && (state_.step % c.eval.every_steps == 0 || state_.step == total)) evaluate();
    // The first step plans its memory and is the longest for that reason: it counts until there is another.
    longest_step_s_ = state_.step - first_step == 2 ? steady_now() - start
                                                    : std::max(longest_step_s_, steady_now() - start);
    const Request request = agree(control_.poll(longest_step_s_, longest_save_s_));
    const bool due = (c.checkpoint.every_steps > 0 && state_.step % c.checkpoint.every_steps == 0) ||
                     (c.checkpoint.keep_best > 0 && state_.best_validation < best);
    const bool last_chance = request.stop || state_.step == total || state_.goal_reached;
    if (folder_.saving() && (request.written || last_chance)) finish_save();
    if (due || request.save || last_chance) {
      if (trace_) trace_->begin("save");
      save(last_chance);
      if (trace_) trace_->end();
    }
    if (trace_ && (last_chance || trace_->complete())) save_trace();
    if (state_.goal_reached) {
      log_->info(str("eval.stop_accuracy ", c.eval.stop_accuracy, " is reached: the run ends at step ",
                     state_.step));
      break;
    }
    if (request.stop && state_.step < total) {
      log_->info(str("stopped by ", request.reason, " after step ", state_.step, " of ", total,
                     "; start again to go on"));
      return request.code;
    }
  }
  console_.end_bar();
  return ExitCode::kOk;
}

// Of each part of the step the spread over the ranks; with one rank there is none.
std::vector<PhaseSpread> Trainer::spread(const std::array<double, 5>& seconds) {
  Communicator& world = session_.mesh->world();
  if (world.size() == 1) return {};
  const auto ranks = static_cast<size_t>(world.size());
  const Tensor all = empty({static_cast<int64_t>(ranks * kPhases.size())}, DType::kF64, *session_.device);
  world.all_gather(tensor_from(std::span<const double>(seconds), {static_cast<int64_t>(kPhases.size())},
                               DType::kF64, *session_.device),
                   all);
  const std::vector<double> of = to_doubles(all);
  const auto spread_of = [&](const char* name, const std::function<double(size_t rank)>& value) {
    std::vector<std::pair<double, int64_t>> sorted;
    for (size_t r = 0; r < ranks; ++r) sorted.emplace_back(value(r), static_cast<int64_t>(r));
    std::ranges::sort(sorted);
    const int64_t slowest = sorted.back().second;
    return PhaseSpread{name,
                       sorted.front().first,
                       sorted[ranks / 2].first,
                       sorted.back().first,
                       slowest,
                       hosts_[static_cast<size_t>(slowest)]};
  };
  std::vector<PhaseSpread> phases;
  for (size_t k = 0; k < kPhases.size(); ++k)
    phases.push_back(spread_of(kPhases[k], [&](size_t r) { return of[r * kPhases.size() + k]; }));
  // The others wait for the slowest, so what a rank does itself tells which that is.
  std::vector<double> work(ranks);
  for (size_t r = 0; r < ranks; ++r)
    for (size_t k = 0; k < kPhases.size(); ++k)
      if (k != kWait) work[r] += of[r * kPhases.size() + k];
  const auto most = static_cast<size_t>(std::ranges::max_element(work) - work.begin());
  std::vector<double> others = work;
  others.erase(others.begin() + static_cast<int64_t>(most));
  std::ranges::sort(others);
  warn_of_straggler(static_cast<int64_t>(most), work[most], others[others.size() / 2]);
  return phases;
}

void Trainer::warn_of_straggler(int64_t rank, double seconds, double others) {
  slow_steps_ = !(seconds >= kStraggles * others) ? 0 : rank == slow_rank_ ? slow_steps_ + 1 : 1;
  slow_rank_ = rank;
  if (slow_steps_ != kStragglesSteps) return;
  if (first())
    log_->warning(str("rank ", rank, " on ", hosts_[static_cast<size_t>(rank)],
                      " holds up the others: ", fixed(seconds, 3), " s of work in step ", state_.step,
                      ", they take ", fixed(others, 3), " s; look at what else runs there"));
}

// What one rank is asked for all of them do, after the same step.
Trainer::Request Trainer::agree(RunRequest mine) {
  const bool time_to_save = session_.config.checkpoint.every_minutes > 0 &&
                            steady_now() - last_save_at_ > session_.config.checkpoint.every_minutes * 60;
  mine.save = mine.save || time_to_save;
  Communicator& world = session_.mesh->world();
  Request all{mine, folder_.written()};
  if (world.size() == 1) return all;
  const int64_t flags[] = {mine.save, mine.stop ? static_cast<int64_t>(mine.code) : 0,
                           mine.stop ? world.size() - world.rank() : 0, !folder_.written()};
  const Tensor most = tensor_from(std::span<const int64_t>(flags), {4}, DType::kI64, *session_.device);
  world.all_reduce(most, Reduce::kMax);
  int64_t agreed[4];
  download(most, agreed);
  all.save = agreed[0] != 0;
  all.written = agreed[3] == 0;
  if (agreed[1] == 0) return all;
  all.stop = true;
  all.code = static_cast<ExitCode>(agreed[1]);
  if (!mine.stop) all.reason = str("what rank ", world.size() - agreed[2], " was asked");
  return all;
}

void Trainer::phase(std::string_view name) const {
  if (options_.on_phase) options_.on_phase(str(name, ", step ", state_.step + 1));
}

void Trainer::log_norms(double lr) {
  NormMetrics m;
  m.step = state_.step;
  m.tokens = state_.tokens;
  for (const AdamW::Norms& n : optim_.norms(lr, plan::module_of))
    m.parts.push_back({n.part, n.param, n.grad, n.change});
  log_->norms(m);
}

// Mean loss per target over the windows of each validation set, from the first on: the same windows every
// time.
void Trainer::evaluate() {
  phase("evaluation");
  session_.store->await_parameters();
  const config::RunConfig& c = session_.config;
  const int64_t T = c.data.seq_len, rows = c.recipe->micro_batch_size;
  double sum = 0, worst_accuracy = 1;
  for (const auto& [name, set] : validation_) {
    const double start = steady_now();
    const int64_t all = (set->num_tokens() - 1) / T;
    const int64_t windows =
        c.eval.max_tokens > 0 ? std::min(all, std::max<int64_t>(1, c.eval.max_tokens / T)) : all;
    Evaluation result;
    // Every rank makes as many passes, of which those behind the last window do not count: parameters may be
    // gathered on the way.
    const int64_t ranks = session_.mesh->degree(Axis::kData), rank = session_.mesh->index(Axis::kData);
    for (int64_t first_of_all = 0; first_of_all < windows; first_of_all += rows * ranks) {
      const int64_t own = first_of_all + rank * rows, from = own < windows ? own : first_of_all;
      std::vector<int64_t> starts;
      for (int64_t i = from; i < std::min(from + rows, windows); ++i) starts.push_back(i * T);
      data::Batch batch = data::read_windows(*set, starts, T, session_.model->vocab_size());
      if (const int64_t parts = session_.mesh->degree(Axis::kSeq); parts > 1)
        batch = data::part_of(batch, session_.mesh->index(Axis::kSeq), parts);
      session_.device->arena().begin_step(str("eval ", batch.rows));
      const Evaluation judged = step_.evaluate(recipe_->prepare(batch, *session_.device));
      if (own < windows) result.add(judged);
      session_.device->arena().end_step();
    }
    if (Communicator& replicas = session_.mesh->replicas(); replicas.size() > 1) {
      const double mine[] = {result.nats, static_cast<double>(result.targets), result.correct};
      const Tensor sums = tensor_from(std::span<const double>(mine), {3}, DType::kF64, *session_.device);
      replicas.all_reduce(sums, Reduce::kSum);
      const std::vector<double> of_all = to_doubles(sums);
      result = {of_all[0], static_cast<int64_t>(of_all[1]), of_all[2]};
    }
    EvalMetrics m;
    m.step = state_.step;
    m.tokens = state_.tokens;
    m.set = name;
    m.loss = result.nats / static_cast<double>(result.targets);
    m.accuracy = result.correct / static_cast<double>(result.targets);
    if (set->info().text_bytes > 0)
      m.bits_per_byte = m.loss / std::log(2.0) * static_cast<double>(set->num_tokens()) /
                        static_cast<double>(set->info().text_bytes);
    m.seconds = steady_now() - start;
    log_->evaluation(m);
    sum += m.loss;
    worst_accuracy = std::isnan(m.accuracy) ? 0 : std::min(worst_accuracy, m.accuracy);
  }
  if (!validation_.empty()) {
    state_.last_validation = sum / static_cast<double>(validation_.size());
    state_.best_validation = std::min(state_.best_validation, state_.last_validation);
    state_.goal_reached = c.eval.stop_accuracy > 0 && worst_accuracy >= c.eval.stop_accuracy;
  }
}

// Throws only where there is no later save to hope for. work: returns where it saved, and of what step, if
// that is done.
void Trainer::attempt_save(bool last_chance, const std::function<std::optional<RunFolder::Saved>()>& work) {
  const double start = steady_now();
  phase("save");
  try {
    if (const auto saved = work()) {
      const double stood_still = steady_now() - start + save_began_s_;
      log_->checkpoint(saved->step, stood_still, saved->folder.string(), saved->write_s);
      failed_saves_ = 0;
      save_began_s_ = 0;
    } else {
      save_began_s_ = steady_now() - start;
    }
  } catch (const Error& error) {
    // A full disk now may be free at the next save; what is on disk stays good.
    if (error.code() != ExitCode::kIo && error.code() != ExitCode::kCannotCreate) throw;
    save_began_s_ = 0;
    ++failed_saves_;
    if (last_chance || failed_saves_ >= kMaxFailedSaves)
      fail(ExitCode::kIo, "TRAIN-04", folder_.path().string(), ": saving failed ", failed_saves_,
           failed_saves_ == 1 ? " time: " : " times in a row: ", error.what(),
           "; mend it by making room, then start again");
    log_->warning(str("saving failed (", failed_saves_, " of ", kMaxFailedSaves,
                      "), training goes on: ", error.what()));
  }
  last_save_at_ = steady_now();
  longest_save_s_ = std::max(longest_save_s_, last_save_at_ - start);
}

void Trainer::save(bool last_chance) {
  loader_->check_unchanged();
  log_->sync();
  if (folder_.saving()) finish_save();
  attempt_save(last_chance, [&]() -> std::optional<RunFolder::Saved> {
    const std::string config = config::resolved_yaml(session_.config);
    const auto& keep = session_.config.checkpoint;
    if (!keep.async || last_chance) return folder_.save(state_, *session_.store, optim_, config, keep);
    folder_.start_save(state_, *session_.store, optim_, config, keep);
    return {};
  });
}

void Trainer::finish_save() {
  attempt_save(false, [&] { return std::optional(folder_.finish_save()); });
}

// Peak of this process, or what is held of the GPU.
int64_t Trainer::memory_bytes() const {
  if (session_.device->on_host()) return peak_memory_bytes();
  int64_t held = 0;
  for (const Arena::Owned& owned : session_.device->arena().owners())
    held += static_cast<int64_t>(owned.bytes);
  return held;
}

// A trace is not worth a run: what goes wrong with it is told.
void Trainer::save_trace() {
  try {
    log_->info(trace_->write());
  } catch (const Error& error) {
    log_->warning(str("--profile: ", error.what()));
  }
  trace_.reset();
}

void Trainer::explain_memory() {
  const Arena::Plan* plan = session_.device->arena().plan("train");
  if (plan == nullptr) return;
  const MemoryPlan held = memory_held(*session_.device);
  log_->info(str("memory: ", held, "; activations are ", plan->requests, " blocks packed, at most ",
                 mib(static_cast<int64_t>(plan->peak_bytes)), " live at once"));
  if (const std::string other = surprises(planned_, held); !other.empty())
    log_->warning(str("memory: another than was planned: ", other));
}

Schedule make_schedule(const config::RunConfig& c) {
  Schedule s;
  s.kind = c.optim.schedule == "cosine"           ? ScheduleKind::kCosine
           : c.optim.schedule == "quarter_cosine" ? ScheduleKind::kQuarterCosine
           : c.optim.schedule == "linear"         ? ScheduleKind::kLinear
           : c.optim.schedule == "wsd"            ? ScheduleKind::kWsd
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

std::vector<data::Batch> read_step(data::Loader& loader, const config::RunConfig& c, const Mesh& mesh,
                                   int64_t first_sample) {
  std::vector<data::Batch> batches;
  const int64_t rows = c.recipe->micro_batch_size, ranks = mesh.degree(Axis::kData);
  for (int64_t i = 0; i < c.grad_accum_steps(mesh.degrees().world()); ++i)
    batches.push_back(loader.next(first_sample + i * rows * ranks, rows));
  if (const int64_t parts = mesh.degree(Axis::kSeq); parts > 1)
    for (data::Batch& batch : batches) batch = data::part_of(batch, mesh.index(Axis::kSeq), parts);
  return batches;
}

std::unique_ptr<data::Loader> make_loader(const config::RunConfig& c, int64_t vocab_size, const Mesh& mesh) {
  std::vector<data::LoaderSource> sources;
  for (const auto& source : c.data.sources)
    sources.push_back(
        {data::open_token_set(source.path, data::TokenView::kFlat), source.weight, source.name});
  data::LoaderOptions options;
  options.sampling.seq_len = c.data.seq_len;
  options.sampling.sampling = data::sampling_from_string(c.data.sampling);
  options.sampling.seed = static_cast<uint64_t>(c.seed);
  if (options.sampling.sampling == data::Sampling::kMagicPrime)
    data::magic::check_global_batch(c.recipe->global_batch_size);
  options.vocab_size = vocab_size;
  options.rank = mesh.index(Axis::kData);
  options.world = mesh.degree(Axis::kData);
  if (c.data.has_tokenizer()) options.tokenizer_sha256 = data::load_tokenizer(c.data.tokenizer)->sha256();
  return std::make_unique<data::Loader>(std::move(sources), options);
}

ValidationSets open_validation(const config::RunConfig& c, int64_t vocab_size) {
  ValidationSets sets;
  if (c.data.val.empty()) return sets;
  const auto tokenizer = !c.data.has_tokenizer() ? nullptr : data::load_tokenizer(c.data.tokenizer);
  for (const auto& wanted : c.data.val) {
    std::shared_ptr<data::TokenSet> set = data::open_token_set(wanted.path);
    if (tokenizer) data::check_tokenizer(*set, tokenizer->sha256());
    if (set->vocab_size() > vocab_size)
      fail(ExitCode::kData, "DATA-06", wanted.path.string(), ": has a vocabulary of ", set->vocab_size(),
           ", expected at most model.vocab_size = ", vocab_size);
    if (set->num_tokens() < c.data.seq_len + 1)
      fail(ExitCode::kData, "DATA-07", wanted.path.string(), ": validation set '", wanted.name, "' holds ",
           set->num_tokens(), " tokens, a window needs ", c.data.seq_len + 1,
           ". Use a larger set or a smaller data.seq_len");
    sets.emplace_back(wanted.name, std::move(set));
  }
  return sets;
}

std::string data_fingerprint(const data::TokenSet& set) {
  std::vector<int32_t> sample(static_cast<size_t>(std::min<int64_t>(set.num_tokens(), 1 << 16)));
  const int64_t last = set.num_tokens() - static_cast<int64_t>(sample.size());
  uint32_t sum = 0;
  for (const int64_t start : {int64_t{0}, last / 2, last}) {
    set.read(start, sample);
    sum = io::crc32c(std::as_bytes(std::span(sample)), sum);
  }
  return str(set.num_tokens(), " tokens in ", set.num_docs(), " documents, checksum ", sum);
}

Trainer::Trainer(config::LoadedRun run, TrainOptions options, Console& console, const Mesh& mesh)
    : options_(std::move(options)),
      console_(console),
      signals_(console_.style().terminal),
      control_(mesh.world().rank() == 0 ? run.config.run_dir : std::filesystem::path(), signals_,
               options_.max_seconds),
      session_(affordable_session(std::move(run.config), planned_, mesh)),
      recipe_(make_recipe(*session_.config.recipe)),
      loader_(make_loader(session_.config, session_.model->vocab_size(), mesh)),
      validation_(open_validation(session_.config, session_.model->vocab_size())),
      schedule_(make_schedule(session_.config)),
      optim_(*session_.store, make_adamw_config(session_.config),
             [this](const Parameter& p) { return session_.model->optim_group(p); }),
      step_(session_, *recipe_, optim_,
            [this] { tell('I', str("graph: step ", state_.step + 1, " is noted as a whole and replayed")); }),
      folder_(
          session_.config.run_dir, [this](const std::string& text) { tell('W', text); }, mesh.world()),
      hosts_(exchange_texts(mesh.world(), this_machine().host)) {
  folder_.check_space(*session_.store);
  const auto found = options_.fresh ? std::nullopt : folder_.find(options_.resume_from);
  if (found) {
    resume(*found);
  } else {
    begin();
  }
  state_.data.clear();
  for (const auto& source : loader_->sources()) state_.data.push_back(data_fingerprint(*source.set));
  start_log();
}

namespace {

// Keys that change what weights of the same shapes compute.
std::vector<config::Difference> other_mathematics(config::Selected<config::ModelConfig>& left,
                                                  config::Selected<config::ModelConfig>& right) {
  static constexpr std::array<std::string_view, 5> kKeys = {"norm_eps", "rope_theta", "rope_rescale",
                                                            "use_v2", "use_one_minus_w"};
  auto all = config::differences(*config::make_member(left), *config::make_member(right));
  std::erase_if(all, [](const config::Difference& d) {
    return !d.path.starts_with("rope_scaling.") && std::ranges::find(kKeys, d.path) == kKeys.end();
  });
  return all;
}

}  // namespace

// Checkpoints that would be taken for the newest of this run although it goes another way.
void Trainer::make_way(std::optional<int64_t> resumed_step) {
  const auto newest = folder_.newest_step();
  if (!newest || (resumed_step && *newest <= *resumed_step)) return;
  if (!options_.force)
    fail(ExitCode::kCannotCreate, "TRAIN-01", folder_.path().string(), ": holds checkpoints up to step ",
         *newest, ", which ", resumed_step ? str("going on from step ", *resumed_step) : "--fresh",
         " would replace. Choose another run_dir, or add --force to remove them");
  session_.mesh->world().barrier();  // all have seen them
  folder_.remove_checkpoints(resumed_step.value_or(-1));
}

void Trainer::begin() {
  const config::RunConfig& c = session_.config;
  session_.model->parameters.initialize(
      static_cast<uint64_t>(c.seed),
      [this](const Parameter& p, const Tensor& values) { session_.store->assign(p, values); });
  state_.seed = c.seed;
  state_.run_id = broadcast_text(session_.mesh->world(), new_run_id());
  if (!c.init.from.empty()) {
    const Weights weights(c.init.from);
    weights.load(*session_.store);
    config::RunConfig theirs = weights.config();
    for (const auto& d : other_mathematics(theirs.model, session_.config.model))
      tell('W', str("init.from: ", weights.path().string(), " has model.", d.path, " ", d.left, ", this run ",
                    d.right));
  }
  session_.store->publish();
  make_way({});
}

void Trainer::resume(const RunFolder::Found& found) {
  auto changes =
      config::resume_changes(config::parse_run(found.config_yaml, found.path.string()), session_.config);
  for (size_t i = 0; i < std::min(found.state.data.size(), loader_->sources().size()); ++i) {
    const std::string now_it_is = data_fingerprint(*loader_->sources()[i].set);
    if (found.state.data[i] != now_it_is)
      changes.stop.push_back({str("data.sources[", i, "], its content"), found.state.data[i], now_it_is});
  }
  if (!changes.stop.empty() && !options_.accept_data_change) {
    std::string list;
    for (const auto& d : changes.stop) list += str("\n  ", d.path, ": saved ", d.left, ", now ", d.right);
    fail(ExitCode::kConfig, "TRAIN-02", found.path.string(),
         ": this run has another architecture, data or precision:", list,
         "\nUse another run_dir, or --accept-data-change if the model still fits");
  }
  folder_.load(found, *session_.store, optim_);
  state_ = found.state;
  if (!options_.resume_from.empty()) make_way(state_.step);
  tell('I', str("resuming ", folder_.path().string(), " at step ", state_.step, " (tokens ",
                human_count(static_cast<double>(state_.tokens)), ") from ", found.path.string(), " saved ",
                found.saved_at, " by ", found.ranks, found.ranks == 1 ? " rank" : " ranks"));
  for (const auto* list : {&changes.stop, &changes.note})
    for (const auto& d : *list)
      tell('I', str("changed since it was saved: ", d.path, " was ", d.left, ", is ", d.right));
}

void Trainer::tell(char level, const std::string& text) {
  if (log_) return level == 'W' ? log_->warning(text) : log_->info(text);
  early_.emplace_back(level, text);
  level == 'W' ? console_.warning("warning: " + printable(text)) : console_.line(printable(text));
}

void Trainer::start_log() {
  const config::RunConfig& c = session_.config;
  if (first()) {
    create_run_folder(folder_.path());
    io::write_file_atomic(folder_.path() / "config.resolved.yaml", config::resolved_yaml(c), "run.config");
    write_environment(folder_.path(), options_.command_line, options_.versions);
  }
  session_.mesh->world().barrier();  // the folder is there
  MetricsLog::Options log;
  log.rank = session_.mesh->world().rank();
  log.run_dir = folder_.path();
  log.run_id = state_.run_id;
  log.first_step = state_.step + 1;
  log.first_tokens = state_.tokens;
  log.every_steps = c.log.every_steps;
  log.tensorboard = c.log.tensorboard;
  log.flops_per_token = train_flops_per_token(*session_.model, c.data.seq_len);
  log.recomputed_flops_per_token = recomputed_flops_per_token(*session_.model, c.data.seq_len);
  const Device& device = *session_.device;
  log.peak_tflops = c.hardware.peak_tflops.value_or(known_peak_tflops(device));
  log.slowest_source = [this] { return loader_->slowest_source(); };
  log_ = std::make_unique<MetricsLog>(log, console_);
  for (const auto& [level, text] : early_) log_->already_shown(level, text);
  if (options_.profile_steps > 0 && first())
    trace_.emplace(*session_.device, folder_.path() / "trace.json", options_.profile_steps);
  total_memory_ = session_.device->on_host()
                      ? this_machine().memory_bytes
                      : static_cast<int64_t>(session_.device->accelerator().memory().total);
  last_save_at_ = steady_now();

  for (const auto& [name, value] : rookery_variables()) {
    if (const std::string unknown = unknown_variable(name); !unknown.empty()) {
      log_->warning(str("the environment variable ", name, unknown));
    } else if (!value.empty()) {
      log_->info(str("environment: ", name, "=", value));
    }
  }
  int64_t elements = 0;
  for (const Parameter* p : session_.model->parameters.all()) elements += p->global.numel();
  const int64_t embedding = session_.model->embedding().global.numel();
  log_->info(str(c.name, ": ", c.model.name(), ", ", human_count(static_cast<double>(elements)),
                 " parameters (", human_count(static_cast<double>(elements - embedding)),
                 " without the embedding), ", c.precision, ", ", device_text(*session_.device)));
  if (const int64_t stages = session_.mesh->degree(Axis::kPipe); stages > 1) {
    const int64_t micro_batches = c.grad_accum_steps(session_.mesh->degrees().world());
    std::string blocks;
    for (const int64_t n : stage_split(c, *session_.model, stages))
      blocks += str(blocks.empty() ? "" : ", ", n);
    const std::string text = str("pipeline: stages of ", blocks, " blocks; of a step of ", micro_batches,
                                 " micro-batches each waits at least ",
                                 fixed(100 * pipeline_bubble(stages, micro_batches), 1), " %");
    micro_batches < stages ? log_->warning(text + "; a larger global_batch_size makes that less")
                           : log_->info(text);
  }
  if (session_.mesh->world().size() == 1) {
    log_->info(str("memory: planned are ", planned_));
  } else {
    log_->info(str("mesh: ", session_.mesh->degrees(), ", zero ", session_.store->level(), "; rank 0 holds ",
                   memory_held(*session_.device)));
  }
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
