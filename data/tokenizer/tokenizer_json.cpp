// tokenizer_json.cpp: first the JSON itself (Reader: strict, bounded, the two long lists apart), then what it
// says (understand_*).
#include "data/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "data/tokenizer/unicode.h"
#include "data/tokenizer/utf8.h"
#include "kernels/base/error.h"

namespace rookery::data {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDepth = 12;         // real files: 6
constexpr int64_t kMaxValues = 1 << 18;  // beside vocabulary and merges; real files: a few thousand

// The characters that stand for bytes: 33-126, 161-172, 174-255 for themselves, the other bytes in ascending
// order as U+0100, U+0101, ...
const std::array<char32_t, 256>& byte_chars() {
  static const std::array<char32_t, 256> table = [] {
    std::array<char32_t, 256> chars{};
    char32_t next = 0x100;
    for (char32_t b = 0; b < 256; ++b)
      chars[b] = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 ? b : next++;
    return chars;
  }();
  return table;
}

// The bytes that `text` stands for; nothing where a character stands for none.
std::optional<std::string> from_byte_chars(std::string_view text) {
  static const std::array<int, 0x200> bytes = [] {
    std::array<int, 0x200> table;
    table.fill(-1);
    for (int b = 0; b < 256; ++b) table[byte_chars()[b]] = b;
    return table;
  }();
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = first_utf8_char(text.substr(at));
    if (c.code >= bytes.size() || bytes[c.code] < 0) return std::nullopt;
    out += static_cast<char>(bytes[c.code]);
    at += c.length;
  }
  return out;
}

// A value, short and safe enough for a message.
std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', true);
  if (text.size() > 80) text.replace(80, text.size(), "...");
  return text;
}

// What the file holds, not yet understood.
struct Contents {
  Json settings;  // all but the two lists
  std::vector<std::pair<std::string, int64_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;  // ("a b", "") as one string, else (a, b)
  bool has_vocab = false, has_merges = false;
};

// Takes the events of the JSON parser: a tree of small things, the vocabulary and the merges as lists.
class Reader final : public Json::json_sax_t {
 public:
  Reader(Contents& out, std::string_view name) : out_(out), name_(name) {}

  bool null() override { return value(nullptr); }
  bool boolean(bool v) override { return value(v); }
  bool number_integer(number_integer_t v) override { return value(v); }
  bool number_unsigned(number_unsigned_t v) override { return value(v); }
  bool number_float(number_float_t v, const string_t&) override { return value(v); }
  bool string(string_t& v) override { return value(std::move(v)); }
  bool binary(binary_t&) override { return false; }  // JSON has none

  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool key(string_t& key) override {
    Frame& top = frames_.back();
    const bool is_new = top.kind == Frame::kVocab ? tokens_.insert(key).second : !top.node->contains(key);
    if (!is_new) refuse("BPE-01", str("the key ", shown(key), " stands twice"));
    top.key = std::move(key);
    return true;
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(size_t position, const std::string&, const Json::exception&) override {
    refuse("BPE-01", str("no JSON at byte ", position == 0 ? 0 : position - 1));
  }

 private:
  struct Frame {
    enum Kind { kTree, kVocab, kMerges, kMerge } kind;
    Json* node = nullptr;  // of kTree
    std::string key;       // of objects: the one whose value comes
    int count = 0;         // of kMerge: strings so far
  };

  [[noreturn]] void refuse(std::string_view id, const std::string& what) const {
    fail(ExitCode::kData, id, name_, ": ", what, ". Expected a tokenizer.json of byte-level BPE");
  }

  // Where the next value goes in the tree.
  Json& slot() {
    if (++values_ > kMaxValues)
      refuse("BPE-01", str("more than ", kMaxValues, " values beside the vocabulary"));
    if (frames_.empty()) return out_.settings;
    Frame& top = frames_.back();
    return top.node->is_array() ? top.node->emplace_back() : (*top.node)[top.key];
  }

  bool value(Json v) {
    if (frames_.empty()) refuse("BPE-01", "is no JSON object");
    Frame& top = frames_.back();
    switch (top.kind) {
      case Frame::kTree:
        slot() = std::move(v);
        return true;
      case Frame::kVocab:
        if (!v.is_number_unsigned() || v.get<uint64_t>() > static_cast<uint64_t>(kMaxBpeId))
          refuse("BPE-03", str("the id of token ", shown(top.key), " is ", shown(v),
                               ", not a number from 0 to ", kMaxBpeId));
        out_.vocab.emplace_back(std::move(top.key), v.get<int64_t>());
        return true;
      case Frame::kMerges:
        if (!v.is_string()) refuse("BPE-04", str("merge ", out_.merges.size(), " is ", shown(v)));
        out_.merges.emplace_back(std::move(v.get_ref<std::string&>()), "");
        return true;
      default:
        if (!v.is_string() || top.count == 2)
          refuse("BPE-04", str("merge ", out_.merges.size() - 1, " is no pair of two strings"));
        (top.count++ == 0 ? out_.merges.back().first : out_.merges.back().second) =
            std::move(v.get_ref<std::string&>());
        return true;
    }
  }

  bool open(Json empty) {
    if (frames_.size() == kMaxDepth) refuse("BPE-01", str("is nested deeper than ", kMaxDepth));
    const bool object = empty.is_object();
    if (frames_.empty() && !object) refuse("BPE-01", "is no JSON object");
    if (!frames_.empty()) {
      const Frame& top = frames_.back();
      if (top.kind == Frame::kVocab)
        refuse("BPE-03", str("the id of token ", shown(top.key), " is no number"));
      if (top.kind == Frame::kMerge || (top.kind == Frame::kMerges && object))
        refuse("BPE-04", str("merge ", out_.merges.size(), " is no pair of two strings"));
      if (top.kind == Frame::kMerges) {
        out_.merges.emplace_back();
        frames_.push_back({Frame::kMerge, nullptr, "", 0});
        return true;
      }
      const bool in_model = frames_.size() == 2 && frames_[0].key == "model";
      if (in_model && object && top.key == "vocab") {
        out_.has_vocab = true;
        frames_.push_back({Frame::kVocab, nullptr, "", 0});
        return true;
      }
      if (in_model && !object && top.key == "merges") {
        out_.has_merges = true;
        frames_.push_back({Frame::kMerges, nullptr, "", 0});
        return true;
      }
    }
    Json& node = slot();
    node = std::move(empty);
    frames_.push_back({Frame::kTree, &node, "", 0});
    return true;
  }

  bool close() {
    const Frame& top = frames_.back();
    if (top.kind == Frame::kMerge && top.count != 2)
      refuse("BPE-04", str("merge ", out_.merges.size() - 1, " is no pair of two strings"));
    frames_.pop_back();
    return true;
  }

  Contents& out_;
  std::string_view name_;
  std::vector<Frame> frames_;
  std::unordered_set<std::string> tokens_;
  int64_t values_ = 0;
};

// Turns the contents into a model.
class Interpreter {
 public:
  Interpreter(const Contents& contents, std::string_view name) : in_(contents), name_(name) {}

