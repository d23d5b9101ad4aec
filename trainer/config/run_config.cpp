// run_config.cpp: the keys with their help and bounds, and the conditions between them.
#include "trainer/config/run_config.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "kernels/base/io.h"
#include "kernels/base/parallel.h"

namespace rookery::config {

namespace {
constexpr double kMostSteps = 1e12;  // far beyond any run; keeps sums of steps inside 64 bits
constexpr double kMostBatch = 1e9;
constexpr double kMostRanks = 1 << 15;  // four axes of it fit 64 bits
}  // namespace

void register_model_config(const std::string& arch, Registry<ModelConfig>::Factory factory) {
  Registry<ModelConfig>::add(arch, std::move(factory));
}

void register_recipe_config(const std::string& kind, Registry<RecipeConfig>::Factory factory) {
  Registry<RecipeConfig>::add(kind, std::move(factory));
}

void RecipeConfig::fields(Visitor& v) {
  v("micro_batch_size", micro_batch_size, "sequences that one rank computes at once").between(1, kMostBatch);
  v("global_batch_size", global_batch_size,
    "sequences of one optimizer step over all ranks; a multiple of micro_batch_size x ranks, the quotient is "
    "the number of "
    "gradient accumulation steps")
      .between(1, kMostBatch);
  v("max_steps", max_steps, "length of the run in optimizer steps (this or max_tokens)")
      .between(1, kMostSteps);
  v("max_tokens", max_tokens, "length of the run in tokens, rounded down to whole steps").at_least(1);
  v("recompute", recompute,
    "what the backward pass computes again to save memory, the result being the same to the bit: selective, "
    "what is cheap (norms, mixes, gates); block, each block from its input")
      .one_of({"none", "selective", "block"});
}

void SourceConfig::fields(Visitor& v) {
  v("path", path, "token set made by `rookery data prepare`, or a .bin/.idx pair").required();
  v("weight", weight, "share of the tokens that come from here, relative to the other sources").positive();
  v("name", name, "name in logs; empty: the name of the file");
}

void ValidationSet::fields(Visitor& v) {
  v("name", name, "name in logs and metrics: val/NAME/loss").required();
  v("path", path, "token set").required();
}

void DataConfig::fields(Visitor& v) {
  v("sources", sources, "what the training tokens are read from").required();
  v("tokenizer", tokenizer, "vocabulary file that the data was made with; none: the data is no text")
      .required();
  v("sampling", sampling, "order of the windows").one_of({"shuffled", "sequential", "magic_prime"});
  v("seq_len", seq_len, "tokens of one sequence (T)").between(1, kMostBatch);
  v("val", val, "held-out token sets, evaluated every eval.every_steps");
}

void OptimConfig::fields(Visitor& v) {
  v("lr", lr, "peak learning rate").positive();
  v("lr_final", lr_final, "learning rate at the last step").at_least(0);
  v("schedule", schedule,
    "way from lr to lr_final after the warm-up; cosine is half a wave, quarter_cosine that of the GoldFinch "
    "code; wsd "
    "stays at lr and decays in the last decay_steps")
      .one_of({"cosine", "quarter_cosine", "linear", "constant", "wsd"});
  v("warmup_steps", warmup_steps, "steps of linear warm-up").between(0, kMostSteps);
  v("warmup_from", warmup_from, "factor on lr at the first step of the warm-up").between(0, 1);
  v("decay_steps", decay_steps, "steps of the final decay of schedule wsd").between(0, kMostSteps);
  v("beta1", beta1, "decay of the first moment").between(0, 0.999999);
  v("beta2", beta2, "decay of the second moment").between(0, 0.999999);
  v("eps", eps, "added to the root of the second moment").positive();
  v("weight_decay", weight_decay, "decoupled decay of the large matrices").at_least(0);
  v("grad_clip", grad_clip, "limit of the global gradient norm; 0: no clipping").at_least(0);
}

MeshDegrees MeshConfig::degrees(int64_t world) const {
  MeshDegrees degrees{pipe, data, seq, tensor, expert};
  if (data == 0) degrees.data = std::max<int64_t>(1, world / (seq * tensor * pipe));
  return degrees;
}

void MeshConfig::fields(Visitor& v) {
  v("data", data, "ranks, or groups of them, that compute other sequences of the batch; 0: all that are left")
      .between(0, kMostRanks);
  v("seq", seq, "ranks that share the tokens of a sequence; divides data.seq_len").between(1, kMostRanks);
  v("seq_method", seq_method,
    "how the state of a recurrence gets to the ranks with the tokens behind: ring hands it on from rank to "
    "rank, each waits; scan computes more, but all ranks at once")
      .one_of({"ring", "scan"});
  v("tensor", tensor, "ranks that share heads, hidden channels and vocabulary").between(1, kMostRanks);
  v("pipe", pipe, "ranks that share the blocks").between(1, kMostRanks);
  v("pipe_split", pipe_split,
    "blocks of each rank of pipe, in their order; empty: so that none takes longer than it must")
      .between(1, 1024);
  v("expert", expert, "ranks that share the experts, out of data x seq").between(1, kMostRanks);
  v("zero", zero,
    "what the ranks of data x seq divide among themselves: 0 nothing; 1 moments; 2 gradients too; 3 "
    "parameters too")
      .between(0, 3);
}

void CheckpointConfig::fields(Visitor& v) {
  v("every_steps", every_steps, "save every so many steps; 0: not by steps").between(0, kMostSteps);
  v("every_minutes", every_minutes, "save every so many minutes; 0: not by time")
      .unit(Unit::kMinutes)
      .at_least(0);
  v("keep_last", keep_last, "newest checkpoints to keep").between(1, 1e6);
  v("keep_every", keep_every, "keep those of every so many steps for good; 0: none").between(0, kMostSteps);
  v("keep_best", keep_best, "keep so many of the lowest validation loss; a new lowest one is saved at once")
      .between(0, 1e6);
  v("async", async,
    "training goes on while a thread writes the checkpoint, from a copy that takes the memory of one");
}

void EvalConfig::fields(Visitor& v) {
  v("every_steps", every_steps, "evaluate data.val every so many steps; 0: never").between(0, kMostSteps);
  v("max_tokens", max_tokens, "tokens taken from each set; 0: all").at_least(0);
  v("stop_accuracy", stop_accuracy,
    "end the run once this share of the targets of each set is answered right, where the recipe asks for "
    "answers; 0: never")
      .between(0, 1);
}

void LogConfig::fields(Visitor& v) {
  v("every_steps", every_steps, "steps between log lines").between(1, kMostSteps);
  v("norms_every_steps", norms_every_steps,
    "steps between records of the norms of parameters, gradients and updates, by part of the model; 0: never")
      .between(0, kMostSteps);
  v("tensorboard", tensorboard, "write TensorBoard event files to RUN/tb");
}

void InitConfig::fields(Visitor& v) {
  v("from", from, "checkpoint to take the weights from (new optimizer, step 0); empty: new weights");
}

void HardwareConfig::fields(Visitor& v) {
  v("peak_tflops", peak_tflops,
    "dense bf16 peak of the device, which MFU and HFU are shares of; default: the data sheet of a known GPU")
      .positive();
}

void RunConfig::fields(Visitor& v) {
  v("name", name, "name of the run; empty: the name of the configuration file");
  v("run_dir", run_dir, "folder of logs and checkpoints; empty: runs/NAME");
  v("seed", seed, "of the weights, the order of the data and every random choice").at_least(0);
  v("precision", precision,
    "of the matrix products, on a GPU of all activations too; masters, states and sums are fp32 (fp64 with "
    "fp64, on the CPU alone)")
      .one_of({"fp32", "bf16", "fp64"});
  v("device", device,
    "what computes; auto: the CPU, as long as training on a GPU was seen under emulation alone; emul: the "
    "GPU's kernels emulated on the CPU, for tests")
      .one_of({"auto", "cpu", "cuda", "emul"});
  v("graph", graph,
    "auto: on a GPU the whole step is noted as a CUDA graph once its memory repeats, and replayed; off: "
    "kernels are launched one by one")
      .one_of({"auto", "off"});
  v("deterministic", deterministic,
    "on a GPU: matrix products by the library's first choice and not by what a measurement finds to be the "
    "fastest, so that another process gives the same bits. A CPU always does");
  v("threads", threads, "worker threads; 0: one for each processor. Sums depend on it in the last bits")
      .between(0, kMaxThreads);
  v("model", model, "the network");
  v("data", data, "tokens to train and evaluate on");
  v("recipe", recipe, "what one step is and how many there are");
  v("optim", optim, "AdamW and its schedule");
  v("mesh", mesh, "how the ranks divide the work; with one rank there is nothing to divide");
  v("checkpoint", checkpoint, "when to save and what to keep");
  v("eval", eval, "evaluation during training");
  v("log", log, "progress line and metrics");
  v("init", init, "where the weights start");
  v("hardware", hardware, "facts about the machine that cannot be found out");
}

namespace {

// "24 or 32": the multiples of `unit` around `value`.
std::string multiples_around(int64_t value, int64_t unit) {
  int64_t below = value / unit * unit;
  return below > 0 ? str(below, " or ", below + unit) : str(unit);
}

void check_batch(const RunConfig& c, int64_t world, std::vector<Finding>& findings) {
  const int64_t micro = c.recipe->micro_batch_size, global = c.recipe->global_batch_size;
  const int64_t ranks = c.mesh.degrees(world).data;
  const int64_t unit = micro * ranks;  // both are bounded, so the product fits
  if (global % unit != 0) {
    findings.push_back(
        {"recipe.global_batch_size",
         str("global_batch_size ", global, " is not divisible by micro_batch_size ", micro, " x ", ranks,
             world == ranks ? "" : " data-parallel", ranks == 1 ? " rank = " : " ranks = ", unit, "; use ",
             multiples_around(global, unit))});
  }
}

void check_stages(const MeshConfig& m, int64_t num_blocks, std::vector<Finding>& findings) {
  if (m.pipe > num_blocks)
    findings.push_back({"mesh.pipe", str("pipe ", m.pipe, ": each stage needs a block, the model has ",
                                         num_blocks, "; use at most that")});
  if (m.pipe_split.empty()) return;
  std::string sum;
  for (const int64_t blocks : m.pipe_split) sum += str(sum.empty() ? "" : " + ", blocks);
  if (static_cast<int64_t>(m.pipe_split.size()) != m.pipe)
    findings.push_back({"mesh.pipe_split", str("pipe_split has ", m.pipe_split.size(), " entries (", sum,
                                               "), expected one for each of pipe ", m.pipe)});
  const int64_t blocks = std::accumulate(m.pipe_split.begin(), m.pipe_split.end(), int64_t{0});
  if (blocks != num_blocks)
    findings.push_back(
        {"mesh.pipe_split", str("pipe_split ", sum, " = ", blocks, " blocks, the model has ", num_blocks)});
}

// Ranks are what was started; the axes must use up all of them.
void check_mesh(const RunConfig& c, int64_t world, std::vector<Finding>& findings) {
  const MeshConfig& m = c.mesh;
  const MeshDegrees degrees = m.degrees(world);
  const int64_t others = m.seq * m.tensor * m.pipe;
  if (degrees.world() != world)
    findings.push_back(
        {"mesh", str("data ", degrees.data, " x seq ", m.seq, " x tensor ", m.tensor, " x pipe ", m.pipe,
                     " = ", degrees.world(), " ranks, started ", world == 1 ? "is 1" : str("are ", world),
                     "; start ", m.data == 0 ? str("a multiple of ", others) : str(degrees.world()),
                     world % others == 0 ? str(", or set mesh.data to ", world / others) : "")});
  if (degrees.data * degrees.seq % degrees.expert != 0)
    findings.push_back({"mesh.expert", str("expert ", m.expert, " does not divide data ", degrees.data,
                                           " x seq ", m.seq, " = ", degrees.data * degrees.seq)});
  if (c.data.seq_len % degrees.seq != 0)
    findings.push_back(
        {"mesh.seq", str("seq ", m.seq, " does not divide data.seq_len ", c.data.seq_len, " = ",
                         c.data.seq_len / m.seq, " x ", m.seq, " + ", c.data.seq_len % m.seq,
                         "; use seq_len ", multiples_around(c.data.seq_len, m.seq), ", or another degree")});
  if (m.seq > 1 && c.recipe->kind() == "mqar")
    findings.push_back(
        {"mesh.seq", str("seq ", m.seq, ": what mqar asks of a sequence needs the whole of it; use seq 1")});
  if (degrees.tensor > 1 && (c.device == "cuda" || c.device == "emul"))
    findings.push_back({"mesh.tensor", str("tensor ", m.tensor, " needs device: cpu; the update on device ",
                                           c.device, " takes the gradient norm of one rank")});
  for (const ModelConfig::Shared& shared : c.model->shared())
    if (shared.size % degrees.tensor != 0)
      findings.push_back(
          {"mesh.tensor", str("tensor ", m.tensor, " does not divide model.", shared.key, " ", shared.size,
                              " = ", shared.size / degrees.tensor, " x ", degrees.tensor, " + ",
                              shared.size % degrees.tensor, "; use ", shared.key, " ",
                              multiples_around(shared.size, degrees.tensor), ", or another degree")});
  check_stages(m, c.model->num_blocks(), findings);
}

void check_length(const RunConfig& c, std::vector<Finding>& findings) {
  if (c.recipe->max_steps.has_value() == c.recipe->max_tokens.has_value()) {
    findings.push_back({"recipe", c.recipe->max_steps
                                      ? "max_steps and max_tokens are both given; keep one"
                                      : "the length of the run is missing: give max_steps or max_tokens"});
    return;
  }
  const int64_t tokens = c.tokens_per_step();  // at most 1e18
  int64_t total = 0;
  if (c.recipe->max_steps && __builtin_mul_overflow(tokens, *c.recipe->max_steps, &total)) {
    findings.push_back({"recipe.max_steps",
                        str("global_batch_size ", c.recipe->global_batch_size, " x seq_len ", c.data.seq_len,
                            " x max_steps ", *c.recipe->max_steps, " tokens do not fit 64 bits")});
    return;
  }
  const int64_t steps = c.total_steps();
  if (steps < 1) {
    findings.push_back(
        {"recipe.max_tokens",
         str("max_tokens ", *c.recipe->max_tokens, " is less than one step of global_batch_size ",
             c.recipe->global_batch_size, " x seq_len ", c.data.seq_len, " = ", tokens, " tokens")});
    return;
  }
  const OptimConfig& o = c.optim;
  if (o.schedule != "constant" && o.warmup_steps >= steps) {
    findings.push_back({"optim.warmup_steps", str("warmup_steps ", o.warmup_steps, " leaves nothing of the ",
                                                  steps, " steps of the run")});
  } else if (o.schedule == "wsd" && o.decay_steps > steps - o.warmup_steps) {
    findings.push_back(
        {"optim.decay_steps", str("decay_steps ", o.decay_steps, " is more than ", steps,
                                  " steps - warmup_steps ", o.warmup_steps, " = ", steps - o.warmup_steps)});
  }
}

void check_schedule(const OptimConfig& o, std::vector<Finding>& findings) {
  if (o.schedule != "constant" && o.lr_final > o.lr) {
    findings.push_back({"optim.lr_final", str("lr_final ", o.lr_final, " is larger than lr ", o.lr)});
  }
  if (o.schedule == "wsd" && o.decay_steps == 0) {
    findings.push_back({"optim.decay_steps",
                        "schedule wsd needs decay_steps, the steps of its final decay; expected at least 1"});
  }
  if (o.schedule != "wsd" && o.decay_steps > 0) {
    findings.push_back({"optim.decay_steps", str("decay_steps ", o.decay_steps,
                                                 " belongs to schedule wsd, the schedule is ", o.schedule)});
  }
}

void check_data(const RunConfig& c, std::vector<Finding>& findings) {
  std::set<std::string> names;
  for (size_t i = 0; i < c.data.val.size(); ++i) {
    const std::string& name = c.data.val[i].name;
    if (!names.insert(name).second)
      findings.push_back(
          {str("data.val[", i, "].name"), str("the name '", name, "' is taken by another set")});
    if (name.find('/') != std::string::npos) {
      findings.push_back({str("data.val[", i, "].name"),
                          str("the name '", name, "' must not hold '/': metrics are named val/NAME/loss")});
    }
  }
  double sum = 0;
  for (const SourceConfig& source : c.data.sources) sum += source.weight;
  if (!std::isfinite(sum))
    findings.push_back({"data.sources", "the sum of the weights does not fit a double"});
  if (c.eval.every_steps > 0 && c.data.val.empty()) {
    findings.push_back({"eval.every_steps", str("every_steps ", c.eval.every_steps,
                                                " needs a set to evaluate; list one in data.val")});
  }
  if (c.checkpoint.keep_best > 0 && c.eval.every_steps == 0) {
    findings.push_back({"checkpoint.keep_best", str("keep_best ", c.checkpoint.keep_best,
                                                    " needs validation losses; set eval.every_steps")});
  }
}

}  // namespace

void RunConfig::validate(int64_t world, const Origins& origins) const {
  RK_CHECK(model && recipe, "[config] validate needs a model and a recipe");
  RK_CHECK(world >= 1, "[config] world is ", world);
  std::vector<Finding> findings;
  check_data(*this, findings);
  check_mesh(*this, world, findings);
  check_batch(*this, world, findings);
  check_schedule(optim, findings);
  check_length(*this, findings);
  if (precision == "fp64" && (device == "cuda" || device == "emul"))
    findings.push_back({"precision", str("precision fp64 is for the CPU, the device is ", device,
                                         "; use fp32 or bf16, or device: cpu")});
  model->check(findings);
  recipe->check(findings);
  std::vector<Problem> problems;
  for (const Finding& f : findings) {
    Problem problem;
    problem.place = origin_of(origins, f.path);
    problem.path = f.path;
    problem.message = f.message;
    problems.push_back(problem);
  }
  throw_problems(problems);
}

LoadedRun load_run(const std::vector<fs::path>& files, const std::vector<std::string>& overrides,
                   int64_t world) {
  LoadedRun run;
  std::unique_ptr<Member> section = make_member(run.config);
  run.origins = read_config(*section, files, overrides, &run.files);
  RunConfig& c = run.config;
  if (c.name.empty()) c.name = files.empty() ? "run" : files.back().stem().string();
  if (c.run_dir.empty()) c.run_dir = fs::path("runs") / c.name;
  c.validate(world == kWorldOfMesh ? c.mesh.degrees(1).world() : world, run.origins);
  return run;
}

RunConfig parse_run(const std::string& yaml, const std::string& name) {
  std::vector<Problem> problems;
  Node tree = parse_yaml(std::make_shared<Source>(Source{name, yaml, false}), problems);
  RunConfig config;
  read_tree(tree, *make_member(config), problems);
  std::erase_if(problems, [](const Problem& p) { return p.missing && p.path != "model.arch"; });
  throw_problems(problems);
  return config;
}

std::string resolved_yaml(const RunConfig& config, const Origins* origins) {
  // fields() gives access to the members for reading and writing alike; here they are only read.
  return to_yaml(*make_member(const_cast<RunConfig&>(config)), origins);
}

std::string fingerprint(const RunConfig& config) { return io::sha256(resolved_yaml(config)); }

ResumeClass resume_class(const std::string& path) {
  auto in = [&](std::string_view section) {
    return path == section || path.starts_with(str(section, ".")) || path.starts_with(str(section, "["));
  };
  // The files of a data set may move; what they hold is compared by their checksums, not here.
  if (in("data.val") || in("data.tokenizer") || (in("data.sources") && !path.ends_with("]"))) {
    return in("data.val") ? ResumeClass::kFree : ResumeClass::kNote;
  }
  for (std::string_view section : {"model", "data", "recipe.kind", "precision", "seed"}) {
    if (in(section)) return ResumeClass::kStop;
  }
  for (std::string_view section :
       {"name", "run_dir", "device", "graph", "checkpoint", "eval", "log", "hardware"}) {
    if (in(section)) return ResumeClass::kFree;
  }
  return ResumeClass::kNote;
}

ResumeChanges resume_changes(const RunConfig& saved, const RunConfig& now) {
  ResumeChanges changes;
  for (Difference& d :
       differences(*make_member(const_cast<RunConfig&>(saved)), *make_member(const_cast<RunConfig&>(now)))) {
    // A source that is there on one side only changes the order of the data, wherever its files lie.
    const bool source_added = d.path.starts_with("data.sources") && (d.left.empty() || d.right.empty());
    ResumeClass c = source_added ? ResumeClass::kStop : resume_class(d.path);
    (c == ResumeClass::kStop   ? changes.stop
     : c == ResumeClass::kNote ? changes.note
                               : changes.free)
        .push_back(std::move(d));
  }
  return changes;
}

}  // namespace rookery::config
