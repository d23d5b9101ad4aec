// tree.cpp: yaml-cpp's events build the tree, since its own nodes lose duplicate keys and the places of keys.
#include "trainer/config/tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <sstream>

#include "kernels/base/error.h"
#include "kernels/base/io.h"

namespace rookery::config {

namespace {

std::string_view line_of(const Place& place) {
  std::string_view text = place.source->text;
  for (int i = 1; i < place.line; ++i) {
    size_t end = text.find('\n');
    if (end == std::string_view::npos) return "";
    text.remove_prefix(end + 1);
  }
  std::string_view line = text.substr(0, text.find('\n'));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

size_t characters(std::string_view utf8) {
  return size_t(std::count_if(utf8.begin(), utf8.end(), [](unsigned char c) { return (c & 0xc0) != 0x80; }));
}

// The line with a caret below the place; a long line is cut to what stands around it.
std::string excerpt(const Place& place) {
  constexpr size_t kBefore = 60, kShown = 100;
  std::string_view line = line_of(place);
  size_t at = std::min(size_t(std::max(place.column - 1, 0)), line.size());
  auto inside_character = [&](size_t i) {
    return i < line.size() && (static_cast<unsigned char>(line[i]) & 0xc0) == 0x80;
  };
  size_t start = at > kBefore ? at - kBefore : 0;
  while (inside_character(start)) ++start;
  size_t end = std::min(line.size(), start + kShown);
  while (inside_character(end)) --end;
  std::string shown(line.substr(start, end - start));
  std::replace(shown.begin(), shown.end(), '\t', ' ');
  std::string number = place.source->command_line ? "" : std::to_string(place.line);
  std::string margin(number.size(), ' ');
  return str("  ", number, number.empty() ? "" : " | ", shown, "\n  ", margin, number.empty() ? "" : " | ",
             std::string(characters(line.substr(start, std::max(at, start) - start)), ' '), "^\n");
}

struct Stop {};  // the document cannot be read further; its problem is noted

class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::shared_ptr<const Source> source, std::vector<Problem>& problems)
      : source_(std::move(source)), problems_(problems) {}

  Node take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add({.kind = Node::Kind::kNull, .place = at(mark), .entries = {}}, anchor);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check_tag(mark, tag);
    bool plain = tag != "!";
    if (!plain && !quote_is_closed(mark)) stop(mark, "YAML syntax: the quote that starts here is not closed");
    if (plain && (value == "~" || value == "null" || value.empty())) return OnNull(mark, anchor);
    add({.kind = Node::Kind::kScalar, .text = value, .quoted = !plain, .place = at(mark), .entries = {}},
        anchor);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    auto it = anchored_.find(anchor);
    if (it == anchored_.end()) stop(mark, "the alias stands inside the node that it names");
    Node copy = it->second;
    count(mark, node_count(copy) - 1);  // add() counts the first
    add(std::move(copy), 0);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    check_tag(mark, tag);
    open_.push_back({{.kind = Node::Kind::kList, .place = at(mark), .entries = {}}, anchor, std::nullopt});
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    check_tag(mark, tag);
    open_.push_back({{.kind = Node::Kind::kMap, .place = at(mark), .entries = {}}, anchor, std::nullopt});
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    Node node;
    YAML::anchor_t anchor;
    std::optional<Entry> entry;  // of a map: a key that waits for its value
  };

  Place at(const YAML::Mark& mark) const { return {source_, mark.line + 1, mark.column + 1}; }

  [[noreturn]] void stop(const YAML::Mark& mark, const std::string& message) {
    problems_.push_back({at(mark), "", message});
    throw Stop();
  }

  void check_tag(const YAML::Mark& mark, const std::string& tag) {
    if (!tag.empty() && tag != "?" && tag != "!")
      stop(mark, str("the tag ", tag, " is not supported; remove it"));
  }

