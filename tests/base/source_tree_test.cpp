// source_tree_test.cpp: what must hold for the sources themselves: each folder includes only what the
// dependency directions of docs/architecture.md let it see, and no file holds notes to self or paths of one
// machine.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tests/support/process.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

// What the files of a folder may include, by prefix of the path from the project root; the longest key that
// fits counts. A folder may always include itself.
const std::map<std::string, std::vector<std::string>> kMayInclude = {
    {"kernels/base", {}},
    {"kernels/tensor", {"kernels/base"}},
    {"kernels/autograd", {"kernels/base", "kernels/tensor"}},
    {"kernels/emul", {"kernels/base", "kernels/tensor"}},
    {"kernels/cuda", {"kernels/base", "kernels/tensor", "kernels/emul"}},
    {"kernels/ops", {"kernels"}},
    {"parallel", {"kernels"}},
    {"data", {"kernels/base", "kernels/tensor"}},
    {"trainer/config", {"kernels", "parallel", "data"}},
    {"trainer/nn", {"kernels", "parallel", "data", "trainer/config"}},
    {"trainer/models", {"kernels", "parallel", "data", "trainer/config", "trainer/nn"}},
    {"trainer/recipes", {"kernels", "parallel", "data", "trainer/config", "trainer/nn", "trainer/models"}},
    {"trainer/optim", {"kernels", "parallel", "data", "trainer/config", "trainer/nn", "trainer/models"}},
    {"trainer/checkpoint",
     {"kernels", "parallel", "data", "trainer/config", "trainer/nn", "trainer/models", "trainer/optim"}},
    {"trainer/eval",
     {"kernels", "parallel", "data", "trainer/config", "trainer/nn", "trainer/models", "trainer/recipes",
      "trainer/optim", "trainer/checkpoint"}},
    {"trainer/plan",
     {"kernels", "parallel", "data", "trainer/config", "trainer/nn", "trainer/models", "trainer/recipes",
      "trainer/optim"}},
    {"trainer/loop",
     {"kernels", "parallel", "data", "trainer/config", "trainer/nn", "trainer/models", "trainer/recipes",
      "trainer/optim", "trainer/checkpoint", "trainer/eval", "trainer/plan"}},
    {"trainer", {"kernels", "parallel", "data", "trainer"}},  // main.cpp and cli/ stand above all
};
const std::vector<std::string> kLayers = {"kernels", "parallel", "data", "trainer"};

bool inside(const std::string& path, const std::string& folder) { return path.starts_with(folder + "/"); }

