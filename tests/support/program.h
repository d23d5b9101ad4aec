// program.h: runs a program to its end and hands back what it wrote and how it ended, for tests through the
// real binary.
#pragma once

#include <fcntl.h>

#include <fstream>
#include <iterator>

#include "tests/support/process.h"

namespace rookery::test {

struct ProgramResult {
  int code = -1;    // exit status; -1 if a signal ended it
  std::string out;  // standard output
  std::string err;  // standard error
};

inline std::string slurp(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Writes `content` to `name` (which may hold folders) in `dir` and returns its path.
inline fs::path put(const TempDir& dir, const std::string& name, const std::string& content) {
  fs::path path = dir.path() / name;
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

// argv[0] is the program, found by PATH. `environment` is added to this process's. Standard input is
// /dev/null; standard output goes to the file `stdout_to` where one is named.
inline ProgramResult run_program(const std::vector<std::string>& argv, const Environment& environment = {},
                                 const std::string& stdout_to = "") {
  TempDir dir;
  const std::string out = stdout_to.empty() ? (dir.path() / "out").string() : stdout_to;
  const std::string err = (dir.path() / "err").string();
  const pid_t pid = ::fork();
  if (pid == 0) {
    for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
    ::dup2(::open("/dev/null", O_RDONLY), 0);
    ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
    ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
    std::vector<char*> words;
    for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    ::execvp(words[0], words.data());
    ::_exit(127);
  }
  ProgramResult result;
  result.code = wait_for(pid).exit_code;
  if (stdout_to.empty()) result.out = slurp(out);
  result.err = slurp(err);
  return result;
}

// The rookery program with these arguments; its place comes from the environment variable ROOKERY_BIN.
inline ProgramResult run_rookery(std::vector<std::string> arguments, const Environment& environment = {},
                                 const std::string& stdout_to = "") {
  const char* program = std::getenv("ROOKERY_BIN");
  arguments.insert(arguments.begin(), program ? program : "build/bin/rookery");
  return run_program(arguments, environment, stdout_to);
}

}  // namespace rookery::test