  // yaml-cpp takes the end of the file for the closing quote where a line break stands before it.
  bool quote_is_closed(const YAML::Mark& mark) const {
    std::string_view text = source_->text;
    for (int line = 0; line < mark.line; ++line)
      text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
    text.remove_prefix(std::min(size_t(mark.column), text.size()));
    if (text.starts_with('&'))
      text.remove_prefix(std::min(text.find_first_of("\"'|>"), text.size()));  // an anchor
    if (text.empty() || (text[0] != '"' && text[0] != '\'')) return true;      // a block of text
    for (size_t i = 1; i < text.size(); ++i) {
      const bool escape = text[i] == '\\' && text[0] == '"';
      const bool doubled = text[0] == '\'' && text.substr(i).starts_with("''");
      if (escape || doubled)
        ++i;
      else if (text[i] == text[0])
        return true;
    }
    return false;
  }

  static size_t node_count(const Node& node) {
    size_t total = 1;
    for (const Node& item : node.items) total += node_count(item);
    for (const Entry& entry : node.entries) total += node_count(entry.value);
    return total;
  }

  void count(const YAML::Mark& mark, size_t more) {
    nodes_ += more;
    if (nodes_ > kMaxNodes)
      stop(mark, str("more than ", kMaxNodes, " values, aliases expanded: no configuration is that large"));
  }

  void close() {
    Open done = std::move(open_.back());
    open_.pop_back();
    add(std::move(done.node), done.anchor);
  }

  void add(Node node, YAML::anchor_t anchor) {
    YAML::Mark mark;
    mark.line = node.place.line - 1, mark.column = node.place.column - 1;
    count(mark, 1);
    if (anchor) anchored_[anchor] = node;
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = open_.back();
    if (parent.node.kind == Node::Kind::kList) {
      parent.node.items.push_back(std::move(node));
    } else if (!parent.entry) {
      if (node.kind != Node::Kind::kScalar) stop(mark, "expected a key: a name followed by ':'");
      if (node.text == "<<" && !node.quoted) stop(mark, "merge keys (<<) are not supported; use 'include:'");
      parent.entry = Entry{node.text, node.place, {}};
    } else {
      add_entry(parent);
      if (parent.entry)
        parent.entry->value = std::move(node), parent.node.entries.push_back(std::move(*parent.entry));
      parent.entry.reset();
    }
  }

  // A key that is there already is a problem; its second value is dropped.
  void add_entry(Open& parent) {
    auto same = [&](const Entry& e) { return e.key == parent.entry->key; };
    auto first = std::find_if(parent.node.entries.begin(), parent.node.entries.end(), same);
    if (first == parent.node.entries.end()) return;
    problems_.push_back(
        {parent.entry->place, parent.entry->key,
         str("duplicate key, first given in line ", first->place.line, "; keep one of them")});
    parent.entry.reset();
  }

  std::shared_ptr<const Source> source_;
  std::vector<Problem>& problems_;
  Node root_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, Node> anchored_;
  size_t nodes_ = 0;
};

// The length of the UTF-8 character at the start of `text`, 0 if it is not one (overlong forms and surrogates
// included).
size_t utf8_length(std::string_view text) {
  auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  unsigned first = byte(0);
  if (first < 0x80) return 1;
  size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f)) return 0;
  if ((first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f)) return 0;
  return length;
}

// What the parser would report late, badly or not at all.
bool text_is_sound(const std::shared_ptr<const Source>& source, std::vector<Problem>& problems) {
  std::string_view text = source->text;
  int line = 1;
  size_t line_start = 0;
  bool indentation = true;
  for (size_t i = 0; i < text.size();) {
    Place place{source, line, int(i - line_start) + 1};
    size_t length = utf8_length(text.substr(i));
    if (length == 0) {
      constexpr char kHex[] = "0123456789abcdef";
      unsigned char c = static_cast<unsigned char>(text[i]);
      problems.push_back(
          {place, "",
           str("not valid UTF-8 (byte 0x", kHex[c >> 4], kHex[c & 15], "); save the file as UTF-8")});
      return false;
    }
    if (text[i] == '\0') {
      problems.push_back({place, "", "a NUL byte: this is not a text file"});
      return false;
    }
    if (indentation && text[i] == '\t') {
      size_t rest = text.find_first_not_of(" \t", i);
      if (rest != std::string_view::npos && text[rest] != '\n' && text[rest] != '\r') {
        problems.push_back({place, "", "a tab in the indentation; use spaces"});
        return false;
      }
    }
    if (text[i] == '\n') {
      ++line, line_start = i + 1, indentation = true;
    } else if (text[i] != ' ' && text[i] != '\t') {
      indentation = false;
    }
    i += length;
  }
  return true;
}

