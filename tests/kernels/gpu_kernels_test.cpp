// gpu_kernels_test.cpp: which kernels have a body for the GPU, by the declarations in the sources, and that
// those which say so have one. Prints the names of the others.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

namespace rookery {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(GpuKernels, EachThatIsDeclaredHasABody) {
  const std::regex declaration(R"(\n(RK_BACKENDS|RK_BACKENDS_GPU)\(void (\w+)\()"),
      host(R"re(check_cpu\("(\w+)")re");
  std::set<std::string> pending;
  int kernels = 0;
  for (const auto& entry : fs::recursive_directory_iterator("kernels/ops")) {
    const fs::path& path = entry.path();
    if (path.extension() != ".h" && path.extension() != ".cpp") continue;
    const std::string text = text_of(path);
    for (std::sregex_iterator it(text.begin(), text.end(), declaration), end; it != end; ++it, ++kernels) {
      const std::string name = (*it)[2];
      if ((*it)[1] == "RK_BACKENDS") {
        pending.insert(name);
        continue;
      }
      bool found = false;
      for (const auto& sibling : fs::directory_iterator(path.parent_path()))
        found = found || (sibling.path().string().ends_with("_cuda.cu") &&
                          text_of(sibling.path()).find("void " + name + "(") != std::string::npos);
      EXPECT_TRUE(found) << path.string() << ": no *_cuda.cu beside it defines " << name;
    }
    for (std::sregex_iterator it(text.begin(), text.end(), host), end; it != end; ++it)
      pending.insert((*it)[1]);
  }
  EXPECT_GT(kernels, 20) << "the declarations are written in another way";
  std::cout << pending.size() << " without a body for the GPU:";
  for (const std::string& name : pending) std::cout << " " << name;
  std::cout << "\n";
}

}  // namespace
}  // namespace rookery
