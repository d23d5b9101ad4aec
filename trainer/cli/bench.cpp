<<<<<<< HEAD
// bench.cpp: `rookery bench`: how fast this machine is, and how near to its limits. Sub-command:
// bench_op.cpp.
=======
// bench.cpp: `rookery bench`: figures with the floor beside them, measured in the same run.
>>>>>>> cb05d77 (rookery train, eval, generate, bench step)
#include "trainer/cli/commands.h"

namespace rookery::cli {

Command bench_command() {
  Command c;
  c.name = "bench";
<<<<<<< HEAD
  c.summary = "speed of the operations beside measured limits";
  c.children = {bench_op_command()};
=======
  c.summary = "kernel and step benchmarks";
  c.children = {bench_step_command()};
>>>>>>> cb05d77 (rookery train, eval, generate, bench step)
  return c;
}

}  // namespace rookery::cli
