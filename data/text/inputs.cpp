// inputs.cpp: glob(3) and folder walks, sorted, regular files only.
#include "data/text/inputs.h"

#include <glob.h>

#include <algorithm>
#include <optional>
#include <set>

#include "data/dataset/input_file.h"
#include "kernels/base/error.h"

namespace rookery::data {

namespace {

std::optional<TextKind> kind_of(const fs::path& path) {
  const std::string suffix = path.extension().native();
  if (suffix == ".txt") return TextKind::kPlain;
  if (suffix == ".jsonl" || suffix == ".json" || suffix == ".ndjson") return TextKind::kJsonLines;
  return std::nullopt;
}

std::vector<fs::path> files_of_folder(const fs::path& folder, std::vector<std::string>& warnings) {
  std::vector<fs::path> files;
  int64_t links = 0, others = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_symlink())
      ++links;
    else if (entry.is_regular_file() && kind_of(entry.path()))
      files.push_back(entry.path());
    else if (!entry.is_directory())
      ++others;
  }
  if (links + others > 0)
    warnings.push_back(str(folder.native(), ": passed over ", links, " symbolic links and ", others,
                           " files that are not .txt, .jsonl, .json or .ndjson"));
  return files;
}

std::vector<fs::path> files_of_glob(const std::string& pattern) {
  glob_t found{};
  const int rc = ::glob(pattern.c_str(), GLOB_NOSORT | GLOB_ERR, nullptr, &found);
  std::vector<fs::path> files;
  if (rc == 0) files.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  if (rc != 0 && rc != GLOB_NOMATCH)
    fail(ExitCode::kNoInput, "DATA-21", pattern,
         ": a folder of the pattern cannot be read; mend its permissions, or name the files");
  return files;
}

}  // namespace

TextInputs collect_inputs(const std::vector<std::string>& patterns) {
  TextInputs inputs;
  std::set<std::pair<uint64_t, uint64_t>> seen;
  for (const std::string& pattern : patterns) {
    std::vector<fs::path> files;
    if (fs::is_directory(pattern))
      files = files_of_folder(pattern, inputs.warnings);
    else if (fs::exists(pattern) || pattern.find_first_of("*?[") == std::string::npos)
      files = {pattern};
    else
      files = files_of_glob(pattern);
    if (files.empty())
      fail(ExitCode::kNoInput, "DATA-21", pattern, ": matches no text file (working folder ",
           fs::current_path().native(), "), expected .txt, .jsonl, .json or .ndjson; mend the path");
    std::sort(files.begin(), files.end(),
              [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
    for (const fs::path& path : files) {
      InputFile file(path);
      const auto kind = kind_of(path);
      if (!kind)
        fail(ExitCode::kData, "DATA-12", path.native(), ": is no .txt, .jsonl, .json or .ndjson file",
             path.extension() == ".gz" || path.extension() == ".zst" ? ": unpack it first (gzip -d, zstd -d)"
                                                                     : "");
      if (!seen.insert(file.identity()).second) {
        inputs.warnings.push_back(path.native() + ": is named twice, read once");
        continue;
      }
      inputs.files.push_back({path, *kind, file.size(), file.mtime_ns()});
    }
  }
  return inputs;
}

}  // namespace rookery::data
