// bench.cpp: `rookery bench`: how fast this machine is, and how near to its limits. Sub-commands:
// bench_op.cpp, bench_step.cpp, bench_prompt.cpp, bench_load.cpp, bench_comm.cpp, bench_report.cpp.
#include "trainer/cli/bench.h"

#include <algorithm>

#include "trainer/cli/commands.h"

namespace rookery::cli {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

Command bench_command() {
  Command c;
  c.name = "bench";
  c.summary = "speed of operations, training steps, prompts and loading";
  c.examples = {{"rookery bench step", "a training step beside its matrix products"}};
  c.children = {bench_op_command(),   bench_step_command(), bench_prompt_command(),
                bench_load_command(), bench_comm_command(), bench_report_command()};
  return c;
}

}  // namespace rookery::cli