  BpeModel run() {
    const Json& all = in_.settings;
    only_keys(all, "",
              {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
               "post_processor", "decoder", "model"});
    require("version", all, "1.0");
    require("truncation", all, nullptr);
    require("padding", all, nullptr);
    model_settings(member(all, "", "model"));
    normalizer(all.value("normalizer", Json()));
    pre_tokenizer(all.value("pre_tokenizer", Json()));
    decoder(all.value("decoder", Json()));
    // post_processor adds tokens around a text, which callers here do themselves.
    std::map<int32_t, std::string> added;  // by id
    if (all.contains("added_tokens")) added = added_tokens(all["added_tokens"]);
    vocabulary(added);
    merges();
    return std::move(model_);
  }

 private:
  [[noreturn]] void refuse(std::string_view id, const std::string& what) const {
    fail(ExitCode::kData, id, name_, ": ", what);
  }
  [[noreturn]] void unsupported(const std::string& what, const std::string& expected) const {
    refuse("BPE-02",
           str(what, " is not supported, expected ", expected,
               ". Use the tokenizer.json of a model with byte-level BPE, such as Llama-3 or Qwen2.5"));
  }
  const Json& member(const Json& object, const std::string& where, const char* key) const {
    if (!object.is_object() || !object.contains(key))
      refuse("BPE-01", str("has no key ", where, key, ", expected a tokenizer.json"));
    return object[key];
  }
  void only_keys(const Json& object, const std::string& where,
                 std::initializer_list<std::string_view> known) const {
    if (!object.is_object()) refuse("BPE-01", str(where, " is ", shown(object), ", expected an object"));
    for (const auto& [key, value] : object.items())
      if (std::find(known.begin(), known.end(), key) == known.end())
        unsupported(str("the key ", where, shown(key)), "the keys of byte-level BPE only");
  }
  // The value at `key`, if there is one, must be the one that changes nothing, or as good as that: null.
  void require(const char* key, const Json& object, const Json& wanted, const std::string& where = "") const {
    if (!object.contains(key) || object[key].is_null() || object[key] == wanted) return;
    unsupported(str(where, key, " = ", shown(object[key])), wanted.is_null() ? "null" : shown(wanted));
  }
  bool flag(const Json& object, const std::string& where, const char* key, bool otherwise) const {
    if (!object.contains(key) || object[key].is_null()) return otherwise;
    if (!object[key].is_boolean())
      refuse("BPE-01", str(where, key, " is ", shown(object[key]), ", expected true or false"));
    return object[key].get<bool>();
  }
  std::string type_of(const Json& object, const std::string& where) const {
    const Json& type = member(object, where, "type");
    if (!type.is_string()) refuse("BPE-01", str(where, "type is ", shown(type), ", expected a string"));
    return type;
  }
  // The steps of a Sequence, or the one step that stands alone; none for null.
  std::vector<Json> steps(const Json& given, const std::string& where, const char* list) const {
    if (given.is_null()) return {};
    if (type_of(given, where) != "Sequence") return {given};
    only_keys(given, where, {"type", list});
    const Json& all = member(given, where, list);
    if (!all.is_array()) refuse("BPE-01", str(where, list, " is ", shown(all), ", expected a list"));
    return all;
  }

