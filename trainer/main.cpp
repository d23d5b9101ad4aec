// main.cpp: hands the command line to the command table; trainer/cli/command.cpp finds the sub-command, runs
// it, reports an error once and returns the documented exit code. The locale stays "C", so numbers are read
// and printed the same everywhere.
#include "trainer/cli/commands.h"
#include "trainer/models/registry.h"
#include "trainer/recipes/recipe.h"

int main(int argc, char** argv) {
  using namespace rookery::cli;
  rookery::register_models();
  rookery::register_recipes();
  return run_program(rookery_command(), std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
}
