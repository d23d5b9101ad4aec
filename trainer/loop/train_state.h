// train_state.h: all that a resume needs beside the tensors. The order of the data follows from the number of
// samples.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace rookery::loop {

struct TrainState {
  std::string run_id;
  int64_t step = 0, samples = 0, tokens = 0;  // done
  int64_t seed = 0;
  int64_t skipped = 0, skipped_in_a_row = 0;  // steps that were not applied because something was not finite
  double best_validation = std::numeric_limits<double>::infinity();
  double last_validation = std::numeric_limits<double>::quiet_NaN();  // of these very weights; NaN: not made
  bool goal_reached = false;                                          // eval.stop_accuracy ended the run
  std::vector<std::string> data;  // what each source holds (data_fingerprint); empty: not known

  nlohmann::json to_json() const;
  static TrainState from_json(const nlohmann::json& json);  // throws kData CKPT-120 naming what is missing
};

}  // namespace rookery::loop