// yaml-cpp's words, with a hint where they do not tell what to mend.
std::string syntax_message(const std::string& message) {
  if (message == YAML::ErrorMsg::MAP_VALUE || message == YAML::ErrorMsg::END_OF_MAP) {
    return message +
           " (indent with spaces, all keys of a section alike; a value that holds ': ' or ends in ':' needs "
           "quotes)";
  }
  if (message == YAML::ErrorMsg::BAD_FILE) return "nested too deeply";
  if (message == YAML::ErrorMsg::EOF_IN_SCALAR) return message + " (a quote is not closed)";
  return message;
}

class Loader {
 public:
  Loader(std::vector<Problem>& problems, std::vector<fs::path>* seen) : problems_(problems), seen_(seen) {}

  Node load(const fs::path& path, const Place* from) {
    Node own =
        parse_yaml(std::make_shared<Source>(Source{path.string(), read(path, from), false}), problems_);
    auto include = std::find_if(own.entries.begin(), own.entries.end(),
                                [](const Entry& e) { return e.key == "include"; });
    if (include == own.entries.end()) return own;
    Node included = std::move(include->value);
    own.entries.erase(include);
    Node merged;
    stack_.push_back(path);
    for (const Node& name : names_of(included)) {
      // An absolute name stays as it is, since operator/ then drops what stands before.
      fs::path target = path.parent_path() / name.text;
      if (!is_cycle(target, name.place)) merge(merged, load(target, &name.place));
    }
    stack_.pop_back();
    merge(merged, std::move(own));
    return merged;
  }

 private:
  std::string read(const fs::path& path, const Place* from) {
    if (++files_ > kMaxFiles) {
      throw_problems({{from ? *from : Place{}, "include",
                       str("more than ", kMaxFiles, " files are read, includes counted")}});
    }
    std::string where = from ? to_string(*from) + ": include: " : "";
    std::error_code ec;
    if (!fs::exists(path, ec) && !ec) {
      fail(ExitCode::kNoInput, "CFG-02", where, path.string(), ": no such file; the working directory is ",
           fs::current_path(ec).string());
    }
    if (fs::is_regular_file(path, ec) && fs::file_size(path, ec) > kMaxFileBytes) {
      fail(ExitCode::kConfig, "CFG-03", where, path.string(), ": holds ", fs::file_size(path, ec),
           " bytes, expected at most ", kMaxFileBytes, " in a configuration file");
    }
    if (seen_) seen_->push_back(path);
    return io::read_file(path, kMaxFileBytes);
  }

  std::vector<Node> names_of(const Node& include) {
    std::vector<Node> names = include.kind == Node::Kind::kList ? include.items : std::vector<Node>{include};
    for (const Node& name : names) {
      if (name.kind == Node::Kind::kScalar) continue;
      problems_.push_back({name.place, "include", "expected a file name or a list of file names"});
      return {};
    }
    return names;
  }

  bool is_cycle(const fs::path& target, const Place& place) {
    std::error_code ec;
    auto same = [&](const fs::path& open) { return fs::equivalent(open, target, ec); };
    auto first = std::find_if(stack_.begin(), stack_.end(), same);
    if (first == stack_.end()) return false;
    std::string cycle;
    for (auto it = first; it != stack_.end(); ++it) cycle += it->string() + " -> ";
    problems_.push_back({place, "include", "the files include each other: " + cycle + target.string()});
    return true;
  }

