// writers.cpp: walks over the field list that write something.
#include "trainer/config/writers.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace rookery::config {

namespace {

using Json = nlohmann::ordered_json;

std::string join(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

// Text that any YAML reader takes for the same text, quoted where it could be something else.
std::string yaml_text(const std::string& text) {
  auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '/' || c == '.' || c == '-';
  };
  static const std::vector<std::string> words = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"};
  std::string lower = text, ignored;
  for (char& c : lower) c = char(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  const bool letters_first = !text.empty() && (plain(text[0]) && text[0] != '-' && text[0] != '.' &&
                                               (text[0] < '0' || text[0] > '9'));
  if (letters_first && std::all_of(text.begin(), text.end(), plain) &&
      std::find(words.begin(), words.end(), lower) == words.end())
    return text;
  std::string out = "\"";
  constexpr char kHex[] = "0123456789abcdef";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\', out += char(c);
    } else if (c < 32 || c == 127) {
      out += "\\x", out += kHex[c >> 4], out += kHex[c & 15];
    } else {
      out += char(c);
    }
  }
  return out + "\"";
}

std::string yaml_scalar(const Member& member) {
  const bool is_text = member.kind() == Kind::kText || member.kind() == Kind::kPath;
  return is_text && member.present() ? yaml_text(member.text()) : member.text();
}

class YamlWriter {
 public:
  explicit YamlWriter(const Origins* origins) : origins_(origins) {}

  // `lead` opens the first line of the section ("- " of a list entry); the others are indented by as much.
  void section(Member& section, const std::string& path, const std::string& margin, std::string lead) {
    for (const Field& field : section.fields()) {
      Member& member = field.member();
      std::string below = join(path, field.key());
      std::string head = lead + field.key() + ":";
      lead = margin;
      if (member.kind() == Kind::kSection) {
        out_ += head + "\n";
        this->section(member, below, margin + "  ", margin + "  ");
      } else if (member.kind() == Kind::kList) {
        list(member, below, margin, head);
      } else {
        line(head + " " + yaml_scalar(member), below);
      }
    }
  }

  std::string take() { return std::move(out_); }

 private:
  void list(Member& list, const std::string& path, const std::string& margin, const std::string& head) {
    if (list.size() == 0 || list.element(0)->kind() != Kind::kSection) {
      std::string items;
      for (size_t i = 0; i < list.size(); ++i) items += (i ? ", " : "") + yaml_scalar(*list.element(i));
      return line(str(head, " [", items, "]"), path);
    }
    out_ += head + "\n";
    for (size_t i = 0; i < list.size(); ++i) {
      section(*list.element(i), str(path, "[", i, "]"), margin + "    ", margin + "  - ");
    }
  }

  void line(const std::string& text, const std::string& path) {
    out_ += text;
    if (origins_) {
      auto it = origins_->find(path);
      out_ += std::string(text.size() < 44 ? 44 - text.size() : 1, ' ') + "# " +
              (it == origins_->end() ? "default" : to_string(it->second));
    }
    out_ += "\n";
  }

  const Origins* origins_;
  std::string out_;
};

std::string type_name(const Field& field, Member& member) {
  std::string name;
  switch (member.kind()) {
    case Kind::kBool:
      name = "true or false";
      break;
    case Kind::kInteger:
      name = field.unit() == Unit::kBytes ? "size" : field.unit() == Unit::kPlain ? "integer" : "duration";
      break;
    case Kind::kNumber:
      name = field.unit() == Unit::kBytes ? "size" : field.unit() == Unit::kPlain ? "number" : "duration";
      break;
    case Kind::kText:
      name = field.names().empty() ? "text" : "one of";
      break;
    case Kind::kPath:
      name = "path";
      break;
    case Kind::kList: {
      std::unique_ptr<Member> sample = member.sample();
      return sample->kind() == Kind::kSection ? "list of sections" : "list of " + type_name(field, *sample);
    }
    case Kind::kSection:
      return "section";
  }
  if (field.unit() == Unit::kSeconds) name += " (seconds)";
  if (field.unit() == Unit::kMinutes) name += " (minutes)";
  return name;
}

