// tiny_run.h: runs of a very small Finch on real text through the real program, each well under a second, and
// what they leave: for tests of what survives kills, full disks and changes.
#pragma once

#include <sys/wait.h>

#include <nlohmann/json.hpp>

#include "tests/support/program.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/loop/metrics.h"

namespace rookery::test {

// What must be equal of two runs that should be: all tensors of the last checkpoint, bit for bit by their
// checksums, with their Adam step counts, and the records, times left out.
struct Trace {
  int64_t step = -1;
  nlohmann::json tensors = nlohmann::json::array(), records = nlohmann::json::array();
  bool operator==(const Trace&) const = default;
};

inline nlohmann::json tensors_of(const fs::path& checkpoint) {
  const auto opened = checkpoint::Checkpoint::open(checkpoint);  // verifies every byte
  nlohmann::json all = nlohmann::json::array();
  for (const auto& t : opened.manifest().tensors) {
    nlohmann::json one{t.group, t.name, t.shape};
    for (const auto& box : t.boxes) one.push_back(box.crc32c);
    for (const auto& s : t.segments) one.push_back(s.steps);
    all.push_back(one);
  }
  return all;
}

// The values of a tensor of a checkpoint of fp64, by name.
inline std::map<std::string, std::vector<double>> values_of(const fs::path& checkpoint,
                                                            const std::string& group) {
  const auto opened = checkpoint::Checkpoint::open(checkpoint);
  std::map<std::string, std::vector<double>> values;
  std::vector<checkpoint::Piece> pieces;
  for (const auto& t : opened.manifest().tensors) {
    if (t.group != group) continue;
    size_t numel = 1;
    for (const uint64_t d : t.shape) numel *= d;
    auto& data = values[t.name];
    data.resize(numel);
    pieces.push_back({t.group,
                      t.name,
                      "f64",
                      t.shape,
                      std::vector<uint64_t>(t.shape.size(), 0),
                      t.shape,
                      std::as_writable_bytes(std::span(data)),
                      {}});
  }
  opened.read(pieces);
  return values;
}

// A process that stopped itself at a fault point "...:stop".
class Paused {
 public:
  explicit Paused(pid_t pid) : pid_(pid) { await_stop(); }
  void signal(int number) const { ::kill(pid_, number); }
  // Goes on to the next stop, or to the end.
  void go_on() {
    signal(SIGCONT);
    await_stop();
  }
  bool stopped() const { return stopped_; }
  const Outcome& outcome() const { return outcome_; }  // once it is not
  pid_t pid() const { return pid_; }
  ~Paused() {
    if (!stopped_) return;
    signal(SIGKILL);
    wait_for(pid_);
  }

 private:
  void await_stop() {
    int status = 0;
    ::waitpid(pid_, &status, WUNTRACED);
    stopped_ = WIFSTOPPED(status);
    if (WIFSIGNALED(status)) outcome_ = {-1, WTERMSIG(status)};
    if (WIFEXITED(status)) outcome_ = {WEXITSTATUS(status), 0};
  }
  pid_t pid_;
  bool stopped_ = false;
  Outcome outcome_;
};

// A folder with a vocabulary of the single bytes, a token set of the licence's text and a configuration: 12
// steps of 4 x 16 tokens, saved every 3, evaluated every 4.
class TinyRuns {
 public:
  TinyRuns() : dir_(TempDir::Place::kMemory) {
    std::string vocabulary;
    for (int i = 0; i < 256; ++i) {
      char line[32];
      std::snprintf(line, sizeof line, "%d b'\\x%02x' 1\n", i + 1, i);
      vocabulary += line;
    }
    put(dir_, "vocab.txt", vocabulary);
    prepare("tokens", slurp("LICENSE"));
    put(dir_, "run.yaml",
        "seed: 7\n"
        "threads: 1\n"
        "device: cpu\n"
        "model: {arch: rwkv6, num_layers: 1, hidden_size: 32, head_size: 16, vocab_size: 257}\n"
        "data:\n"
        "  tokenizer: " +
            path("vocab.txt") +
            "\n"
            "  seq_len: 16\n"
            "  sources: [{path: " +
            path("tokens.h5") +
            "}]\n"
            "  val: [{name: held, path: " +
            path("tokens.h5") +
            "}]\n"
            "recipe: {micro_batch_size: 2, global_batch_size: 4, max_steps: 12}\n"
            "optim: {lr: 3e-3, lr_final: 1e-4, warmup_steps: 2}\n"
            "checkpoint: {every_steps: 3, keep_last: 2}\n"
            "eval: {every_steps: 4, max_tokens: 80}\n"  // 5 windows: not a multiple of the batch
            "log: {every_steps: 1, norms_every_steps: 4}\n");
  }

  std::string path(const std::string& name) const { return (dir_.path() / name).string(); }
  const TempDir& folder() const { return dir_; }

  // NAME.h5 from a text of one document.
  void prepare(const std::string& name, const std::string& text) const {
    put(dir_, name + ".txt", text);
    fs::remove(path(name + ".h5"));
    const auto done = run_rookery({"data", "prepare", "--tokenizer", path("vocab.txt"), "--in",
                                   path(name + ".txt"), "--out", path(name), "--format", "hdf5"});
    if (done.code != 0) throw std::runtime_error(done.err);
  }

  std::vector<std::string> words(const std::string& run, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words{"train", path("run.yaml"), "run_dir=" + path(run)};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  ProgramResult train(const std::string& run, const std::vector<std::string>& more = {},
                      const std::string& fault = "") const {
    return run_rookery(words(run, more), {{"ROOKERY_FAULT", fault}});
  }
  // Starts training with a fault that stops the process.
  Paused pause(const std::string& run, const std::string& fault,
               const std::vector<std::string>& more = {}) const {
    auto command = words(run, more);
    const char* program = std::getenv("ROOKERY_BIN");
    command.insert(command.begin(), program ? program : "build/bin/rookery");
    return Paused(start(command, {{"ROOKERY_FAULT", fault}}));
  }

  fs::path checkpoint(const std::string& run, int64_t step) const {
    return checkpoint::folder_of(path(run), step);
  }
  Trace trace(const std::string& run) const {
    Trace trace;
    const auto steps = checkpoint::list_steps(path(run));
    if (steps.empty()) return trace;
    trace.step = steps.front();
    trace.tensors = tensors_of(checkpoint(run, trace.step));
    for (const auto& record : loop::read_metrics(path(run + "/metrics.jsonl"))) {
      if (record["event"] == "checkpoint") continue;
      nlohmann::json kept;
      for (const char* key : {"event", "step", "tokens", "loss", "loss_max", "lr", "grad_norm", "clip_coef",
                              "skipped", "set", "bits_per_byte", "parts"})
        if (record.contains(key)) kept[key] = record[key];
      trace.records.push_back(kept);
    }
    return trace;
  }
  // Files that only an interrupted write leaves.
  std::vector<std::string> leftovers(const std::string& run) const {
    std::vector<std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(path(run)))
      if (entry.path().extension() == ".tmp") found.push_back(entry.path().string());
    return found;
  }

 private:
  TempDir dir_;
};

}  // namespace rookery::test
