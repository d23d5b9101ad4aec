// registry.h: the list of architectures: their configuration keys and their models.
#pragma once

#include <memory>

#include "trainer/config/run_config.h"
#include "trainer/models/model.h"

namespace rookery {

void register_models();  // makes their keys known to the configuration
// Parameters have names and shapes; memory and values come with a ParamStore and initialize(). part: the
// place of this rank on the tensor axis.
std::unique_ptr<Model> make_model(const config::ModelConfig& config, const nn::Part& part = {});

}  // namespace rookery
