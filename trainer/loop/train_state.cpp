#include "trainer/loop/train_state.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/base/error.h"

namespace rookery::loop {
namespace {

// JSON has no infinity and no NaN: null stands for "not known".
nlohmann::json number(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json();
}

}  // namespace

nlohmann::json TrainState::to_json() const {
  return {{"run_id", run_id},
          {"step", step},
          {"samples", samples},
          {"tokens", tokens},
          {"seed", seed},
          {"skipped", skipped},
          {"skipped_in_a_row", skipped_in_a_row},
          {"best_validation", number(best_validation)},
          {"last_validation", number(last_validation)},
          {"goal_reached", goal_reached},
          {"data", data}};
}

TrainState TrainState::from_json(const nlohmann::json& json) {
  TrainState state;
  try {
    state.run_id = json.at("run_id").get<std::string>();
    state.step = json.at("step").get<int64_t>();
    state.samples = json.at("samples").get<int64_t>();
    state.tokens = json.at("tokens").get<int64_t>();
    state.seed = json.at("seed").get<int64_t>();
    state.skipped = json.at("skipped").get<int64_t>();
    state.skipped_in_a_row = json.at("skipped_in_a_row").get<int64_t>();
    if (!json.at("best_validation").is_null())
      state.best_validation = json.at("best_validation").get<double>();
    if (!json.at("last_validation").is_null())
      state.last_validation = json.at("last_validation").get<double>();
    if (json.contains("goal_reached")) state.goal_reached = json.at("goal_reached").get<bool>();
    if (json.contains("data")) state.data = json.at("data").get<std::vector<std::string>>();
  } catch (const nlohmann::json::exception& error) {
    fail(ExitCode::kData, "CKPT-120",
         "the training state of the checkpoint is not readable: ", std::string(error.what()));
  }
  return state;
}

}  // namespace rookery::loop
