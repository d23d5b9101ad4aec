// report.cpp: sets of threads and source lines as text.
#include "kernels/emul/report.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "kernels/base/str.h"
#include "kernels/emul/options.h"

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

namespace {

std::string program_name() {
  std::array<char, 4096> name{};
  return readlink("/proc/self/exe", name.data(), name.size() - 1) < 0 ? std::string() : name.data();
}

// The address in the program's file; empty where it is not of this program.
std::string address_in_file(uintptr_t address) {
  Dl_info info{};
  char hex[2 * sizeof(uintptr_t) + 3];
  if (dladdr(reinterpret_cast<void*>(address), &info) == 0) return {};
  std::snprintf(hex, sizeof hex, "0x%zx", address - reinterpret_cast<uintptr_t>(info.dli_fbase));
  return hex;
}

// The lines that addr2line prints; none where it is not to be had.
std::vector<std::string> addr2line(const std::string& options, const std::string& addresses) {
  const std::string name = program_name();
  std::vector<std::string> lines;
  if (name.empty() || name.find('\'') != std::string::npos) return lines;
  FILE* pipe = popen(str("addr2line ", options, " -e '", name, "' ", addresses, " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return lines;
  std::string line;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) {
    if (c != '\n') {
      line += static_cast<char>(c);
      continue;
    }
    if (const size_t note = line.find(" (discriminator"); note != std::string::npos) line.resize(note);
    lines.push_back(std::move(line));
    line.clear();
  }
  pclose(pipe);
  return lines;
}

// "void a::(anonymous namespace)::f<16, float>(int)" is f<16, float>.
std::string instance_name(std::string name) {
  constexpr std::string_view kAnonymous = "(anonymous namespace)::";
  for (size_t at; (at = name.find(kAnonymous)) != std::string::npos;) name.erase(at, kAnonymous.size());
  size_t begin = 0, end = 0;
  for (int depth = 0; end < name.size() && (depth > 0 || name[end] != '('); ++end) {
    depth += (name[end] == '<') - (name[end] == '>');
    if (depth == 0 && (name[end] == ':' || name[end] == ' ')) begin = end + 1;
  }
  return name.substr(begin, end - begin);
}

}  // namespace

std::string source_line(uintptr_t return_address) {
  const std::string address = address_in_file(return_address - 1);  // the call itself ends there
  if (address.empty()) return "an unknown line";
  std::string text;
  if (current_options().source_lines)
    for (const std::string& line : addr2line("-i", address))
      text += text.empty() ? line : str(" (inlined at ", line, ")");
  return text.empty() || text[0] == '?' ? str("address ", address, " of ", program_name()) : text;
}

std::vector<Place> places(const std::vector<uintptr_t>& addresses) {
  constexpr size_t kAtOnce = 1000;  // of a command line
  std::vector<Place> found(addresses.size());
  for (size_t begin = 0; begin < addresses.size(); begin += kAtOnce) {
    std::string list;
    for (size_t i = begin; i < std::min(begin + kAtOnce, addresses.size()); ++i) {
      const std::string address = address_in_file(addresses[i]);
      list += str(" ", address.empty() ? "0" : address);
    }
    // For each address a line with it, then a function and a place, and those that it was inlined to.
    const std::vector<std::string> lines = addr2line("-a -i -f -C", list);
    size_t next = begin;
    for (size_t l = 0; l + 2 < lines.size(); ++l) {
      if (!lines[l].starts_with("0x")) continue;
      Place& place = found[next++];
      for (size_t f = l + 1; f + 1 < lines.size() && !lines[f].starts_with("0x"); f += 2) {
        const std::string& where = lines[f + 1];
        const size_t colon = where.rfind(':');
        if (where[0] == '?' || colon == std::string::npos) break;
        const std::string instance = instance_name(lines[f]);
        place = {where.substr(0, colon), std::atoi(where.c_str() + colon + 1),
                 instance.substr(0, instance.find('<')), instance};
        if (place.file.find("/portable") == std::string::npos) break;
      }
    }
  }
  return found;
}

}  // namespace rookery::emulator
