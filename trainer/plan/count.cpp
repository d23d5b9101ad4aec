#include "trainer/plan/count.h"

#include <algorithm>

namespace rookery::plan {

int64_t num_parameters(Model& model) {
  int64_t sum = 0;
  for (const auto& [module, count] : parameters_by_module(model)) sum += count;
  return sum;
}

std::vector<std::pair<std::string, int64_t>> parameters_by_module(Model& model) {
  std::vector<std::pair<std::string, int64_t>> modules;
  for (const Parameter* p : model.parameters.all()) {
    if (model.is_unused(*p)) continue;
    std::string name = p->name.substr(0, p->name.find('.'));
    if (name == "blocks") {
      const size_t module = p->name.find('.', 7) + 1;
      name = "blocks." + p->name.substr(module, p->name.find('.', module) - module);
    }
    auto it = std::find_if(modules.begin(), modules.end(), [&](const auto& m) { return m.first == name; });
    if (it == modules.end()) it = modules.insert(modules.end(), {name, 0});
    it->second += p->global.numel();
  }
  return modules;
}

}  // namespace rookery::plan
