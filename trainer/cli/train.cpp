// train.cpp: `rookery train CONFIG... [key=value...]`.
#include <cmath>
#include <cstdio>

#include "data/tokenizer/tokenizer.h"
#include "parallel/comm/world.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/version.h"
#include "trainer/loop/device.h"
#include "trainer/loop/environment.h"
#include "trainer/loop/human.h"
#include "trainer/loop/memory_plan.h"
#include "trainer/loop/trainer.h"
#include "trainer/plan/count.h"

namespace rookery::cli {
namespace {

using loop::fixed;
using loop::human_count;
using loop::mib;

void print(const std::string& line) { std::printf("%s\n", line.c_str()); }

// The plan of a run: everything is opened and checked, nothing is computed and nothing is written.
void dry_run(const config::LoadedRun& run) {
  const config::RunConfig& c = run.config;
  loop::Session session =
      loop::make_session(config::parse_run(config::resolved_yaml(c), "the configuration"), DeviceType::kMeta);
  const auto loader = loop::make_loader(c, session.model->vocab_size());
  loop::open_validation(c, session.model->vocab_size());
  const int64_t rows = c.recipe->micro_batch_size, accum = c.grad_accum_steps(1);

  print(str("run ", c.name, " in ", loop::printable(c.run_dir.string())));
  print("\nparameters");
  int64_t total = 0;
  for (const auto& [name, count] : plan::parameters_by_module(*session.model)) {
    print(str("  ", name, std::string(name.size() < 16 ? 16 - name.size() : 1, ' '), count));
    total += count;
  }
  print(str("  total           ", total));

  const DeviceType target = loop::device_type(c);
  const loop::MemoryPlan memory = loop::plan_memory(c, target);
  print("\nmemory");
  print(str("  parameters      ", mib(memory.parameters)));
  print(str("  gradients       ", mib(memory.gradients)));
  print(str("  moments         ", mib(memory.moments)));
  if (memory.copies > 0) print(str("  compute copies  ", mib(memory.copies)));
  print(str("  activations     ", mib(memory.activations)));
  print(str("  workspaces      ", mib(memory.workspaces)));
  const bool on_gpu = target == DeviceType::kCuda;
  print(str("  total           ", mib(memory.total()),
            on_gpu ? " of the GPU" : str(" of ", mib(loop::available_memory_bytes()), " free")));

  print("\nbatch");
  print(str("  micro_batch_size ", rows, " x grad_accum_steps ", accum, " = global_batch_size ",
            c.recipe->global_batch_size, " sequences"));
  print(str("  x seq_len ", c.data.seq_len, " = ", c.tokens_per_step(), " tokens a step; ", c.total_steps(),
            " steps = ", human_count(static_cast<double>(c.total_steps() * c.tokens_per_step())), " tokens"));
  for (size_t i = 0; i < loader->sources().size(); ++i)
    print(str("  source ", loop::printable(loader->sources()[i].set->path().string()), ": ",
              fixed(static_cast<double>(
                        loader->samples_by_source(c.total_steps() * c.recipe->global_batch_size)[i]) /
                        static_cast<double>(loader->samples_per_epoch(i)),
                    2),
              " epochs"));

  print("\nlearning rate");
  const Schedule schedule = loop::make_schedule(c);
  const int64_t last = c.total_steps() - 1;
  for (const auto& [label, step] : {std::pair<const char*, int64_t>{"first", 0},
                                    {"warm-up done", std::min(last, c.optim.warmup_steps)},
                                    {"10 %", last / 10},
                                    {"50 %", last / 2},
                                    {"last", last}})
    print(str("  step ", step, " (", label, "): ", loop::scientific(schedule.at(step), 3)));

  print("\ncheckpoints");
  print(str("  ", mib(3 * memory.parameters), " each, at most ",
            c.checkpoint.keep_last + c.checkpoint.keep_best, " beside the milestones"));

  if (c.data.has_tokenizer()) {
    const auto tokenizer = data::load_tokenizer(c.data.tokenizer);
    print("\nfirst samples");
    for (int64_t i = 0; i < 3; ++i) {
      const data::Batch batch = loader->read(i, 1);
      std::string text = tokenizer->decode(batch.x);
      print(str("  ", i, ": ", loop::printable(text.substr(0, 70)), text.size() > 70 ? " ..." : ""));
    }
  }
}

int run(const Arguments& a) {
  std::vector<std::filesystem::path> files(a.positional().begin(), a.positional().end());
  for (const std::string& file : a.texts("config")) files.emplace_back(file);
  if (files.empty())
    fail(ExitCode::kUsage, "CLI-04",
         "rookery train: no configuration file. Example: rookery train configs/quickstart.yaml");
  const Launch launch = read_launch();
  config::LoadedRun loaded = config::load_run(files, a.overrides(), launch.size);
  if (a.flag("dry-run")) {
    dry_run(loaded);
    return 0;
  }
  loop::TrainOptions options;
  options.fresh = a.flag("fresh");
  options.force = a.flag("force");
  options.resume_from = a.maybe("resume-from").value_or("");
  if (options.fresh && !options.resume_from.empty())
    fail(ExitCode::kUsage, "CLI-09", "--fresh begins anew, --resume-from goes on: give one of them");
  options.accept_data_change = a.flag("accept-data-change");
  if (const auto limit = a.maybe("max-time")) {
    std::string why;
    const auto seconds = config::parse_number(*limit, config::Unit::kSeconds, why);
    if (!seconds || *seconds <= 0)
      fail(ExitCode::kUsage, "CLI-05", "--max-time ", *limit, ": expected a duration such as 3h55m");
    options.max_seconds = *seconds;
  }
  if (a.given("profile")) options.profile_steps = a.integer("profile", 1, 1000);
  options.command_line = {a.command()};
  for (const auto& word : a.positional()) options.command_line.push_back(word);
  for (const auto& word : a.overrides()) options.command_line.push_back(word);
  options.versions = component_versions();
  World::Options ranks = World::from_environment();
  for (const auto& [name, version] : options.versions) ranks.version += str(name, " ", version, "\n");
  ranks.fingerprint = config::fingerprint(loaded.config);
  World world(ranks, launch);
  if (loaded.config.threads == 0 && world.local_size() > 1)
    loaded.config.threads = std::max(1, loop::this_machine().cores / world.local_size());
  options.on_phase = [&](std::string_view phase) { world.watch()->set_phase(phase); };
  loop::Console::Style style = loop::Console::detect();
  style.color = a.color(2);
  style.quiet = world.rank() > 0;
  ExitCode code = ExitCode::kOk;
  world.run([&] {
    loop::Console console(style);
    const Mesh mesh(loaded.config.mesh.degrees(world.size()), world.communicator());
    loop::Trainer trainer(std::move(loaded), options, console, mesh);
    code = trainer.run();
  });
  return static_cast<int>(code);
}

}  // namespace

Command train_command() {
  Command c;
  c.name = "train";
  c.summary = "train a model, or go on where its run stopped";
  c.details =
      "Reads one or more YAML files (later ones win) and overrides, trains to the end of the schedule and "
      "leaves checkpoints and logs in "
      "run_dir. A run folder that holds checkpoints is resumed from the newest whole one, bit for bit. "
      "SIGTERM, SIGUSR1, Ctrl-C and a "
      "file RUN/STOP save and leave; RUN/SAVE saves.";
  c.positional = "CONFIG... [key=value...]";
  c.most_positional = Command::kAny;
  c.takes_overrides = true;
  c.options = {
      {"dry-run", "", "print the plan (parameters, memory, batch, schedule, samples) and exit"},
      {"max-time", "TIME", "save and exit with 75 before this much time has passed, e.g. 3h55m"},
      {"resume-from", "STEP|FOLDER", "go on from this checkpoint instead of the newest"},
      {"fresh", "", "begin anew; refuses a folder that holds a run"},
      {"force", "", "with --fresh: remove the run's checkpoints; with --resume-from: the newer ones"},
      {"accept-data-change", "", "resume although data, precision or model keys differ"},
      {"profile", "STEPS", "write what these steps do to RUN/trace.json, for chrome://tracing or Perfetto",
       "", false, 0, "1"},
      {"config", "FILE", "one more configuration file", "", true, 'c'}};
  c.examples = {{"rookery train configs/quickstart.yaml optim.lr=1e-3", "one value changed"}};
  c.exit_codes = {ExitCode::kData,    ExitCode::kNoInput, ExitCode::kUnavailable, ExitCode::kCannotCreate,
                  ExitCode::kStopped, ExitCode::kConfig,  ExitCode::kNumerics,    ExitCode::kInterrupted};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
