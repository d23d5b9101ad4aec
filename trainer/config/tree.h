// tree.h: YAML text as a tree of nodes that know where they were written; merging of files and overrides. No
// types yet: reader.h. The text is not trusted: size, depth, number of nodes (aliases expanded), encoding and
// duplicate keys are checked here.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace rookery::config {

namespace fs = std::filesystem;

// Where configuration text came from, with the text itself for error messages.
struct Source {
  std::string name;  // the file as it was named, or "command line"
  std::string text;
  bool command_line = false;
};

struct Place {
  std::shared_ptr<const Source> source;
  int line = 0;    // from 1; 0: the source as a whole
  int column = 0;  // from 1, in bytes
};
// "file:line:column" with the column in characters, or the name of the source.
std::string to_string(const Place& place);

struct Problem {
  Place place;
  std::string path;  // "optim.lr"; empty: none
  std::string message;
  bool usage = false;    // a mistake of the command line (exit 64) rather than of the configuration (78)
  bool missing = false;  // a key that must be there and is not
};

// Throws Error with all problems, each `file:line:col: path: message` with its line and a caret below, if
// there are any.
void throw_problems(const std::vector<Problem>& problems);

struct Entry;
struct Node {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  std::string text = {};  // of a scalar
  bool quoted = false;    // "5" is text, 5 is a number
  Place place = {};
  std::vector<Node> items = {};  // of a list
  std::vector<Entry> entries;    // of a map, in the order of the file; keys are unique

  Node* find(std::string_view key);
  const Node* find(std::string_view key) const { return const_cast<Node*>(this)->find(key); }
};
struct Entry {
  std::string key;
  Place place;  // of the key
  Node value;
};

constexpr size_t kMaxFileBytes = 1 << 20;
constexpr size_t kMaxNodes = 20000;
constexpr int kMaxFiles = 64;  // with all that they include

// One YAML document. What is wrong with it goes to `problems`; what could be read is returned.
Node parse_yaml(std::shared_ptr<const Source> source, std::vector<Problem>& problems);

// The files from left to right, each after the files of its own `include:` (a path or a list, relative to the
// including file): maps merge, lists and scalars replace. Throws Error(kNoInput) for a missing file. `seen`
// receives every file read.
Node load_files(const std::vector<fs::path>& files, std::vector<Problem>& problems,
                std::vector<fs::path>* seen = nullptr);

// Puts `over` on top of `base`. An empty value does not replace a map.
void merge(Node& base, Node over);

// One override on top of `root`: "a.b=1", "a.list[0].c=x" or "~a.b" (back to the default). The value is plain
// text unless it starts with one of [ { " ', then it is YAML. Returns the path if it deletes a key that
// `root` does not have, for a check by the reader.
std::string apply_override(Node& root, const std::string& text, std::vector<Problem>& problems);

}  // namespace rookery::config
