// every_kernel_test.cpp: each kernel of the program on small shapes: the same bits in whatever order its
// threads and blocks run; and each barrier of each of its instances is left out in turn, which must be
// noticed. The sources say which kernels and barriers there are, the emulator which of them kernel_cases.cpp
// came by.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <regex>
#include <set>
#include <string>

#include "kernels/base/error.h"
#include "kernels/emul/mutation.h"
#include "kernels/emul/options.h"
#include "kernels/emul/report.h"
#include "tests/kernels/emul/kernel_cases.h"
#include "tests/kernels/emul/support.h"

namespace rookery::test {
namespace {

namespace fs = std::filesystem;

// From the project's root: "kernels/ops/norm/norm_cuda.cu".
std::string project_path(const std::string& path) {
  const size_t at = path.rfind("/kernels/");
  return at == std::string::npos ? path : path.substr(at + 1);
}

struct Sources {
  std::set<std::string> kernels;   // "kernels/ops/norm/norm_cuda.cu: norm_forward_kernel"
  std::set<std::string> barriers;  // "kernels/ops/row_team.h:106"
};
Sources read_sources() {
  const std::regex kernel(R"(__global__\s+void\s+(?:__launch_bounds__\(.*\)\s+)?(\w+)\()"),
      barrier(R"(\b(__syncthreads(_\w+)?|syncwarp|named_barrier_\w+|cp_async_(commit|wait|mbarrier_arrive)|)"
              R"(mbarrier_(arrive|wait))\s*[<(])");
  Sources found;
  for (const char* folder : {"kernels/ops", "kernels/cuda"})
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      const std::string path = entry.path().string();
      if (path.find("/portable") != std::string::npos) continue;  // declares them
      if (!path.ends_with(".cu") && !path.ends_with(".h")) continue;
      std::ifstream in(path);
      std::string line;
      for (int number = 1; std::getline(in, line); ++number) {
        line.resize(std::min(line.size(), line.find("//")));
        std::smatch match;
        if (std::regex_search(line, match, kernel)) found.kernels.insert(path + ": " + match[1].str());
        if (std::regex_search(line, barrier)) found.barriers.insert(str(path, ":", number));
      }
    }
  return found;
}

// Of each template of the size of heads all instances.
std::vector<KernelCase> all_cases() {
  std::vector<KernelCase> cases;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto add = [&](std::vector<KernelCase> more) {
      for (KernelCase& c : more) cases.push_back({str(c.name, " in ", dtype), std::move(c.passes)});
    };
    add(kernel_cases(dtype));
    for (const int64_t head : {32, 64, 128}) add(head_cases(dtype, head));
  }
  return cases;
}

TEST(EveryKernel, GivesTheSameBitsInEveryOrder) {
  for (const KernelCase& c : all_cases()) {
    SCOPED_TRACE(c.name);
    EXPECT_TRUE(c.passes());
    for (emulator::Options options : all_orders()) {
      options.races = false;  // which any order shows
      const emulator::ScopedOptions scope(options);
      EXPECT_TRUE(c.passes()) << to_string(options);
    }
  }
}

#ifndef ROOKERY_NO_HOOKS
// "kernels/ops/norm/norm_cuda.cu: norm_forward_kernel" of each.
std::set<std::string> names_of(const std::set<const void*>& kernels) {
  std::vector<uintptr_t> addresses;
  for (const void* kernel : kernels) addresses.push_back(reinterpret_cast<uintptr_t>(kernel));
  std::set<std::string> names;
  for (const emulator::Place& place : emulator::places(addresses))
    names.insert(project_path(place.file) + ": " + place.function);
  return names;
}

TEST(EveryKernel, MissesEachOfItsBarriers) {
  emulator::Trace seen;
  std::set<emulator::SyncSite> noticed;  // a site is of one instance of its kernel
  std::map<emulator::SyncSite, std::string> unnoticed;
  for (const KernelCase& c : all_cases()) {
    emulator::Trace traced;
    const auto missed = emulator::unnoticed_removals(c.passes, &traced, noticed);
    for (const emulator::SyncSite& site : missed) unnoticed[site] = c.name;
    for (const emulator::SyncSite& site : traced.sites)
      if (std::find(missed.begin(), missed.end(), site) == missed.end()) noticed.insert(site);
    seen.kernels.merge(traced.kernels);
    seen.sites.merge(traced.sites);
  }
  for (const auto& [site, name] : unnoticed)
    EXPECT_TRUE(noticed.contains(site))
        << to_string(site) << " can be left out: case '" << name << "' is too weak, or it is not needed";
  const std::set<std::string> kernels = names_of(seen.kernels);
  std::set<std::string> barriers;
  for (const emulator::SyncSite& site : seen.sites)
    barriers.insert(str(project_path(site.file), ":", site.line));
  const Sources sources = read_sources();
  EXPECT_GT(sources.kernels.size(), 30u) << "kernels are written in another way";
  EXPECT_GT(sources.barriers.size(), 40u) << "barriers are written in another way";
  for (const std::string& kernel : sources.kernels)
    EXPECT_TRUE(kernels.contains(kernel)) << kernel << " is launched by no case of kernel_cases.cpp";
  for (const std::string& barrier : sources.barriers)
    EXPECT_TRUE(barriers.contains(barrier)) << barrier << " is reached by no case of kernel_cases.cpp";
  std::cout << sources.kernels.size() << " kernels, " << seen.kernels.size() << " instances of them, "
            << noticed.size() << " barriers\n";
}
#endif

}  // namespace
}  // namespace rookery::test
