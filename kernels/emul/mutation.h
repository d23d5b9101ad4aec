// mutation.h: kernels with one barrier left out. A test that no such kernel can pass shows that it would
// notice each barrier's absence.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/emul/words.h"

namespace rookery::emulator {

// A barrier, a wait, an arrival or a commit in a kernel's source; templates and loops repeat one site.
struct SyncSite {
  std::string what, file;
  uint32_t line, column;
  auto operator<=>(const SyncSite&) const = default;
};
std::string to_string(const SyncSite& site);

// `passes` launches kernels of this thread and compares what they give: false or Error where something is
// wrong. It must pass as it is (Error otherwise); then it runs once for each site that it came by, with that
// one left out. Returns the sites whose absence it did not notice.
std::vector<SyncSite> unnoticed_removals(const std::function<bool()>& passes);

// The number of sites that one run of `body` comes by.
std::set<SyncSite> sync_sites(const std::function<void()>& body);

// For the machine: notes the site; true if it is to be left out.
bool is_removed(std::string_view what, const Site& site);

}  // namespace rookery::emulator