  std::vector<Problem>& problems_;
  std::vector<fs::path>* seen_;
  std::vector<fs::path> stack_;
  int files_ = 0;
};

// "a.b[0].c" as {"a", "b", "[0]", "c"}; nothing where it is not of that form.
std::optional<std::vector<std::string>> split_path(std::string_view path) {
  std::vector<std::string> parts;
  bool need_key = true;
  for (size_t i = 0; i < path.size();) {
    if (path[i] == '[') {
      size_t end = path.find(']', i);
      if (need_key || end == std::string_view::npos || end == i + 1) return std::nullopt;
      parts.emplace_back(path.substr(i, end + 1 - i));
      i = end + 1;
      if (i < path.size() && path[i] != '.' && path[i] != '[') return std::nullopt;
    } else if (path[i] == '.') {
      if (need_key) return std::nullopt;
      need_key = true;
      ++i;
    } else {
      size_t end = std::min(path.find_first_of(".[", i), path.size());
      parts.emplace_back(path.substr(i, end - i));
      need_key = false;
      i = end;
    }
  }
  if (need_key) return std::nullopt;
  return parts;
}

// The node of a list that "[2]" names, or null.
Node* list_item(Node& list, const std::string& part, std::string& why) {
  size_t index = 0;
  const char* last = part.data() + part.size() - 1;
  auto [end, ec] = std::from_chars(part.data() + 1, last, index);
  if (ec != std::errc() || end != last) {
    why = str("expected an index such as [0], found ", part);
  } else if (list.kind != Node::Kind::kList || list.items.empty()) {
    why = str("there is no list to take ", part, " of; give the whole list as [..]");
  } else if (index >= list.items.size()) {
    why = str("the list has ", list.items.size(), " entries, [0] to [", list.items.size() - 1, "]");
  } else {
    return &list.items[index];
  }
  return nullptr;
}

Node override_value(const std::string& value, const std::shared_ptr<const Source>& source, const Place& place,
                    std::vector<Problem>& problems) {
  if (value.empty() || value == "null" || value == "~")
    return {.kind = Node::Kind::kNull, .place = place, .entries = {}};
  if (std::string_view("[{\"'").find(value[0]) == std::string_view::npos)
    return {.kind = Node::Kind::kScalar, .text = value, .place = place, .entries = {}};
  Node node = parse_yaml(std::make_shared<Source>(Source{source->name, value, true}), problems);
  node.place = place;
  return node;
}

}  // namespace

std::string to_string(const Place& place) {
  if (!place.source) return "configuration";
  if (place.line == 0 || place.source->command_line) return place.source->name;
  std::string_view before = line_of(place).substr(0, size_t(std::max(place.column - 1, 0)));
  return str(place.source->name, ":", place.line, ":", characters(before) + 1);
}

void throw_problems(const std::vector<Problem>& problems) {
  constexpr size_t kMostShown = 50;
  if (problems.empty()) return;
  std::string text =
      str(problems.size(), problems.size() == 1 ? " problem" : " problems", " in the configuration");
  for (size_t i = 0; i < std::min(problems.size(), kMostShown); ++i) {
    const Problem& p = problems[i];
    text += str("\n", to_string(p.place), ": ", p.path, p.path.empty() ? "" : ": ", p.message);
    if (p.place.line > 0) text += "\n" + excerpt(p.place), text.pop_back();
  }
  if (problems.size() > kMostShown) text += str("\nand ", problems.size() - kMostShown, " more");
  bool usage = std::all_of(problems.begin(), problems.end(), [](const Problem& p) { return p.usage; });
  fail(usage ? ExitCode::kUsage : ExitCode::kConfig, "CFG-01", text);
}

