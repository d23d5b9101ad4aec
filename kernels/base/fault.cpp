// fault.cpp: the table of all fault points, the reader of ROOKERY_FAULT, and what happens at a point.
// Who passes points: io.cpp for every file operation, input_file.cpp for reads of data, and the loop for the
// faults of a training step.
#include "kernels/base/fault.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "kernels/base/error.h"

namespace rookery {
namespace {

// What the I/O layer does under one prefix; each step is the point "<prefix>.<step>".
enum Steps : unsigned {
  kOpen = 1,
  kWrite = 2,
  kFsync = 4,
  kClose = 8,
  kRename = 16,
  kRemove = 32,
  kExchange = 64,
  kBare = 128,  // the point is the prefix itself
  kFile = kOpen | kWrite | kFsync | kClose,
  kAtomicFile = kFile | kRename,
};

struct Row {
  std::string_view prefix;
  unsigned steps;
  std::string_view help;
};

// One row for each `point` that is handed to the I/O layer, or passed directly.
constexpr Row kRows[] = {
    {"ckpt.shard", kFile, "a rank's HDF5 file of a checkpoint"},
    {"ckpt.manifest", kFile, "the manifest of a checkpoint, written last"},
    {"ckpt", kRename | kExchange, "the folder of a checkpoint taking its final name"},
    {"ckpt.latest", kAtomicFile, "the pointer to the newest checkpoint"},
    {"ckpt.retire", kRemove, "retention: the manifest first, then the rest of an old checkpoint"},
    {"ckpt.probe", kFile | kRemove, "the trial write before training"},
    {"ckpt.clean", kRemove, "leftovers of interrupted saves"},
    {"run.lock", kFile | kRemove, "the lock of a run folder"},
    {"tokenizer.vocab", kAtomicFile, "a learned vocabulary"},
    {"data.tokens", kAtomicFile | kRemove, "a token data set"},
    {"run.environment", kAtomicFile, "env.json of a run"},
    {"run.config", kAtomicFile, "config.resolved.yaml of a run"},
    {"run.trace", kAtomicFile, "trace.json of `rookery train --profile`"},
    {"eval.result", kAtomicFile, "the result file of `rookery eval`"},
    {"state", kAtomicFile | kRemove, "a recurrent state saved by `rookery generate`"},
    {"run.control", kRemove, "RUN/STOP or RUN/SAVE being taken"},
    {"log.metrics", kFile, "metrics.jsonl"},
    {"log.text", kFile, "train.log"},
    {"log.tensorboard", kFile, "a TensorBoard event file"},
    {"bench.report", kAtomicFile, "gpu-check.json and gpu-check.md of `rookery bench report`"},
    {"plot.svg", kAtomicFile, "a picture of `rookery plot`"},
    {"compare.out", kAtomicFile, "a table or picture of `rookery compare`"},
    {"data.prepare", kAtomicFile | kRemove, "the unfinished work of rookery data prepare and its journal"},
    {"doctor", kAtomicFile, "the probe files of `rookery doctor`"},
    {"weights.file", kFile, "a file of converted weights"},
    {"weights", kRename | kExchange | kRemove, "converted weights taking their final name"},
    {"cuda.products", kAtomicFile, "which matrix products were the fastest on a GPU"},
    {"io.mkdir", kBare, "a folder being made"},
    {"io.syncdir", kBare, "fsync of a folder after a rename"},
    {"data.read", kBare, "a read of a text file or token set, which `eio` fails"},
    {"comm.start", kBare, "a rank, before it joins its world"},
    {"comm.collective", kBare, "a rank's call of a collective, before it takes part"},
    {"train.loss", kBare, "the loss of a training step, which `nan` replaces"},
    {"test", kAtomicFile | kRemove | kExchange | kBare, "files that only the tests write"},
};

struct Step {
  unsigned bit;
  std::string_view suffix, help;
};
constexpr Step kStepNames[] = {
    {kOpen, ".open", "before it is created"},        {kWrite, ".write", "before each write"},
    {kFsync, ".fsync", "before its fsync"},          {kClose, ".close", "before it is closed"},
    {kRename, ".rename", "before it is renamed"},    {kRename, ".renamed", "after it was renamed"},
    {kRemove, ".remove", "before each removal"},     {kExchange, ".exchange", "before the exchange"},
    {kExchange, ".exchanged", "after the exchange"}, {kBare, "", "when it happens"},
};

// A rule meets these under their full names alone: threads beside the main one pass them at any time, so a
// "*@17" that counted them would be another point each time.
constexpr std::string_view kOnlyByName[] = {"data.read", "comm.collective"};

struct Rule {
  std::string pattern;  // a name, or a prefix when `prefix` is set
  bool prefix = false;
  long at = 0;  // 0: every time
  std::string action;
  long delay_ms = 0;
  long matched = 0;

