// retention.cpp: which checkpoints a run has, which of them stay, and what interrupted work left behind.
#include <algorithm>
#include <set>

#include "kernels/base/io.h"
#include "trainer/checkpoint/manifest.h"

namespace rookery::checkpoint {
namespace {

// The step of "step-00000120"; nothing for other names.
std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with("step-")) return std::nullopt;
  int64_t step = 0;
  const auto [end, ec] = std::from_chars(name.data() + 5, name.data() + name.size(), step);
  if (ec != std::errc() || end != name.data() + name.size() || name != folder_name(step)) return std::nullopt;
  return step;
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code ec;
  for (fs::directory_iterator it(folder, ec), end; !ec && it != end; it.increment(ec))
    entries.push_back(it->path());
  if (ec && ec != std::errc::no_such_file_or_directory)
    fail(ExitCode::kNoInput, "CKPT-10", folder, ": cannot be listed: ", ec.message(),
         "; mend it by giving access to the folder");
  std::ranges::sort(entries);
  return entries;
}

}  // namespace

std::vector<int64_t> list_steps(const fs::path& run_dir) {
  std::vector<int64_t> steps;
  for (const fs::path& entry : entries_of(checkpoints_of(run_dir)))
    if (const auto step = step_of(entry.filename().string())) steps.push_back(*step);
  std::ranges::sort(steps, std::greater<>());
  return steps;
}

std::vector<Summary> list(const fs::path& run_dir) {
  std::vector<Summary> summaries;
  for (const int64_t step : list_steps(run_dir)) {
    Summary s;
    s.step = step;
    s.folder = folder_of(run_dir, step);
    try {
      const Manifest m = read_manifest(s.folder);
      s.saved_at = m.saved_at;
      s.bytes = m.bytes();
      s.world = m.world;
      s.metric = m.metric;
      for (const FileEntry& f : m.files) {
        std::error_code ec;
        const uint64_t size = fs::file_size(s.folder / f.name, ec);
        if (ec || size != f.bytes)
          s.problem =
              str(f.name, ec ? ": " + ec.message() : str(": holds ", size, " bytes, expected ", f.bytes));
      }
    } catch (const Error& e) {
      s.problem = e.what();
    }
    summaries.push_back(std::move(s));
  }
  return summaries;
}

std::vector<int64_t> would_retire(const fs::path& run_dir, const Retention& policy,
                                  const std::set<int64_t>& in_use) {
  std::vector<Summary> sound = list(run_dir);
  std::erase_if(sound, [](const Summary& s) { return !s.problem.empty(); });
  std::set<int64_t> keep = in_use;
  for (size_t i = 0; i < sound.size(); ++i) {
    if (int64_t(i) < std::max<int64_t>(1, policy.keep_last)) keep.insert(sound[i].step);
    if (policy.keep_every > 0 && sound[i].step % policy.keep_every == 0) keep.insert(sound[i].step);
  }
  std::vector<Summary> measured = sound;
  std::erase_if(measured, [](const Summary& s) { return !s.metric; });
  std::ranges::stable_sort(measured, {}, [](const Summary& s) { return *s.metric; });
  for (size_t i = 0; i < measured.size() && int64_t(i) < policy.keep_best; ++i) keep.insert(measured[i].step);

  std::vector<int64_t> remove;
  for (const Summary& s : sound)
    if (!keep.count(s.step)) remove.push_back(s.step);
  return remove;
}

std::vector<int64_t> retire(const fs::path& run_dir, const Retention& policy,
                            const std::set<int64_t>& in_use) {
  const std::vector<int64_t> steps = would_retire(run_dir, policy, in_use);
  for (const int64_t step : steps) remove_checkpoint(folder_of(run_dir, step), "ckpt.retire");
  return steps;
}

void clean_leftovers(const fs::path& run_dir, const Warn& warn) {
  // The run's own small files, which are replaced at each start.
  for (const fs::path& entry : entries_of(run_dir))
    for (const char* owner : {"config.resolved.yaml", "env.json", "lock"})
      if (io::is_temporary(entry) && entry.stem().stem() == owner) io::remove(entry, "ckpt.clean");
  for (const fs::path& entry : entries_of(checkpoints_of(run_dir))) {
    const std::string name = entry.filename().string();
    std::error_code ec;
    const bool is_temporary = io::is_temporary(entry);
    // An exchange without help of the file system sets the old folder aside: STEP.<digits>.tmp; see
    // io::exchange.
    const auto aside = is_temporary ? step_of(entry.stem().stem().string()) : std::nullopt;
    if (aside && fs::exists(entry / kManifestName, ec) && !fs::exists(folder_of(run_dir, *aside), ec)) {
      io::rename(entry, folder_of(run_dir, *aside), "ckpt");
      if (warn)
        warn(str(entry.string(), ": put back as ", folder_name(*aside), " after an interrupted save"));
      continue;
    }
    const bool unfinished = name.ends_with(".tmp") && step_of(name.substr(0, name.size() - 4)).has_value();
    const bool half_removed =
        step_of(name).has_value() && fs::is_directory(entry, ec) && !fs::exists(entry / kManifestName, ec);
    if (!is_temporary && !unfinished && !half_removed) continue;
    io::remove_all(entry, "ckpt.clean");
    if (warn)
      warn(str(entry.string(), ": removed, left behind by an interrupted ",
               half_removed ? "removal" : "save"));
  }
}

}  // namespace rookery::checkpoint
