// mutation.cpp: which barriers a run comes by, and runs without one of them.
#include "kernels/emul/mutation.h"

#include "kernels/base/error.h"

namespace rookery::emulator {
namespace {

struct Mutation {
  std::set<SyncSite> seen;
  const SyncSite* removed = nullptr;
};
constinit thread_local Mutation* mutation_of_thread = nullptr;

struct ScopedMutation {
  explicit ScopedMutation(Mutation& mutation) { mutation_of_thread = &mutation; }
  ~ScopedMutation() { mutation_of_thread = nullptr; }
};

}  // namespace

std::string to_string(const SyncSite& site) {
  return str(site.what, " of ", site.file, ":", site.line, ":", site.column);
}

bool is_removed(std::string_view what, const Site& site) {
  Mutation* mutation = mutation_of_thread;
  if (mutation == nullptr) return false;
  if (const SyncSite* removed = mutation->removed)
    return site.line() == removed->line && site.column() == removed->column && what == removed->what &&
           site.file_name() == removed->file;
  mutation->seen.insert({std::string(what), site.file_name(), site.line(), site.column()});
  return false;
}

std::set<SyncSite> sync_sites(const std::function<void()>& body) {
  Mutation mutation;
  const ScopedMutation scope(mutation);
  body();
  return mutation.seen;
}

std::vector<SyncSite> unnoticed_removals(const std::function<bool()>& passes) {
  const std::set<SyncSite> sites =
      sync_sites([&] { RK_CHECK(passes(), "[emul] the test fails with all barriers in place"); });
  std::vector<SyncSite> unnoticed;
  for (const SyncSite& site : sites) {
    Mutation mutation{{}, &site};
    const ScopedMutation scope(mutation);
    try {
      if (passes()) unnoticed.push_back(site);
    } catch (const Error&) {
      continue;
    }
  }
  return unnoticed;
}

}  // namespace rookery::emulator