Json scalar_schema(const Field& field, const Member& member) {
  Json schema;
  switch (member.kind()) {
    case Kind::kBool:
      schema["type"] = "boolean";
      break;
    case Kind::kInteger:
    case Kind::kNumber: {
      // 300M, 2Ti, 64MiB and 30m are strings to YAML's own types.
      Json number = {
          {"type", member.kind() == Kind::kInteger && field.unit() == Unit::kPlain ? "integer" : "number"}};
      constexpr double kInf = std::numeric_limits<double>::infinity();
      if (field.least() > -kInf) number[field.open() ? "exclusiveMinimum" : "minimum"] = field.least();
      if (field.most() < kInf) number["maximum"] = field.most();
      if (member.kind() == Kind::kNumber && field.unit() == Unit::kPlain) {
        schema = number;
      } else {
        schema["anyOf"] = {number,
                           {{"type", "string"}, {"pattern", "^[0-9][0-9._]*([eE][0-9]+)?[A-Za-z0-9.]*$"}}};
      }
      break;
    }
    default:
      schema["type"] = "string";
      if (!field.names().empty()) schema["enum"] = field.names();
  }
  if (member.optional()) schema = {{"anyOf", {schema, {{"type", "null"}}}}};
  return schema;
}

Json section_schema(Member& section);

Json field_schema(const Field& field) {
  Member& member = field.member();
  Json schema;
  if (member.kind() == Kind::kSection) {
    schema = section_schema(member);
  } else if (member.kind() == Kind::kList) {
    std::unique_ptr<Member> sample = member.sample();
    schema = {{"type", "array"},
              {"items",
               sample->kind() == Kind::kSection ? section_schema(*sample) : scalar_schema(field, *sample)}};
  } else {
    schema = scalar_schema(field, member);
    if (!field.is_required() && !(member.optional() && !member.present())) {
      if (member.kind() == Kind::kBool)
        schema["default"] = member.text() == "true";
      else if (member.kind() == Kind::kInteger)
        schema["default"] = int64_t(member.as_number());
      else if (member.kind() == Kind::kNumber)
        schema["default"] = member.as_number();
      else
        schema["default"] = member.text();
    }
  }
  schema["description"] = field.help();
  return schema;
}

Json properties(Member& section) {
  Json schema = {{"type", "object"}, {"additionalProperties", false}, {"properties", Json::object()}};
  Json required = Json::array();
  for (const Field& field : section.fields()) {
    schema["properties"][field.key()] = field_schema(field);
    if (field.is_required()) required.push_back(field.key());
  }
  if (!required.empty()) schema["required"] = required;
  return schema;
}

Json section_schema(Member& section) {
  const std::string selector = section.selector();
  if (selector.empty()) return properties(section);
  const std::string chosen = section.selected();
  Json any = Json::array();
  for (const std::string& choice : section.choices()) {
    section.select(choice);
    Json schema = properties(section);
    schema["properties"][selector] = {{"const", choice}};
    if (choice != chosen) schema["required"].push_back(selector);
    any.push_back(schema);
  }
  if (!chosen.empty()) section.select(chosen);
  return {{"anyOf", any}};
}

