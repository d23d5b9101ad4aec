// ckpt.cpp: `rookery ckpt`: list, inspect, verify and prune the checkpoints of a run; convert stands in
// ckpt_convert.cpp. The work is done in trainer/checkpoint; here is only what is asked and how it is shown.
#include <algorithm>
#include <iostream>
#include <map>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/run_lock.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/terminal.h"
#include "trainer/loop/human.h"

namespace rookery::cli {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string padded(std::string text, size_t width) {
  text.resize(std::max(width, text.size()), ' ');
  return text;
}

std::string megabytes(uint64_t bytes) { return loop::fixed(double(bytes) / 1e6, 1) + " MB"; }

json json_of(const checkpoint::Summary& s) {
  return {{"step", s.step},
          {"folder", s.folder.string()},
          {"complete", s.problem.empty()},
          {"problem", s.problem},
          {"saved_at", s.saved_at},
          {"bytes", s.bytes},
          {"world", s.world},
          {"metric", s.metric ? json(*s.metric) : json()}};
}

// File names need not be UTF-8; JSON must be.
void print(const json& j) { std::cout << j.dump(2, ' ', false, json::error_handler_t::replace) << "\n"; }

// A run's folder, or an error: an empty answer to a mistyped name would look like a run without checkpoints.
fs::path run_of(const Arguments& arguments) {
  const fs::path run = arguments.positional()[0];
  if (!fs::is_directory(run))
    fail(ExitCode::kNoInput, "CKPT-40", run,
         ": is no folder, expected that of a run; mend it by naming run_dir");
  return run;
}

// RUN (its newest checkpoint) or the folder of one checkpoint.
fs::path checkpoint_of(const fs::path& path) {
  if (!fs::is_directory(path / "checkpoints")) return path;
  const std::vector<int64_t> steps = checkpoint::list_steps(path);
  if (steps.empty())
    fail(ExitCode::kNoInput, "CKPT-41", path, ": has no checkpoint; mend it by naming another run");
  return checkpoint::folder_of(path, steps.front());
}

int run_list(const Arguments& arguments) {
  const std::vector<checkpoint::Summary> all = checkpoint::list(run_of(arguments));
  if (arguments.flag("json")) {
    json j = json::array();
    for (const checkpoint::Summary& s : all) j.push_back(json_of(s));
    print(j);
    return 0;
  }
  if (all.empty()) {
    std::cout << printable(arguments.positional()[0]) << ": no checkpoints\n";
    return 0;
  }
  std::cout << padded("STEP", 12) << padded("SAVED (UTC)", 22) << padded("SIZE", 12) << padded("RANKS", 7)
            << padded("METRIC", 10) << "STATE\n";
  for (const checkpoint::Summary& s : all)
    std::cout << padded(str(s.step), 12) << padded(printable(s.saved_at), 22)
              << padded(megabytes(s.bytes), 12) << padded(str(s.world), 7)
              << padded(s.metric ? loop::fixed(*s.metric, 4) : "-", 10)
              << (s.problem.empty() ? "complete" : printable(s.problem)) << "\n";
  return 0;
}

int run_inspect(const Arguments& arguments) {
  const fs::path folder = checkpoint_of(arguments.positional()[0]);
  const checkpoint::Manifest m = checkpoint::read_manifest(folder);
  struct Group {
    uint64_t tensors = 0, elements = 0;
  };
  std::map<std::string, Group> groups;
  json tensors = json::array();
  for (const checkpoint::TensorEntry& t : m.tensors) {
    uint64_t elements = 1;
    for (const uint64_t d : t.shape) elements *= d;
    groups[t.group].tensors += 1;
    groups[t.group].elements += elements;
    json segments = json::array();
    for (const checkpoint::Segment& s : t.segments) segments.push_back({s.axis, s.begin, s.end, s.steps});
    tensors.push_back({{"group", t.group},
                       {"name", t.name},
                       {"dtype", t.dtype},
                       {"shape", t.shape},
                       {"segments", segments},
                       {"boxes", t.boxes.size()}});
  }
  if (arguments.flag("json")) {
    print({{"folder", folder.string()},
           {"step", m.step},
           {"run_id", m.run_id},
           {"world", m.world},
           {"saved_at", m.saved_at},
           {"bytes", m.bytes()},
           {"metric", m.metric ? json(*m.metric) : json()},
           {"state", m.state},
           {"config", m.config},
           {"tensors", tensors}});
    return 0;
  }
  std::cout << printable(folder.string()) << "\n  step " << m.step << ", run " << printable(m.run_id)
            << ", saved " << printable(m.saved_at) << " by " << m.world
            << (m.world == 1 ? " rank, " : " ranks, ") << megabytes(m.bytes()) << "\n  state "
            << printable(m.state.dump(-1, ' ', false, json::error_handler_t::replace)) << "\n";
  for (const auto& [name, g] : groups)
    std::cout << "  " << padded(printable(name), 8) << g.tensors << " tensors, "
              << loop::human_count(double(g.elements)) << " elements\n";
  if (arguments.flag("tensors"))
    for (const json& t : tensors)
      std::cout << "    "
                << padded(printable(str(t["group"].get<std::string>(), "/", t["name"].get<std::string>())),
                          44)
                << " " << printable(t["dtype"].get<std::string>()) << " " << t["shape"].dump() << "\n";
  if (arguments.flag("config")) std::cout << printable(m.config, Breaks::kKeep);
  return 0;
}

int run_verify(const Arguments& arguments) {
  std::vector<fs::path> folders;
  for (const std::string& text : arguments.positional()) {
    const fs::path path = text;
    if (!fs::is_directory(path / "checkpoints")) {
      folders.push_back(path);
      continue;
    }
    checkpoint_of(path);  // a run without any is an error
    for (const int64_t step : checkpoint::list_steps(path))
      folders.push_back(checkpoint::folder_of(path, step));
  }
  bool sound = true;
  json report = json::array();
  for (const fs::path& folder : folders) {
    const std::vector<std::string> problems = checkpoint::verify(folder);
    sound &= problems.empty();
    report.push_back({{"folder", folder.string()}, {"sound", problems.empty()}, {"problems", problems}});
    if (arguments.flag("json")) continue;
    std::cout << printable(folder.string()) << ": " << (problems.empty() ? "sound" : "DAMAGED") << "\n";
    for (const std::string& problem : problems) std::cout << "  " << printable(problem) << "\n";
  }
  if (arguments.flag("json")) print(report);
  return sound ? 0 : int(ExitCode::kData);
}

int run_prune(const Arguments& arguments) {
  const fs::path run = run_of(arguments);
  constexpr int64_t kMost = 1'000'000'000;
  const checkpoint::Retention policy{arguments.integer("keep-last", 1, kMost),
                                     arguments.integer("keep-every", 0, kMost),
                                     arguments.integer("keep-best", 0, kMost)};
  const auto show = [](const std::string& verb, const std::vector<int64_t>& steps) {
    for (const int64_t step : steps) std::cout << verb << " " << checkpoint::folder_name(step) << "\n";
    if (steps.empty()) std::cout << "nothing to remove\n";
  };
  if (arguments.flag("dry-run")) {
    show("would remove", checkpoint::would_retire(run, policy));
    return 0;
  }
  const checkpoint::RunLock lock(run);  // a training run removes its own
  // The newest that stays must be good: otherwise an older one that would go may be the last good one.
  const std::vector<checkpoint::Summary> all = checkpoint::list(run);
  const auto newest =
      std::ranges::find_if(all, [](const checkpoint::Summary& s) { return s.problem.empty(); });
  if (newest != all.end()) checkpoint::Checkpoint::open(newest->folder);
  show("removed", checkpoint::retire(run, policy));
  return 0;
}

const Option kJson = {"json", "", "print JSON"};

Command list_command() {
  Command c;
  c.name = "list";
  c.summary = "the checkpoints of a run, newest first";
  c.positional = "RUN";
  c.least_positional = c.most_positional = 1;
  c.options = {kJson};
  c.examples = {{"rookery ckpt list runs/quickstart"}};
  c.exit_codes = {ExitCode::kNoInput};
  c.run = run_list;
  return c;
}

Command inspect_command() {
  Command c;
  c.name = "inspect";
  c.summary = "what a checkpoint holds: step, training state, tensors, configuration";
  c.positional = "RUN|CHECKPOINT";
  c.least_positional = c.most_positional = 1;
  c.options = {
      {"tensors", "", "list every tensor"}, {"config", "", "print the resolved configuration"}, kJson};
  c.examples = {{"rookery ckpt inspect runs/quickstart --tensors", "of the newest checkpoint"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput};
  c.run = run_inspect;
  return c;
}

Command verify_command() {
  Command c;
  c.name = "verify";
  c.summary = "check every byte against the checksums";
  c.positional = "RUN|CHECKPOINT...";
  c.least_positional = 1;
  c.most_positional = Command::kAny;
  c.options = {kJson};
  c.examples = {{"rookery ckpt verify runs/quickstart", "all checkpoints of the run"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput};
  c.run = run_verify;
  return c;
}

Command prune_command() {
  Command c;
  c.name = "prune";
  c.summary = "remove old checkpoints";
  c.details = "The newest complete checkpoint always stays, and is verified before anything is removed.";
  c.positional = "RUN";
  c.least_positional = c.most_positional = 1;
  c.options = {{"keep-last", "N", "keep the newest N", "3"},
               {"keep-every", "N", "keep those whose step is a multiple of N; 0: none for that", "0"},
               {"keep-best", "N", "keep the N with the lowest validation metric", "0"},
               {"dry-run", "", "only tell what would be removed"}};
  c.examples = {{"rookery ckpt prune runs/quickstart --keep-last 1 --dry-run"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput, ExitCode::kCannotCreate};
  c.run = run_prune;
  return c;
}

}  // namespace

Command ckpt_command() {
  Command c;
  c.name = "ckpt";
  c.summary = "list, inspect, verify, prune and convert checkpoints";
  c.examples = {{"rookery ckpt list runs/quickstart"}};
  c.children = {list_command(), inspect_command(), verify_command(), prune_command(), ckpt_convert_command()};
  return c;
}

}  // namespace rookery::cli
