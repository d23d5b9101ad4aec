// layout.h: what each architecture's weights are called, here and elsewhere: one table entry per architecture
// (how its files are recognised and what their shapes tell of its configuration) and one per form in which
// other programs keep it. Our names are those of the published checkpoints. Users: model_file.cpp (reading),
// convert.cpp (writing).
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "trainer/checkpoint/foreign/tensor_file.h"

namespace rookery::foreign {

using Json = nlohmann::ordered_json;
// Keys of the section `model` of a configuration, as text.
using Keys = std::map<std::string, std::string>;
using Shapes = std::map<std::string, Dims>;  // of tensors, by name

// How a tensor of ours becomes one of theirs.
enum class Transform : uint8_t {
  kSame,
  kSqueeze,    // [1, 1, C] -> [C]
  kTranspose,  // [A, B] -> [B, A]
  kMixOut,     // [C, 5 m], groups w k v r g -> [5 m, C], groups r w k v g
  kMixIn,      // [5, m, C], groups w k v r g -> [C, 5 m], groups r w k v g
  kRow,        // [1, 1, C] -> one row of [5, C]
};

// '#' stands for the number of a block, a '*' at the end for the rest of the name.
struct Rule {
  std::string_view ours, theirs;
  Transform transform = Transform::kSame;
  uint64_t row = 0;  // of kRow
};

// A way in which other programs keep an architecture.
struct Form {
  std::string_view name;           // "fla"
  std::string_view arch;           // of ours; also the model_type of config.json
  std::string_view mark;           // a tensor that shows this form
  std::vector<Rule> rules;         // the first that fits; theirs empty: left out
  Json (*to_config)(const Keys&);  // config.json for our keys
  void (*from_config)(const Json&, Keys&, const std::string& place);  // what no shape tells; WTS-08
  bool needs_config = false;  // without config.json the shapes do not tell enough
};

// A number of the configuration that is the size of an axis.
struct Size {
  std::string_view key, tensor;
  size_t axis;
  uint64_t divide = 1;
};

struct Architecture {
  std::string_view arch;
  std::vector<std::string_view> has, lacks;  // patterns of names that tell it from the others
  std::vector<Size> sizes;
  void (*more)(const Shapes&, Keys&) = nullptr;  // what is no plain size; num_layers is known
  std::vector<std::string_view> unused = {};     // parameters without effect, which files may lack
  std::vector<std::string_view> untold = {};     // keys that no shape tells, as published unless given
};

const std::vector<Form>& forms();
const Form* find_form(std::string_view name, std::string_view arch);
const Architecture* find_architecture(std::string_view arch);

// The form that these names are in; null: our own names, or unknown. `model_type`: of config.json, or "".
const Form* recognise_form(const std::set<std::string, std::less<>>& names, const std::string& model_type);
// The architecture of tensors under our names; null: none that is known.
const Architecture* recognise_architecture(const Shapes& shapes);
// num_layers, and what the shapes tell besides.
Keys keys_from_shapes(const Architecture& architecture, const Shapes& shapes);

// The tensors of `file` under our names and in our orientation. Names without a rule keep theirs.
std::unique_ptr<TensorFile> to_ours(std::shared_ptr<const TensorFile> file, const Form& form);
// Tensors of ours as the form has them; those that it does not have (no rule) are left out.
std::unique_ptr<TensorFile> to_theirs(std::shared_ptr<const TensorFile> file, const Form& form);

}  // namespace rookery::foreign
