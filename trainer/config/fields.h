// fields.h: a config struct lists its fields once, `void fields(Visitor& v) { v("lr", lr, "peak learning
// rate").positive(); }`. Everything else walks that list: reader.h (YAML and overrides), writers.h (resolved
// YAML, JSON Schema, reference, differences).
#pragma once

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "kernels/base/error.h"
#include "trainer/config/scalar.h"

namespace rookery::config {

namespace fs = std::filesystem;

class Field;
class Visitor;

enum class Kind { kBool, kInteger, kNumber, kText, kPath, kList, kSection };

// One member of a config struct, whatever its type. Only the functions of its kind may be called.
class Member {
 public:
  virtual ~Member() = default;
  virtual Kind kind() const = 0;  // an optional has the kind of what it may hold

  // Scalars. parse() leaves the value alone and tells what was expected where `text` does not fit.
  virtual bool parse(std::string_view text, Unit unit, std::string& why);
  virtual std::string text() const;  // reads back to the same value
  virtual double as_number() const;  // of kInteger and kNumber, for bounds
  virtual bool optional() const { return false; }
  virtual bool present() const { return true; }
  virtual void clear();  // optionals: no value

  // Lists. An element lives until the list is resized.
  virtual size_t size() const;
  virtual void resize(size_t count);
  virtual std::unique_ptr<Member> element(size_t i);
  virtual std::unique_ptr<Member> sample();  // an element with its defaults, not in the list

  // Sections; one with a selector ("arch") chooses among registered structs by the value of that key.
  virtual std::vector<Field> fields();
  virtual std::string selector() const { return ""; }
  virtual std::string selected() const { return ""; }
  virtual std::vector<std::string> choices() const { return {}; }
  virtual void select(const std::string& choice);
};

// A member with its key, help and bounds. The setters chain.
class Field {
 public:
  Field(std::string key, std::string help, std::shared_ptr<Member> member)
      : key_(std::move(key)), help_(std::move(help)), member_(std::move(member)) {}

  Field& positive() { return least_ = 0, open_ = true, *this; }
  Field& at_least(double bound) { return least_ = bound, open_ = false, *this; }
  Field& at_most(double bound) { return most_ = bound, *this; }
  Field& between(double least, double most) { return at_least(least).at_most(most); }
  Field& one_of(std::vector<std::string> names) { return names_ = std::move(names), *this; }
  Field& unit(Unit unit) { return unit_ = unit, *this; }
  Field& required() { return required_ = true, *this; }  // must be in the file; a list must not be empty

  const std::string& key() const { return key_; }
  const std::string& help() const { return help_; }
  Member& member() const { return *member_; }
  const std::vector<std::string>& names() const { return names_; }
  Unit unit() const { return unit_; }
  bool is_required() const { return required_; }
  double least() const { return least_; }
  bool open() const { return open_; }  // `least` itself is outside
  double most() const { return most_; }

  // "" if the value of `member` (this field's own, or an element of its list) is within the bounds, else what
  // was expected.
  std::string violation(const Member& member) const;
  std::string bounds_text() const;  // "> 0", "0 to 1", "cosine, linear"; empty: none

 private:
  std::string key_, help_;
  std::shared_ptr<Member> member_;
  std::vector<std::string> names_;
  Unit unit_ = Unit::kPlain;
  double least_ = -std::numeric_limits<double>::infinity(), most_ = std::numeric_limits<double>::infinity();
  bool open_ = false, required_ = false;
};

template <class T>
std::unique_ptr<Member> make_member(T& value);

// Handed to `fields`; notes what is listed.
class Visitor {
 public:
  template <class T>
  Field& operator()(std::string key, T& value, std::string help) {
    return fields_.emplace_back(std::move(key), std::move(help), make_member(value));
  }
  std::vector<Field> take() { return std::move(fields_); }

 private:
  std::vector<Field> fields_;
};

template <class T>
concept HasFields = requires(T& t, Visitor& v) {
  t.fields(v);
};

// A section whose selector key names a registered struct derived from Base. Base has kSelector (the key) and
// kDefault (the choice where the key is absent, "" if it must be given). Registration is explicit:
// Registry<Base>::add from a function that main calls.
template <class Base>
class Registry {
 public:
  using Factory = std::function<std::unique_ptr<Base>()>;
  static void add(const std::string& name, Factory factory) { table()[name] = std::move(factory); }
  static std::vector<std::string> names() {
    std::vector<std::string> all;
    for (const auto& [name, factory] : table()) all.push_back(name);
    return all;
  }
  static std::unique_ptr<Base> make(const std::string& name) {
    auto it = table().find(name);
    RK_CHECK(it != table().end(), "[config] nothing is registered as ", name);
    return it->second();
  }

 private:
  static std::map<std::string, Factory>& table() {
    static std::map<std::string, Factory> entries;
    return entries;
  }
};

template <class Base>
class Selected {
 public:
  void select(const std::string& name) { object_ = Registry<Base>::make(name), name_ = name; }
  const std::string& name() const { return name_; }
  explicit operator bool() const { return object_ != nullptr; }
  Base& operator*() const { return *object_; }
  Base* operator->() const { return object_.get(); }
  Base* get() const { return object_.get(); }

