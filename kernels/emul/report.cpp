// report.cpp: sets of threads and source lines as text.
#include "kernels/emul/report.h"

#include <dlfcn.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <string_view>

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

std::string source_line(uintptr_t return_address) {
  Dl_info info{};
  std::array<char, 4096> program{};
  char hex[2 * sizeof(uintptr_t) + 1];
  if (dladdr(reinterpret_cast<void*>(return_address), &info) == 0 ||
      readlink("/proc/self/exe", program.data(), program.size() - 1) < 0)
    return "an unknown line";
  // The call itself ends one byte before the return address.
  std::snprintf(hex, sizeof hex, "%zx", return_address - 1 - reinterpret_cast<uintptr_t>(info.dli_fbase));
  const std::string unknown = str("address 0x", hex, " of ", program.data());
  const std::string_view name = program.data();
  if (name.find('\'') != std::string_view::npos) return unknown;
  FILE* pipe = popen(str("addr2line -i -e '", name, "' 0x", hex, " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return unknown;
  std::string text, line;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) {
    if (c != '\n') {
      line += static_cast<char>(c);
      continue;
    }
    if (const size_t note = line.find(" (discriminator"); note != std::string::npos) line.resize(note);
    text += text.empty() ? line : str(" (inlined at ", line, ")");
    line.clear();
  }
  pclose(pipe);
  return text.empty() || text[0] == '?' ? unknown : text;
}

}  // namespace rookery::emulator
