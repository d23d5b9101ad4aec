// yaml_fuzz.cpp: any bytes as a configuration file: read, or refused with an Error of the configuration; what
// was read is written and read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "trainer/config/run_config.h"

namespace {

struct FuzzModel : rookery::config::ModelConfig {
  int64_t num_layers = 1;
  std::vector<double> scales;
  std::string arch() const override { return "fuzz"; }
  void fields(rookery::config::Visitor& v) override {
    v("num_layers", num_layers, "blocks").positive();
    v("scales", scales, "of the blocks");
  }
};
struct FuzzRecipe : rookery::config::RecipeConfig {
  std::string kind() const override { return "pretrain"; }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rookery;
  static const bool registered = [] {
    config::register_model_config("fuzz", [] { return std::make_unique<FuzzModel>(); });
    config::register_recipe_config("pretrain", [] { return std::make_unique<FuzzRecipe>(); });
    return true;
  }();
  if (!registered || size > config::kMaxFileBytes) return 0;
  try {
    config::RunConfig c =
        config::parse_run(std::string(reinterpret_cast<const char*>(data), size), "fuzz.yaml");
    std::string yaml = config::resolved_yaml(c);
    if (config::resolved_yaml(config::parse_run(yaml, "again.yaml")) != yaml) std::abort();
  } catch (const Error& e) {
    if (e.code() != ExitCode::kConfig) std::abort();
  }
  return 0;
}
