// report.cpp: sets of threads and source lines as text.
#include "kernels/emul/report.h"

#include "kernels/base/str.h"

namespace rookery::emulator {

std::string ranges(const std::vector<int>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t end = i + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    text += str(text.empty() ? "" : ", ", numbers[i]);
    if (end > i + 1) text += str("-", numbers[end - 1]);
    i = end;
  }
  return text;
}

}  // namespace rookery::emulator
