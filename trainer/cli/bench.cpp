// bench.cpp: `rookery bench`: how fast this machine is, and how near to its limits. Sub-command:
// bench_op.cpp.
#include "trainer/cli/commands.h"

namespace rookery::cli {

Command bench_command() {
  Command c;
  c.name = "bench";
  c.summary = "speed of the operations beside measured limits";
  c.children = {bench_op_command()};
  return c;
}

}  // namespace rookery::cli