std::vector<std::string> lines_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// All files under `root`/`top`, as sorted paths from `root`.
std::vector<std::string> files_under(const fs::path& root, const std::string& top) {
  std::vector<std::string> files;
  if (fs::is_regular_file(root / top)) files.push_back(top);
  if (fs::is_directory(root / top)) {
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      // Larger files are data.
      if (entry.is_regular_file() && entry.file_size() < (4 << 20))
        files.push_back(fs::relative(entry.path(), root).generic_string());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

// "file:line: what is wrong", one for each include against the directions.
std::vector<std::string> wrong_includes(const fs::path& root) {
  static const std::regex kInclude(R"(^\s*#\s*include\s*(["<])([^">]+)[">])");
  static const std::set<std::string> kSources = {".h", ".cpp", ".cu", ".cuh", ".inc"};
  std::vector<std::string> wrong;
  for (const std::string& layer : kLayers) {
    for (const std::string& file : files_under(root, layer)) {
      if (!kSources.contains(fs::path(file).extension().string())) continue;
      std::string home;
      for (const auto& [folder, unused] : kMayInclude) {
        if (inside(file, folder) && folder.size() > home.size()) home = folder;
      }
      const std::vector<std::string> lines = lines_of(root / file);
      for (size_t i = 0; i < lines.size(); ++i) {
        std::smatch match;
        if (!std::regex_search(lines[i], match, kInclude)) continue;
        const std::string target = match[2];
        const std::string where = file + ":" + std::to_string(i + 1) + ": ";
        if (inside(target, "tests")) {
          wrong.push_back(where + "the program includes the tests' " + target);
        } else if (std::none_of(kLayers.begin(), kLayers.end(),
                                [&](const std::string& top) { return inside(target, top); })) {
          if (match[1] == "\"" && fs::exists((root / file).parent_path() / target)) {
            wrong.push_back(where + target + " is not written from the project root");
          }
        } else if (home.empty()) {
          wrong.push_back(where + "no dependency direction is known for this folder");
        } else if (!inside(target, home)) {
          const auto& allowed = kMayInclude.at(home);
          if (std::none_of(allowed.begin(), allowed.end(),
                           [&](const std::string& folder) { return inside(target, folder); })) {
            wrong.push_back(where + home + " may not include " + target);
          }
        }
      }
    }
  }
  return wrong;
}

// "file:line: what is wrong", one for each note to self and each path of one machine. Written in pieces here,
// so that this file passes.
std::vector<std::string> unclean_lines(const fs::path& root) {
  static const std::regex kNote(R"(\b(TO)"
                                R"(DO|FIX)"
                                R"(ME)\b)");
  static const std::regex kPath(R"((^|[^A-Za-z0-9_.$}~-])/(wo)"
                                R"(rk|ho)"
                                R"(me|ro)"
                                R"(ot)/)");
  static const std::regex kNotOurs(R"(^(\.git|\.gpu|build.*|runs|corpus)$)");  // as in .gitignore
  std::vector<std::string> unclean;
  for (const auto& entry : fs::directory_iterator(root)) {
    const std::string top = entry.path().filename().string();
    if (std::regex_match(top, kNotOurs)) continue;
    for (const std::string& file : files_under(root, top)) {
      const std::vector<std::string> lines = lines_of(root / file);
      for (size_t i = 0; i < lines.size(); ++i) {
        if (lines[i].find('\0') != std::string::npos) break;  // not text
        const std::string where = file + ":" + std::to_string(i + 1) + ": ";
        if (std::regex_search(lines[i], kNote)) unclean.push_back(where + "note to self: " + lines[i]);
        if (std::regex_search(lines[i], kPath)) unclean.push_back(where + "path of one machine: " + lines[i]);
      }
    }
  }
  std::sort(unclean.begin(), unclean.end());
  return unclean;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

void put(const fs::path& path, const std::string& content) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

TEST(IncludeDirections, AreKept) {
  ASSERT_TRUE(fs::exists("kernels/base/error.h")) << "must run in the project root";
  const std::vector<std::string> wrong = wrong_includes(".");
  EXPECT_TRUE(wrong.empty()) << joined(wrong);
}

TEST(IncludeDirections, PlantedViolationsAreFound) {
  test::TempDir dir;
  const fs::path root = dir.path();
  put(root / "kernels/base/a.h", "#include <vector>\n#include \"kernels/tensor/tensor.h\"\n");
  put(root / "kernels/ops/x/x.cpp",
      "#include \"kernels/autograd/tape.h\"\n#include \"x.h\"\n#include <x.h>\n");
  put(root / "kernels/ops/x/x.h", "#include \"tests/support/process.h\"\n");
  put(root / "parallel/p.h", "#include \"kernels/ops/x/x.h\"\n#include <trainer/nn/module.h>\n");
  put(root / "data/d.cpp", "#include \"kernels/base/a.h\"\n\n#include \"kernels/autograd/tape.h\"\n");
  put(root / "trainer/nn/m.h", "#include \"trainer/config/c.h\"\n  #  include \"trainer/models/m.h\"\n");
  put(root / "trainer/optim/o.h", "#include \"trainer/loop/l.h\"\n");
  put(root / "trainer/loop/l.h", "#include \"trainer/optim/o.h\"\n#include \"trainer/cli/c.h\"\n");
  put(root / "trainer/cli/c.cpp", "#include \"trainer/loop/l.h\"\n#include \"trainer/main.h\"\n");
  put(root / "kernels/novel/n.h", "#include \"kernels/base/a.h\"\n");
  const std::vector<std::string> expected = {
      "kernels/base/a.h:2: kernels/base may not include kernels/tensor/tensor.h",
      "kernels/novel/n.h:1: no dependency direction is known for this folder",
      "kernels/ops/x/x.cpp:2: x.h is not written from the project root",
      "kernels/ops/x/x.h:1: the program includes the tests' tests/support/process.h",
      "parallel/p.h:2: parallel may not include trainer/nn/module.h",
      "data/d.cpp:3: data may not include kernels/autograd/tape.h",
      "trainer/loop/l.h:2: trainer/loop may not include trainer/cli/c.h",
      "trainer/nn/m.h:2: trainer/nn may not include trainer/models/m.h",
      "trainer/optim/o.h:1: trainer/optim may not include trainer/loop/l.h",
  };
  EXPECT_EQ(wrong_includes(root), expected);
}

TEST(Hygiene, NoNotesToSelfAndNoPathsOfOneMachine) {
  ASSERT_TRUE(fs::exists("kernels/base/error.h")) << "must run in the project root";
  const std::vector<std::string> unclean = unclean_lines(".");
  EXPECT_TRUE(unclean.empty()) << joined(unclean);
}

TEST(Hygiene, PlantedLinesAreFound) {
  test::TempDir dir;
  const std::string note = std::string("TO") + "DO";
  const std::string path = std::string("/ho") + "me/someone/x";
  put(dir.path() / "README.md", "fine\nsee " + path + "\n");
  put(dir.path() / "data/d.cpp", "// " + note + ": later\nMY_" + note + "_LIST the/work/area ~/home/x\n");
  put(dir.path() / "build-asan/x.txt", note + "\n");
  const std::vector<std::string> expected = {"README.md:2: path of one machine: see " + path,
                                             "data/d.cpp:1: note to self: // " + note + ": later"};
  EXPECT_EQ(unclean_lines(dir.path()), expected);
}

}  // namespace
}  // namespace rookery