  void model_settings(const Json& m) {
    // dropout and fuse_unk do nothing here: null (or 0), and no byte is unknown.
    only_keys(m, "model.",
              {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
               "byte_fallback", "ignore_merges", "vocab", "merges"});
    if (type_of(m, "model.") != "BPE") unsupported(str("model.type = ", shown(m["type"])), "\"BPE\"");
    require("dropout", m, 0.0, "model.");
    require("continuing_subword_prefix", m, "", "model.");
    require("end_of_word_suffix", m, "", "model.");
    if (flag(m, "model.", "byte_fallback", false))
      unsupported("model.byte_fallback = true (a SentencePiece vocabulary)", "false");
    model_.ignore_merges = flag(m, "model.", "ignore_merges", false);
    if (!in_.has_vocab) refuse("BPE-03", "model.vocab is missing or no object of tokens and ids");
    if (!in_.has_merges) refuse("BPE-04", "model.merges is missing or no list");
  }

  void normalizer(const Json& given) {
    for (const Json& step : steps(given, "normalizer.", "normalizers")) {
      only_keys(step, "normalizer.", {"type"});
      if (type_of(step, "normalizer.") != "NFC")
        unsupported(str("normalizer ", shown(step["type"])), "\"NFC\" or none");
      model_.nfc = true;
    }
  }