std::string cell(const std::string& text) {
  std::string out;
  for (char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

class ReferenceWriter {
 public:
  // A heading and a table for the section, then those of the sections below it.
  void section(Member& section, const std::string& path, const std::string& help) {
    const std::string selector = section.selector();
    if (selector.empty()) return table(section, path, path.empty() ? "Top level" : "`" + path + "`", help);
    const std::string chosen = section.selected();
    for (const std::string& choice : section.choices()) {
      section.select(choice);
      table(section, path, str("`", path, "` with `", selector, ": ", choice, "`"), help);
    }
    if (!chosen.empty()) section.select(chosen);
  }

  std::string take() { return std::move(out_); }

 private:
  void table(Member& section, const std::string& path, const std::string& title, const std::string& help) {
    out_ += str("\n## ", title, "\n\n", help.empty() ? "" : help + "\n\n",
                "| key | type | default | meaning |\n|---|---|---|---|\n");
    const std::vector<Field> fields = section.fields();
    for (const Field& field : fields) row(field);
    for (const Field& field : fields) {
      Member& member = field.member();
      std::string below = join(path, field.key());
      if (member.kind() == Kind::kSection) this->section(member, below, field.help());
      if (member.kind() == Kind::kList) {
        std::unique_ptr<Member> sample = member.sample();
        if (sample->kind() == Kind::kSection)
          this->section(*sample, below + "[]", "each entry: " + field.help());
      }
    }
  }

  void row(const Field& field) {
    Member& member = field.member();
    std::string type = type_name(field, member);
    if (std::string bounds = field.bounds_text(); !bounds.empty())
      type += (type == "one of" ? " " : ", ") + bounds;
    std::string value;
    if (field.is_required()) {
      value = "required";
    } else if (member.kind() == Kind::kList) {
      value = "`[]`";
    } else if (member.kind() != Kind::kSection) {
      value = member.optional() && !member.present() ? "none"
              : member.text().empty()                ? "empty"
                                                     : "`" + member.text() + "`";
    }
    out_ +=
        str("| `", field.key(), "` | ", cell(type), " | ", cell(value), " | ", cell(field.help()), " |\n");
  }

  std::string out_;
};

void collect(Member& section, const std::string& path, std::vector<Leaf>& out) {
  for (const Field& field : section.fields()) {
    Member& member = field.member();
    std::string below = join(path, field.key());
    if (member.kind() == Kind::kSection) {
      collect(member, below, out);
    } else if (member.kind() != Kind::kList) {
      out.push_back({below, yaml_scalar(member)});
    } else if (member.size() == 0) {
      out.push_back({below, "[]"});
    } else {
      for (size_t i = 0; i < member.size(); ++i) {
        std::unique_ptr<Member> element = member.element(i);
        std::string item = str(below, "[", i, "]");
        if (element->kind() == Kind::kSection)
          collect(*element, item, out);
        else
          out.push_back({item, yaml_scalar(*element)});
      }
    }
  }
}

}  // namespace

std::string to_yaml(Member& section, const Origins* origins) {
  YamlWriter writer(origins);
  writer.section(section, "", "", "");
  return writer.take();
}

std::string json_schema(Member& section, const std::string& title) {
  Json schema = {{"$schema", "https://json-schema.org/draft/2020-12/schema"}, {"title", title}};
  schema.update(section_schema(section));
  Json name = {{"type", "string"}};
  schema["properties"]["include"] = {
      {"description", "files to read first, relative to this one; this one wins"},
      {"anyOf", {name, {{"type", "array"}, {"items", name}}}}};
  // A file may be a part of a configuration, so nothing is required of it at the top.
  schema.erase("required");
  return schema.dump(2) + "\n";
}

std::string markdown_reference(Member& section) {
  ReferenceWriter writer;
  writer.section(section, "", "");
  return writer.take();
}

std::vector<Leaf> leaves(Member& section) {
  std::vector<Leaf> out;
  collect(section, "", out);
  return out;
}

std::vector<Difference> differences(Member& left, Member& right) {
  std::vector<Leaf> a = leaves(left), b = leaves(right);
  auto find = [](const std::vector<Leaf>& list, const std::string& path) {
    return std::find_if(list.begin(), list.end(), [&](const Leaf& leaf) { return leaf.path == path; });
  };
  std::vector<Difference> out;
  for (const Leaf& leaf : a) {
    auto other = find(b, leaf.path);
    std::string text = other == b.end() ? "" : other->text;
    if (text != leaf.text) out.push_back({leaf.path, leaf.text, text});
  }
  for (const Leaf& leaf : b) {
    if (find(a, leaf.path) == a.end()) out.push_back({leaf.path, "", leaf.text});
  }
  return out;
}

}  // namespace rookery::config
