// mutation.cpp: what a run comes by, and runs without one of its barriers.
#include "kernels/emul/mutation.h"

#include "kernels/base/error.h"
#include "kernels/emul/options.h"
#include "kernels/emul/report.h"

namespace rookery::emulator {
namespace {

struct Mutation {
  Trace seen;
  const SyncSite* removed = nullptr;
};
constinit thread_local Mutation* mutation_of_thread = nullptr;

struct ScopedMutation {
  explicit ScopedMutation(Mutation& mutation) { mutation_of_thread = &mutation; }
  ~ScopedMutation() { mutation_of_thread = nullptr; }
};

}  // namespace

std::string to_string(const SyncSite& site) {
  return str(site.what, " of ", site.file, ":", site.line, ":", site.column, " in ",
             places({reinterpret_cast<uintptr_t>(site.kernel)})[0].instance);
}

void note_launch(const void* kernel) {
  if (mutation_of_thread != nullptr) mutation_of_thread->seen.kernels.insert(kernel);
}

bool is_removed(const void* kernel, std::string_view what, const Site& site) {
  Mutation* mutation = mutation_of_thread;
  if (mutation == nullptr) return false;
  if (const SyncSite* removed = mutation->removed)
    return kernel == removed->kernel && site.line() == removed->line && site.column() == removed->column &&
           what == removed->what && site.file_name() == removed->file;
  mutation->seen.sites.insert({kernel, std::string(what), site.file_name(), site.line(), site.column()});
  return false;
}

Trace trace(const std::function<void()>& body) {
  Mutation mutation;
  const ScopedMutation scope(mutation);
  body();
  return mutation.seen;
}

std::vector<SyncSite> unnoticed_removals(const std::function<bool()>& passes, Trace* traced,
                                         const std::set<SyncSite>& known) {
  const Trace seen = trace([&] { RK_CHECK(passes(), "[emul] the test fails with all barriers in place"); });
  Options options = current_options();
  options.source_lines = false;  // of faults that are expected
  const ScopedOptions quiet(options);
  std::vector<SyncSite> unnoticed;
  for (const SyncSite& site : seen.sites) {
    if (known.contains(site)) continue;
    Mutation mutation{{}, &site};
    const ScopedMutation scope(mutation);
    try {
      if (passes()) unnoticed.push_back(site);
    } catch (const Error&) {
      continue;
    }
  }
  if (traced != nullptr) *traced = seen;
  return unnoticed;
}

}  // namespace rookery::emulator
