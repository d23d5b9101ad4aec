#include "trainer/plan/count.h"

#include <algorithm>

namespace rookery::plan {

std::string module_of(const Parameter& p) {
  std::string before;
  for (size_t begin = 0;;) {
    const size_t end = p.name.find('.', begin);
    if (end == std::string::npos) return before;
    const std::string word = p.name.substr(begin, end - begin);
    begin = end + 1;
    if (word.find_first_not_of("0123456789") == std::string::npos)
      return str(before, ".", p.name.substr(begin, p.name.find('.', begin) - begin));
    before += (before.empty() ? "" : ".") + word;
  }
}

int64_t num_parameters(Model& model) {
  int64_t sum = 0;
  for (const auto& [module, count] : parameters_by_module(model)) sum += count;
  return sum;
}

std::vector<std::pair<std::string, int64_t>> parameters_by_module(Model& model) {
  std::vector<std::pair<std::string, int64_t>> modules;
  for (const Parameter* p : model.parameters.all()) {
    if (model.is_unused(*p)) continue;
    const std::string name = module_of(*p);
    auto it = std::find_if(modules.begin(), modules.end(), [&](const auto& m) { return m.first == name; });
    if (it == modules.end()) it = modules.insert(modules.end(), {name, 0});
    it->second += p->global.numel();
  }
  return modules;
}

}  // namespace rookery::plan
