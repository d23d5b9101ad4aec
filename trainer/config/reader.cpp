// reader.cpp: the tree and the field list walked side by side.
#include "trainer/config/reader.h"

#include <algorithm>
#include <set>

#include "trainer/config/nearest.h"

namespace rookery::config {

namespace {

std::string join(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

std::string found(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kNull:
      return "found nothing";
    case Node::Kind::kList:
      return "found a list";
    case Node::Kind::kMap:
      return "found a section";
    case Node::Kind::kScalar:
      break;
  }
  constexpr size_t kMostShown = 60;
  std::string shown = node.text.substr(0, kMostShown) + (node.text.size() > kMostShown ? ".." : "");
  std::replace(shown.begin(), shown.end(), '\n', ' ');
  return str("found '", shown, "'", node.quoted ? " in quotes" : "");
}

// Every key below `section`, with its full path: for "did you mean" across sections.
void collect_paths(Member& section, const std::string& path, std::vector<std::string>& out) {
  for (const Field& field : section.fields()) {
    std::string below = join(path, field.key());
    out.push_back(below);
    if (field.member().kind() == Kind::kSection) collect_paths(field.member(), below, out);
  }
}

class Reader {
 public:
  Reader(Member& root, std::vector<Problem>& problems, Origins* origins)
      : root_(root), problems_(problems), origins_(origins) {}

  void read_section(const Node& node, Member& section, const std::string& path) {
    if (node.kind != Node::Kind::kMap && node.kind != Node::Kind::kNull) {
      return problem(node.place, path, "expected a section (lines 'key: value' below it), " + found(node));
    }
    if (!section.selector().empty() && !select(node, section, path)) return;
    std::vector<Field> fields = section.fields();
    std::set<std::string> unread;
    for (const Field& field : fields) unread.insert(field.key());
    for (const Entry& entry : node.entries) {
      auto field =
          std::find_if(fields.begin(), fields.end(), [&](const Field& f) { return f.key() == entry.key; });
      if (field == fields.end()) {
        unknown_key(entry, fields, path);
        continue;
      }
      unread.erase(entry.key);
      note(join(path, entry.key), entry.place);
      read_field(entry.value, *field, join(path, entry.key));
    }
    for (const Field& field : fields) {
      if (!unread.count(field.key())) continue;
      if (field.is_required())
        problems_.push_back(
            {node.place, join(path, field.key()), "is missing: " + field.help(), false, true});
      // Sections that the tree does not have may hold required keys too.
      if (field.member().kind() == Kind::kSection)
        read_section({.place = node.place, .entries = {}}, field.member(), join(path, field.key()));
    }
  }

 private:
  void problem(const Place& place, const std::string& path, const std::string& message) {
    problems_.push_back({place, path, message});
  }

  void note(const std::string& path, const Place& place) {
    if (origins_) (*origins_)[path] = place;
  }

  // The selector key decides what the other keys of the section are, so it is read first.
  bool select(const Node& node, Member& section, const std::string& path) {
    const std::string key = section.selector();
    const Node* choice = node.find(key);
    const std::vector<std::string> choices = section.choices();
    std::string list;
    for (const std::string& name : choices) list += (list.empty() ? "" : ", ") + name;
    if (!choice) {
      if (!section.selected().empty()) return true;
      problems_.push_back({node.place, join(path, key), "is missing; expected one of " + list, false, true});
      return false;
    }
    if (choice->kind != Node::Kind::kScalar ||
        std::find(choices.begin(), choices.end(), choice->text) == choices.end()) {
      problem(choice->place, join(path, key),
              str(found(*choice), ", expected one of ", list, did_you_mean(choice->text, choices)));
      return false;
    }
    if (section.selected() != choice->text) section.select(choice->text);
    return true;
  }

  void unknown_key(const Entry& entry, const std::vector<Field>& fields, const std::string& path) {
    std::vector<std::string> keys, elsewhere;
    for (const Field& field : fields) keys.push_back(field.key());
    std::string best = nearest(entry.key, keys);
    std::string hint;
    if (!best.empty()) {
      hint = str(" (did you mean '", join(path, best), "'?)");
    } else {
      collect_paths(root_, "", elsewhere);
      for (const std::string& other : elsewhere) {
        if (other.ends_with("." + entry.key) && hint.empty()) hint = str(" (did you mean '", other, "'?)");
      }
    }
    if (hint.empty()) {
      for (const std::string& key : keys) hint += (hint.empty() ? "; known here: " : ", ") + key;
    }
    problems_.push_back({entry.place, join(path, entry.key), "unknown key" + hint,
                         entry.place.source && entry.place.source->command_line});
  }

