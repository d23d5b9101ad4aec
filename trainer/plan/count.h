// count.h: the parameters of a model, from its declared shapes: no weights are allocated.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "trainer/models/model.h"

namespace rookery::plan {

// The part of the model that a parameter belongs to: the path in front of its own name, or that around the
// number of its block: "emb", "head", "blocks.att" of "blocks.3.att.key.weight".
std::string module_of(const Parameter& p);

// As published tables count: every tensor but those that no output depends on (Model::is_unused).
int64_t num_parameters(Model& model);

// The same by the part of the model: "emb", "blocks.att", "blocks.ffn", ...
std::vector<std::pair<std::string, int64_t>> parameters_by_module(Model& model);

}  // namespace rookery::plan