 private:
  std::string name_;
  std::unique_ptr<Base> object_;
};

// ---- from here on: how each type of member is reached ----

// Leaves `value` alone and tells in `why` what was expected where `text` does not fit.
bool parse_scalar(bool& value, std::string_view text, Unit unit, std::string& why);
bool parse_scalar(int64_t& value, std::string_view text, Unit unit, std::string& why);
bool parse_scalar(double& value, std::string_view text, Unit unit, std::string& why);
bool parse_scalar(std::string& value, std::string_view text, Unit unit, std::string& why);
bool parse_scalar(fs::path& value, std::string_view text, Unit unit, std::string& why);

template <class T>
class ScalarMember : public Member {
 public:
  explicit ScalarMember(T& value) : value_(value) {}
  Kind kind() const override {
    if constexpr (std::same_as<T, bool>) return Kind::kBool;
    if constexpr (std::same_as<T, int64_t>) return Kind::kInteger;
    if constexpr (std::same_as<T, double>) return Kind::kNumber;
    if constexpr (std::same_as<T, std::string>) return Kind::kText;
    return Kind::kPath;
  }
  bool parse(std::string_view text, Unit unit, std::string& why) override {
    return parse_scalar(value_, text, unit, why);
  }
  std::string text() const override {
    if constexpr (std::same_as<T, fs::path>) {
      return value_.string();
    } else {
      return str(value_);
    }
  }
  double as_number() const override {
    if constexpr (std::same_as<T, int64_t> || std::same_as<T, double>) {
      return double(value_);
    } else {
      return Member::as_number();
    }
  }

 private:
  T& value_;
};

template <class T>
class OptionalMember : public Member {
 public:
  explicit OptionalMember(std::optional<T>& value) : value_(value) {}
  Kind kind() const override {
    T any{};
    return ScalarMember<T>(any).kind();
  }
  bool parse(std::string_view text, Unit unit, std::string& why) override {
    T read{};
    if (!ScalarMember<T>(read).parse(text, unit, why)) return false;
    value_ = std::move(read);
    return true;
  }
  std::string text() const override { return value_ ? ScalarMember<T>(*value_).text() : "null"; }
  double as_number() const override { return ScalarMember<T>(*value_).as_number(); }
  bool optional() const override { return true; }
  bool present() const override { return value_.has_value(); }
  void clear() override { value_.reset(); }

 private:
  std::optional<T>& value_;
};

template <class T>
class ListMember : public Member {
 public:
  explicit ListMember(std::vector<T>& values) : values_(values) {}
  Kind kind() const override { return Kind::kList; }
  size_t size() const override { return values_.size(); }
  void resize(size_t count) override { values_.resize(count); }
  std::unique_ptr<Member> element(size_t i) override { return make_member(values_.at(i)); }
  std::unique_ptr<Member> sample() override { return make_member(sample_); }

 private:
  std::vector<T>& values_;
  T sample_{};
};

template <class T>
class SectionMember : public Member {
 public:
  explicit SectionMember(T& section) : section_(section) {}
  Kind kind() const override { return Kind::kSection; }
  std::vector<Field> fields() override {
    Visitor v;
    section_.fields(v);
    return v.take();
  }

 private:
  T& section_;
};

template <class Base>
class SelectedMember : public Member {
 public:
  explicit SelectedMember(Selected<Base>& section) : section_(section), name_(section.name()) {
    if (!section_ && *Base::kDefault) {
      for (const std::string& choice : choices()) {
        if (choice == Base::kDefault) select(choice);
      }
    }
  }
  Kind kind() const override { return Kind::kSection; }
  std::vector<Field> fields() override {
    Visitor v;
    Field& selector_field = v(Base::kSelector, name_, Base::kSelectorHelp).one_of(choices());
    if (!*Base::kDefault) selector_field.required();
    if (section_) section_->fields(v);
    return v.take();
  }
  std::string selector() const override { return Base::kSelector; }
  std::string selected() const override { return section_.name(); }
  std::vector<std::string> choices() const override { return Registry<Base>::names(); }
  void select(const std::string& choice) override {
    section_.select(choice);
    name_ = choice;
  }

 private:
  Selected<Base>& section_;
  std::string name_;
};

template <class T>
struct MemberType {
  static_assert(HasFields<T>,
                "a config field is a bool, int64_t, double, std::string, path, a list or optional of these, "
                "or has fields()");
  using type = SectionMember<T>;
};
template <class T>
requires(std::same_as<T, bool> || std::same_as<T, int64_t> || std::same_as<T, double> ||
         std::same_as<T, std::string> || std::same_as<T, fs::path>) struct MemberType<T> {
  using type = ScalarMember<T>;
};
template <class T>
struct MemberType<std::optional<T>> {
  using type = OptionalMember<T>;
};
template <class T>
struct MemberType<std::vector<T>> {
  static_assert(!std::same_as<T, bool>, "std::vector<bool> has no addressable elements");
  using type = ListMember<T>;
};
template <class Base>
struct MemberType<Selected<Base>> {
  using type = SelectedMember<Base>;
};

template <class T>
std::unique_ptr<Member> make_member(T& value) {
  return std::make_unique<typename MemberType<T>::type>(value);
}

}  // namespace rookery::config
