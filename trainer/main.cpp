// main.cpp: finds the sub-command, runs it, reports an error once, returns the documented exit code.
#include <cstdio>

#include "kernels/base/error.h"

int main() {
  std::fputs("rookery\n", stderr);
  return static_cast<int>(rookery::ExitCode::kUsage);
}