Node* Node::find(std::string_view key) {
  for (Entry& entry : entries) {
    if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

Node parse_yaml(std::shared_ptr<const Source> source, std::vector<Problem>& problems) {
  const Node empty{.place = {source}, .entries = {}};
  if (!text_is_sound(source, problems)) return empty;
  TreeBuilder builder(source, problems);
  try {
    std::istringstream in(source->text);
    YAML::Parser parser(in);
    if (parser.HandleNextDocument(builder)) {
      Node root = builder.take();
      TreeBuilder second(source, problems);
      if (parser.HandleNextDocument(second)) {
        problems.push_back({second.take().place, "", "a second document ('---') in the file; keep one"});
      }
      return root;
    }
  } catch (const YAML::Exception& e) {
    problems.push_back(
        {{source, e.mark.line + 1, e.mark.column + 1}, "", "YAML syntax: " + syntax_message(e.msg)});
  } catch (const Stop&) {
    // noted by the builder
  }
  return empty;
}

void merge(Node& base, Node over) {
  if (over.kind == Node::Kind::kNull && base.kind == Node::Kind::kMap) return;
  if (base.kind != Node::Kind::kMap || over.kind != Node::Kind::kMap) {
    base = std::move(over);
    return;
  }
  for (Entry& entry : over.entries) {
    auto same = std::find_if(base.entries.begin(), base.entries.end(),
                             [&](const Entry& e) { return e.key == entry.key; });
    if (same == base.entries.end()) {
      base.entries.push_back(std::move(entry));
    } else {
      same->place = entry.place;
      merge(same->value, std::move(entry.value));
    }
  }
}

Node load_files(const std::vector<fs::path>& files, std::vector<Problem>& problems,
                std::vector<fs::path>* seen) {
  Loader loader(problems, seen);
  Node root;
  for (const fs::path& file : files) merge(root, loader.load(file, nullptr));
  return root;
}

std::string apply_override(Node& root, const std::string& text, std::vector<Problem>& problems) {
  auto source = std::make_shared<Source>(Source{"command line", text, true});
  const bool deletes = text.starts_with('~');
  const size_t equal = deletes ? text.size() : text.find('=');
  const std::string path = text.substr(deletes, equal - deletes);
  auto problem_at = [&](size_t column, const std::string& message) {
    const Place place{source, 1, int(column) + 1};
    problems.push_back({place, path, message, true});
    return std::string();
  };
  if (!text_is_sound(source, problems)) return "";
  auto parts = split_path(path);
  if (!parts || equal == std::string::npos) {
    return problem_at(0, "expected an override such as optim.lr=6e-4, data.sources[0].weight=2 or ~optim.lr");
  }
  if (root.kind == Node::Kind::kNull)
    root = {.kind = Node::Kind::kMap, .place = {source, 1, 1}, .entries = {}};
  Node* node = &root;
  size_t column = size_t(deletes);
  for (size_t i = 0; i < parts->size(); ++i) {
    const std::string& part = (*parts)[i];
    const bool last = i + 1 == parts->size();
    const Place place{source, 1, int(column) + 1};
    if (part[0] == '[') {
      std::string why;
      Node* item = list_item(*node, part, why);
      if (!item) return problem_at(column, why);
      if (deletes && last) {
        node->items.erase(node->items.begin() + (item - node->items.data()));
        return "";
      }
      node = item;
    } else {
      auto entry = std::find_if(node->entries.begin(), node->entries.end(),
                                [&](const Entry& e) { return e.key == part; });
      if (deletes) {
        if (entry == node->entries.end()) return path;
        if (last) {
          node->entries.erase(entry);
          return "";
        }
      } else if (entry == node->entries.end()) {
        // What is not a map becomes one; if the key does not take a section, the reader says so.
        if (node->kind != Node::Kind::kMap) *node = {.kind = Node::Kind::kMap, .place = place, .entries = {}};
        entry = node->entries.insert(node->entries.end(), Entry{part, place, {}});
      } else if (last) {
        entry->place = place;
      }
      node = &entry->value;
    }
    column += part.size() + (!last && (*parts)[i + 1][0] != '[' ? 1 : 0);
  }
  *node = override_value(text.substr(equal + 1), source, {source, 1, int(equal) + 2}, problems);
  return "";
}

}  // namespace rookery::config