  bool matches(std::string_view name) const {
    if (!prefix) return name == pattern;
    return name.starts_with(pattern) && std::ranges::find(kOnlyByName, name) == std::end(kOnlyByName);
  }
};

FaultAction returned_action(std::string_view action) {
  if (action == "enospc") return FaultAction::kEnospc;
  if (action == "eio") return FaultAction::kEio;
  if (action == "short") return FaultAction::kShortWrite;
  if (action == "flip") return FaultAction::kBitFlip;
  if (action == "nan") return FaultAction::kNan;
  return FaultAction::kNone;
}

std::optional<long> positive_number(std::string_view text) {
  long value = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (ec != std::errc() || end != text.data() + text.size() || value < 1) return std::nullopt;
  return value;
}

// NAME[@K]:ACTION, where NAME may end in '*'.
std::optional<Rule> parse_rule(std::string_view text) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  std::string_view name = text.substr(0, colon), action = text.substr(colon + 1);
  Rule rule;
  if (const size_t at = name.find('@'); at != std::string_view::npos) {
    const auto k = positive_number(name.substr(at + 1));
    if (!k) return std::nullopt;
    rule.at = *k;
    name = name.substr(0, at);
  }
  if (name.ends_with('*')) {
    rule.prefix = true;
    name.remove_suffix(1);
  }
  rule.pattern = name;
  if (action.starts_with("delay=")) {
    const auto ms = positive_number(action.substr(6));
    if (!ms) return std::nullopt;
    rule.delay_ms = *ms;
    action = "delay";
  } else if (action != "kill" && action != "stop" && action != "throw" && action != "list" &&
             returned_action(action) == FaultAction::kNone) {
    return std::nullopt;
  }
  rule.action = action;
  return rule;
}

std::vector<Rule> read_rules() {
  std::vector<Rule> rules;
  const char* env = std::getenv("ROOKERY_FAULT");
  std::string_view text = env ? env : "";
  while (!text.empty()) {
    const std::string_view one = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), one.size() + 1));
    const auto rule = parse_rule(one);
    if (!rule)
      fail(ExitCode::kUsage, "FAULT-02", "ROOKERY_FAULT: found '", one,
           "', expected NAME[@K]:kill|stop|throw|delay=MS|enospc|eio|short|flip|nan|list");
    rules.push_back(*rule);
  }
  return rules;
}

struct State {
  std::mutex mutex;
  std::vector<Rule> rules = read_rules();
  std::map<std::string_view, size_t>
      index;  // name of a point -> its place in `uses`; the names are the table's
  std::vector<FaultPointUse> uses;

  // Index into `uses` of a point of the table; npos for one that is not there.
  size_t use_of(std::string_view name) {
    if (const auto it = index.find(name); it != index.end()) return it->second;
    for (const FaultPointInfo& info : fault_point_table()) {
      if (info.name != name) continue;
      index.emplace(info.name, uses.size());
      uses.push_back({std::string(name), 0});
      return uses.size() - 1;
    }
    return std::string::npos;
  }
};

State& state() {
  static State s;
  return s;
}

}  // namespace

FaultAction fault_point(std::string_view name) {
  State& s = state();
  Rule hit;
  {
    std::lock_guard lock(s.mutex);
    const size_t use = s.use_of(name);
    RK_CHECK(use != std::string::npos, "fault point '", name,
             "' is missing in the table of kernels/base/fault.cpp");
    ++s.uses[use].count;
    for (Rule& rule : s.rules) {
      if (!rule.matches(name)) continue;
      ++rule.matched;
      if (rule.at == 0 || rule.at == rule.matched) hit = rule;
    }
  }
  if (hit.action == "kill") ::kill(::getpid(), SIGKILL);
  if (hit.action == "stop") ::kill(::getpid(), SIGSTOP);
  if (hit.action == "delay") std::this_thread::sleep_for(std::chrono::milliseconds(hit.delay_ms));
  if (hit.action == "list") ::dprintf(STDERR_FILENO, "fault point %.*s\n", int(name.size()), name.data());
  if (hit.action == "throw")
    fail(ExitCode::kIo, "FAULT-01", "fault injected at '", name, "' by ROOKERY_FAULT");
  return returned_action(hit.action);
}

std::vector<FaultPointUse> fault_points_seen() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  return s.uses;
}

const std::vector<FaultPointInfo>& fault_point_table() {
  static std::deque<std::string> text;  // owns what the table points to
  static const std::vector<FaultPointInfo> table = [] {
    std::vector<FaultPointInfo> t;
    for (const Row& row : kRows)
      for (const Step& step : kStepNames)
        if (row.steps & step.bit) {
          const std::string& name = text.emplace_back(str(row.prefix, step.suffix));
          const std::string& help = text.emplace_back(str(row.help, ": ", step.help));
          t.push_back({name, help});
        }
    return t;
  }();
  return table;
}

}  // namespace rookery