  void read_field(const Node& node, const Field& field, const std::string& path) {
    Member& member = field.member();
    if (member.kind() == Kind::kSection) return read_section(node, member, path);
    if (member.kind() == Kind::kList) return read_list(node, field, path);
    read_scalar(node, field, member, path);
  }

  void read_scalar(const Node& node, const Field& field, Member& member, const std::string& path) {
    if (node.kind == Node::Kind::kNull && member.optional()) return member.clear();
    if (node.kind == Node::Kind::kNull)
      return problem(node.place, path, "has no value; give one, or remove the key for the default");
    std::string why;
    const bool wants_text = member.kind() == Kind::kText || member.kind() == Kind::kPath;
    if (node.kind != Node::Kind::kScalar) {
      problem(node.place, path, str("expected a single value, ", found(node)));
    } else if (node.quoted && !wants_text) {
      if (member.parse(node.text, field.unit(), why)) why = "expected a value without quotes";
      problem(node.place, path, str(why, ", ", found(node)));
    } else if (!member.parse(node.text, field.unit(), why)) {
      problem(node.place, path, str(why, ", ", found(node)));
    } else if (std::string violation = field.violation(member); !violation.empty()) {
      problem(node.place, path, str(violation, ", ", found(node), did_you_mean(node.text, field.names())));
    } else if (field.is_required() && node.text.empty()) {
      problems_.push_back({node.place, path, "must not be empty: " + field.help(), false, true});
    }
  }

  void read_list(const Node& node, const Field& field, const std::string& path) {
    Member& list = field.member();
    if (node.kind == Node::Kind::kNull) {
      list.resize(0);
    } else if (node.kind != Node::Kind::kList) {
      return problem(node.place, path,
                     str("expected a list ([a, b], or lines that start with '- '), ", found(node)));
    } else {
      list.resize(0);
      list.resize(node.items.size());
    }
    if (field.is_required() && list.size() == 0)
      problems_.push_back({node.place, path, "must not be empty: " + field.help(), false, true});
    for (size_t i = 0; i < list.size(); ++i) {
      std::unique_ptr<Member> element = list.element(i);
      std::string below = str(path, "[", i, "]");
      note(below, node.items[i].place);
      if (element->kind() == Kind::kSection) {
        read_section(node.items[i], *element, below);
      } else {
        read_scalar(node.items[i], field, *element, below);
      }
    }
  }

  Member& root_;
  std::vector<Problem>& problems_;
  Origins* origins_;
};

}  // namespace

void read_tree(const Node& tree, Member& section, std::vector<Problem>& problems, Origins* origins) {
  Reader(section, problems, origins).read_section(tree, section, "");
}

Origins read_config(Member& section, const std::vector<fs::path>& files,
                    const std::vector<std::string>& overrides, std::vector<fs::path>* files_read) {
  std::vector<Problem> problems;
  Node root = load_files(files, problems, files_read);
  // A place without a key, or an include, is where reading stopped: what would come after it is not missing.
  const bool unread = std::any_of(problems.begin(), problems.end(),
                                  [](const Problem& p) { return p.path.empty() || p.path == "include"; });
  std::vector<std::string>
      deleted;  // paths that the tree does not have: already at their defaults, if they exist at all
  for (const std::string& text : overrides) {
    std::string path = apply_override(root, text, problems);
    if (!path.empty()) deleted.push_back(path);
  }
  Origins origins;
  read_tree(root, section, problems, &origins);
  std::vector<std::string> known;
  collect_paths(section, "", known);
  for (const std::string& path : deleted) {
    if (std::find(known.begin(), known.end(), path) != known.end()) continue;
    auto source = std::make_shared<Source>(Source{"command line", "~" + path, true});
    Place place{source, 1, 2};
    problems.push_back({place, path, "unknown key" + did_you_mean(path, known), true});
  }
  if (unread) std::erase_if(problems, [](const Problem& p) { return p.missing; });
  throw_problems(problems);
  return origins;
}

Place origin_of(const Origins& origins, std::string path) {
  while (true) {
    auto it = origins.find(path);
    if (it != origins.end()) return it->second;
    size_t cut = path.find_last_of(".[");
    if (cut == std::string::npos) return {};
    path.resize(cut);
  }
}

}  // namespace rookery::config
