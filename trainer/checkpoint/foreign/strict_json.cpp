#include "trainer/checkpoint/foreign/strict_json.h"

#include <set>
#include <vector>

#include "data/tokenizer/utf8.h"
#include "kernels/base/error.h"

namespace rookery::foreign {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxDepth = 32, kMaxValues = 4'000'000;

// Builds the value and refuses what JSON leaves open: a key that stands twice.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view id, const std::string& place) : id_(id), place_(place) {}
  Json root;

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second)
      fail(ExitCode::kData, id_, place_, ": key '", name, "' stands twice");
    key_ = std::move(name);
    return true;
  }
  bool parse_error(size_t byte, const std::string&, const nlohmann::detail::exception& error) override {
    const std::string_view what = error.what();
    fail(ExitCode::kData, id_, place_, ": is not JSON, at byte ", byte, ": ",
         what.substr(what.find("] ") + 2));
  }

 private:
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  Json& place(Json value) {
    if (++values_ > kMaxValues) fail(ExitCode::kData, id_, place_, ": more than ", kMaxValues, " values");
    if (open_.empty()) return root = std::move(value);
    Json& into = *open_.back();
    if (into.is_array()) {
      into.push_back(std::move(value));
      return into.back();
    }
    // At the end without a search for the key, which key() has done.
    auto& entries = into.get_ref<Json::object_t&>();
    entries.std::vector<std::pair<const std::string, Json>>::emplace_back(std::move(key_), std::move(value));
    return entries.back().second;
  }
  bool open(Json value) {
    if (open_.size() == kMaxDepth) fail(ExitCode::kData, id_, place_, ": nested deeper than ", kMaxDepth);
    open_.push_back(&place(std::move(value)));
    keys_.emplace_back();
    return true;
  }
  bool close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  std::string_view id_;
  const std::string& place_;
  std::vector<Json*> open_;  // a parent does not grow while its last child is open, so these stay
  std::vector<std::set<std::string>> keys_;
  std::string key_;
  size_t values_ = 0;
};

}  // namespace

Json parse_strict_json(std::string_view text, std::string_view id, const std::string& place) {
  if (const size_t at = data::find_invalid_utf8(text); at != std::string_view::npos)
    fail(ExitCode::kData, id, place, ": is not UTF-8, at byte ", at);
  Builder builder(id, place);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder.root);
}

}  // namespace rookery::foreign
