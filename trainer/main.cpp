// main.cpp: hands the command line to the command table; trainer/cli/command.cpp finds the sub-command, runs
// it, reports an error once and returns the documented exit code. The locale stays "C", so numbers are read
// and printed the same everywhere.
#include <fcntl.h>
#include <unistd.h>

#include "trainer/cli/commands.h"
#include "trainer/models/registry.h"
#include "trainer/recipes/recipe.h"

int main(int argc, char** argv) {
  using namespace rookery::cli;
  // A program that is started with a standard stream closed would get its number for the next file it opens,
  // and write its messages into a checkpoint.
  int fd = 0;
  while (fd >= 0 && fd <= 2) fd = ::open("/dev/null", O_RDWR);
  if (fd > 2) ::close(fd);
  rookery::register_models();
  rookery::register_recipes();
  return run_program(rookery_command(), std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
}
