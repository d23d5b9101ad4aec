// writers.h: what is made from the field list (fields.h): resolved YAML, JSON Schema, the reference page,
// differences.
#pragma once

#include <string>
#include <vector>

#include "trainer/config/fields.h"
#include "trainer/config/reader.h"

namespace rookery::config {

// Every key with its value, in the order of the fields; reads back to the same. With `origins` each line
// tells where its value comes from (file:line:column, command line, default).
std::string to_yaml(Member& section, const Origins* origins = nullptr);

// JSON Schema (draft 2020-12) for editors.
std::string json_schema(Member& section, const std::string& title);

// One Markdown table per section: key, type, default, bounds, meaning. Sections with a selector have one per
// choice.
std::string markdown_reference(Member& section);

// Every value by its path, in order: {"optim.lr", "0.0006"}.
struct Leaf {
  std::string path, text;
};
std::vector<Leaf> leaves(Member& section);

// The values that are not the same; empty text: that side does not have the key.
struct Difference {
  std::string path, left, right;
};
std::vector<Difference> differences(Member& left, Member& right);

}  // namespace rookery::config
