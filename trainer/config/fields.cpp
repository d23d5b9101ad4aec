// fields.cpp: scalars from and to text, bounds and their wording.
#include "trainer/config/fields.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace rookery::config {

namespace {

[[noreturn]] void not_of_this_kind(const char* what) {
  throw Error(ExitCode::kInternal, "", str("[config] a field of this type has no ", what));
}

bool has_control_character(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 32 || c == 127; });
}

}  // namespace

bool Member::parse(std::string_view, Unit, std::string&) { not_of_this_kind("text"); }
std::string Member::text() const { not_of_this_kind("text"); }
double Member::as_number() const { not_of_this_kind("number"); }
void Member::clear() { not_of_this_kind("empty state"); }
size_t Member::size() const { not_of_this_kind("elements"); }
void Member::resize(size_t) { not_of_this_kind("elements"); }
std::unique_ptr<Member> Member::element(size_t) { not_of_this_kind("elements"); }
std::unique_ptr<Member> Member::sample() { not_of_this_kind("elements"); }
std::vector<Field> Member::fields() { not_of_this_kind("fields"); }
void Member::select(const std::string&) { not_of_this_kind("selector"); }

bool parse_scalar(bool& value, std::string_view text, Unit, std::string& why) {
  if (text == "true" || text == "false") {
    value = text == "true";
    return true;
  }
  std::string lower(text);
  for (char& c : lower) c = char(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  static const std::vector<std::string> yes = {"yes", "on", "y", "true"}, no = {"no", "off", "n", "false"};
  why = "expected true or false";
  if (std::find(yes.begin(), yes.end(), lower) != yes.end()) why += "; write true";
  if (std::find(no.begin(), no.end(), lower) != no.end()) why += "; write false";
  return false;
}

bool parse_scalar(int64_t& value, std::string_view text, Unit unit, std::string& why) {
  std::optional<int64_t> read = parse_integer(text, unit, why);
  if (read) value = *read;
  return read.has_value();
}

bool parse_scalar(double& value, std::string_view text, Unit unit, std::string& why) {
  std::optional<double> read = parse_number(text, unit, why);
  if (read) value = *read;
  return read.has_value();
}

bool parse_scalar(std::string& value, std::string_view text, Unit, std::string& why) {
  if (text.find('\0') != std::string_view::npos) {
    why = "expected text without NUL characters";
    return false;
  }
  value = text;
  return true;
}

// A leading "~/" is the home folder, as in a shell (which does not expand it after '=' or inside a file).
bool parse_scalar(fs::path& value, std::string_view text, Unit, std::string& why) {
  if (has_control_character(text)) {
    why = "expected a path without control characters";
    return false;
  }
  if (text == "~" || text.starts_with("~/")) {
    const char* home = std::getenv("HOME");
    if (!home || !*home) {
      why = "expected a full path, since '~' stands for HOME, which is not set";
      return false;
    }
    value = std::string(home) + std::string(text.substr(1));
    return true;
  }
  value = std::string(text);
  return true;
}

std::string Field::violation(const Member& member) const {
  if (!member.present()) return "";
  if (!names_.empty()) {
    if (std::find(names_.begin(), names_.end(), member.text()) != names_.end()) return "";
    return "expected one of " + bounds_text();
  }
  if (member.kind() != Kind::kInteger && member.kind() != Kind::kNumber) return "";
  double value = member.as_number();
  bool above = open_ ? value > least_ : value >= least_;
  return above && value <= most_ ? "" : "expected " + bounds_text();
}

std::string Field::bounds_text() const {
  std::string text;
  if (!names_.empty()) {
    for (const std::string& name : names_) text += (text.empty() ? "" : ", ") + name;
    return text;
  }
  constexpr double kInf = std::numeric_limits<double>::infinity();
  auto digits = [](double x) { return x == std::floor(x) && std::abs(x) < 1e15 ? str(int64_t(x)) : str(x); };
  if (least_ > -kInf) text = str(open_ ? "more than " : "at least ", digits(least_));
  if (most_ < kInf) text += str(text.empty() ? "" : " and ", "at most ", digits(most_));
  return text;
}

}  // namespace rookery::config
