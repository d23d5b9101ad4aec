// mutation.h: which kernels and barriers a run comes by, and runs with one barrier of one kernel left out. A
// test that no such run can pass shows that it would notice each barrier's absence.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/emul/words.h"

namespace rookery::emulator {

// A barrier, a wait, an arrival or a commit in a kernel's source; loops repeat one site.
struct SyncSite {
  const void* kernel;  // the code: templates have several
  std::string what, file;
  uint32_t line, column;
  auto operator<=>(const SyncSite&) const = default;
};
std::string to_string(const SyncSite& site);

// What the launches of this thread during `body` come by.
struct Trace {
  std::set<const void*> kernels;
  std::set<SyncSite> sites;
};
Trace trace(const std::function<void()>& body);

// `passes` launches kernels of this thread and compares what they give: false or Error where something is
// wrong. It must pass as it is (Error otherwise); then it runs once for each site that it came by, with that
// one left out. Returns the sites whose absence it did not notice. `traced` gets what it came by; of the
// sites in `known` it is not asked.
std::vector<SyncSite> unnoticed_removals(const std::function<bool()>& passes, Trace* traced = nullptr,
                                         const std::set<SyncSite>& known = {});

// For the machine: notes a launch; notes a site of it, true if it is to be left out.
void note_launch(const void* kernel);
bool is_removed(const void* kernel, std::string_view what, const Site& site);

}  // namespace rookery::emulator