  void pre_tokenizer(const Json& given) {
    const std::string where = "pre_tokenizer.";
    std::optional<SplitPattern> split;
    bool bytes = false;
    for (const Json& step : steps(given, where, "pretokenizers")) {
      const std::string type = type_of(step, where);
      if (type == "Split" && !split && !bytes) {
        only_keys(step, where, {"type", "pattern", "behavior", "invert"});
        only_keys(member(step, where, "pattern"), where + "pattern.", {"Regex"});
        const Json& regex = member(step["pattern"], where + "pattern.", "Regex");
        split = split_pattern_of(regex.is_string() ? regex.get<std::string>() : "");
        if (!split) unsupported(str(where, "pattern ", shown(regex)), "that of GPT-2, Llama-3 or Qwen2");
        require("behavior", step, "Isolated", where);
        require("invert", step, false, where);
      } else if (type == "ByteLevel" && !bytes) {
        bytes = true;
        only_keys(step, where, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
        // Left out, they mean true.
        if (flag(step, where, "add_prefix_space", true))
          unsupported(where + "add_prefix_space = true", "false");
        const bool regex = flag(step, where, "use_regex", true);
        if (regex && split) unsupported(where + "use_regex = true after a Split", "false");
        if (regex) split = SplitPattern::kGpt2;
      } else {
        unsupported(str(where, "type ", shown(type), " at this place"), "Split, then ByteLevel");
      }
    }
    if (!bytes || !split)
      unsupported("a pre_tokenizer that does not split into words of bytes",
                  "Split and ByteLevel, or ByteLevel with use_regex");
    model_.split = *split;
  }

  void decoder(const Json& given) const {
    for (const Json& step : steps(given, "decoder.", "decoders"))
      if (type_of(step, "decoder.") != "ByteLevel")
        unsupported(str("decoder ", shown(step["type"])), "\"ByteLevel\"");
  }

  std::map<int32_t, std::string> added_tokens(const Json& list) {
    std::map<int32_t, std::string> by_id;
    std::unordered_set<std::string> contents;
    if (!list.is_array()) refuse("BPE-05", str("added_tokens is ", shown(list), ", expected a list"));
    for (const Json& token : list) {
      const std::string where = str("added_tokens[", model_.added.size(), "].");
      only_keys(token, where, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
      const Json& id = member(token, where, "id");
      const Json& content = member(token, where, "content");
      if (!id.is_number_unsigned() || id.get<uint64_t>() > static_cast<uint64_t>(kMaxBpeId))
        refuse("BPE-05", str(where, "id is ", shown(id), ", expected 0 to ", kMaxBpeId));
      if (!content.is_string() || content.get_ref<const std::string&>().empty() ||
          content.get_ref<const std::string&>().size() > kMaxTokenBytes)
        refuse("BPE-05", str(where, "content is ", shown(content), ", expected a string of 1 to ",
                             kMaxTokenBytes, " bytes"));
      for (const char* key : {"single_word", "lstrip", "rstrip"}) require(key, token, false, where);
      AddedToken added{id.get<int32_t>(), content, flag(token, where, "special", false),
                       flag(token, where, "normalized", true)};
      if (!by_id.emplace(added.id, added.content).second)
        refuse("BPE-05", str(where, "id ", added.id, " stands there before"));
      if (!contents.insert(model_.nfc ? to_nfc(added.content) : added.content).second)
        refuse("BPE-05", str(where, "content ", shown(content), " stands there before"));
      model_.added.push_back(std::move(added));
    }
    return by_id;
  }

  void vocabulary(const std::map<int32_t, std::string>& added) {
    std::unordered_map<int32_t, const std::string*> by_id;
    std::array<bool, 256> has_byte{};
    for (const auto& [text, id64] : in_.vocab) {
      const auto id = static_cast<int32_t>(id64);
      if (const auto [first, is_new] = by_id.emplace(id, &text); !is_new)
        refuse("BPE-03", str("id ", id, " belongs to ", shown(*first->second), " and ", shown(text)));
      std::optional<std::string> bytes = from_byte_chars(text);
      if (const auto same = added.find(id); same != added.end()) {
        if (same->second != text && same->second != bytes)
          refuse("BPE-05", str("id ", id, " is ", shown(same->second), " among the added tokens, ",
                               shown(text), " in the vocabulary"));
        if (!bytes) bytes = text;  // never made by merges: it may hold any character
      }
      if (!bytes || bytes->empty() || bytes->size() > kMaxTokenBytes)
        refuse("BPE-03", str("token ", shown(text), ", id ", id, ", is no string of 1 to ", kMaxTokenBytes,
                             " bytes in the characters that byte-level BPE writes for them"));
      if (bytes->size() == 1) has_byte[static_cast<unsigned char>((*bytes)[0])] = true;
      ids_.emplace(*bytes, id);
      model_.tokens.push_back({id, std::move(*bytes)});
    }
    for (const auto& [id, content] : added) {
      const auto found = ids_.find(content);
      if (found != ids_.end() && found->second != id)
        refuse("BPE-05", str(shown(content), " has id ", id, " among the added tokens, ", found->second,
                             " in the vocabulary"));
    }
    const auto missing = std::find(has_byte.begin(), has_byte.end(), false);
    if (missing != has_byte.end())
      refuse("BPE-03", str("has no token for the byte ", missing - has_byte.begin(),
                           ", expected all 256: this is no byte-level vocabulary, or it is cut"));
  }

  void merges() {
    std::unordered_set<uint64_t> pairs;
    for (size_t rank = 0; rank < in_.merges.size(); ++rank) {
      auto [left, right] = in_.merges[rank];
      if (right.empty()) {  // "left right"
        const size_t blank = left.find(' ');
        if (blank == std::string::npos || blank == 0 || blank + 1 == left.size() ||
            left.find(' ', blank + 1) != std::string::npos)
          refuse("BPE-04",
                 str("merge ", rank, " is ", shown(left), ", expected two tokens with a space between"));
        right = left.substr(blank + 1);
        left.resize(blank);
      }
      const auto id_of = [&](const std::string& text, const char* what) {
        const std::optional<std::string> bytes = from_byte_chars(text);
        const auto found = bytes ? ids_.find(*bytes) : ids_.end();
        if (found == ids_.end())
          refuse("BPE-04", str("merge ", rank, ": ", what, ", ", shown(text), ", is not in the vocabulary"));
        return found->second;
      };
      const BpeMerge merge{id_of(left, "the left part"), id_of(right, "the right part"),
                           id_of(left + right, "the result")};
      if (!pairs.insert(static_cast<uint64_t>(merge.left) << 32 | static_cast<uint32_t>(merge.right)).second)
        refuse("BPE-04",
               str("merge ", rank, ", ", shown(left), " and ", shown(right), ", stands there before"));
      model_.merges.push_back(merge);
    }
  }

  const Contents& in_;
  std::string_view name_;
  BpeModel model_;
  std::unordered_map<std::string, int32_t> ids_;  // of the vocabulary, by bytes
};

}  // namespace

BpeModel parse_tokenizer_json(std::string_view file, std::string_view name) {
  Contents contents;
  Reader reader(contents, name);
  Json::sax_parse(file.begin(), file.end(), &reader);
  return Interpreter(contents, name).run();
}

std::string to_byte_chars(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) append_utf8(out, byte_chars()[static_cast<unsigned char>(c)]);
  return out;
}

}  // namespace rookery::data
