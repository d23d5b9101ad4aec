// reader.h: from a tree (tree.h) to the fields of a struct (fields.h). Strict: an unknown key, a wrong type,
// a value out of bounds and a missing required key are problems, and all of them are reported together.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "trainer/config/fields.h"
#include "trainer/config/tree.h"

namespace rookery::config {

// Where each value that was given comes from, by its path ("data.sources[0].path"). What is not here has its
// default.
using Origins = std::map<std::string, Place>;

// Reads `tree` into `section`; its values where the tree has none are left alone.
void read_tree(const Node& tree, Member& section, std::vector<Problem>& problems, Origins* origins = nullptr);

// Files and overrides (forms: tree.h) into `section`; throws Error (78, 64, 66) with every problem found.
// `files_read` receives the files, those included too.
Origins read_config(Member& section, const std::vector<fs::path>& files,
                    const std::vector<std::string>& overrides, std::vector<fs::path>* files_read = nullptr);

// The place of the value at `path`, or of the nearest section around it that was given; an empty place if
// there is none.
Place origin_of(const Origins& origins, std::string path);

}  // namespace rookery::config
