#include "trainer/checkpoint/foreign/model_file.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "kernels/base/error.h"
#include "trainer/checkpoint/foreign/hf_folder.h"
#include "trainer/checkpoint/foreign/layout.h"
#include "trainer/checkpoint/foreign/safetensors.h"
#include "trainer/checkpoint/foreign/strict_json.h"
#include "trainer/checkpoint/foreign/values.h"
#include "trainer/config/nearest.h"
#include "trainer/models/registry.h"

namespace rookery::foreign {
namespace {

using Names = std::set<std::string, std::less<>>;

// Tensors of another file by a choice of their places, under names and shapes of our own.
class Chosen : public TensorFile {
 public:
  static constexpr size_t kZeros = size_t(-1);  // not in the file: zeros
  explicit Chosen(std::shared_ptr<const TensorFile> source)
      : TensorFile(source->path()), source_(std::move(source)) {
    notes_ = source_->notes();
  }
  const std::vector<TensorInfo>& source() const { return source_->tensors(); }
  void add(TensorInfo info, size_t place) {
    tensors_.push_back(std::move(info));
    places_.push_back(place);
  }
  void read(size_t i, uint64_t offset, std::span<std::byte> out) const override {
    if (places_[i] != kZeros) return source_->read(places_[i], offset, out);
    std::fill(out.begin(), out.end(), std::byte{0});
  }
  void verify() const override { source_->verify(); }

 private:
  std::shared_ptr<const TensorFile> source_;
  std::vector<size_t> places_;
};

Names names_of(const TensorFile& file) {
  Names names;
  for (const TensorInfo& t : file.tensors()) names.insert(t.name);
  return names;
}

// Trainers put the model into wrappers, and every name gets a prefix.
std::unique_ptr<TensorFile> without_prefixes(std::unique_ptr<TensorFile> file,
                                             std::vector<std::string>& notes) {
  static constexpr std::array<std::string_view, 4> kPrefixes = {"_forward_module.", "module.", "_orig_mod.",
                                                                "model."};
  size_t cut = 0;
  const auto all_have = [&](std::string_view prefix) {
    return !file->tensors().empty() && std::ranges::all_of(file->tensors(), [&](const TensorInfo& t) {
      return std::string_view(t.name).substr(cut).starts_with(prefix);
    });
  };
  for (bool again = true; again;) {
    again = false;
    for (const std::string_view prefix : kPrefixes) {
      if (!all_have(prefix)) continue;
      // "model." is a part of the names of Hugging Face's models.
      Names rest;
      for (const TensorInfo& t : file->tensors()) rest.insert(t.name.substr(cut));
      if (prefix == "model." &&
          (rest.count("model.embed_tokens.weight") || rest.count("model.embeddings.weight")))
        continue;
      notes.push_back(str(file->path(), ": the prefix '", prefix, "' of all ", file->tensors().size(),
                          " names is taken off"));
      cut += prefix.size();
      again = true;
    }
  }
  if (cut == 0) return file;
  auto stripped = std::make_unique<Chosen>(std::move(file));
  for (size_t i = 0; i < stripped->source().size(); ++i) {
    TensorInfo info = stripped->source()[i];
    info.name.erase(0, cut);
    stripped->add(std::move(info), i);
  }
  return stripped;
}

[[noreturn]] void unknown_model(const TensorFile& file) {
  const Names names = names_of(file);
  std::string what = "the names of the tensors fit no architecture that is known";
  if (names.count("blocks.0.att.time_first")) what = "is an RWKV-4 model, which is not supported";
  if (names.count("blocks.0.att.time_state"))
    what = "holds states of state tuning, not the weights of a model";
  for (const std::string& name : names)
    if (name.find("lora_A") != std::string::npos) what = "holds LoRA adapters, not the weights of a model";
  std::string first;
  for (size_t i = 0; i < std::min<size_t>(4, file.tensors().size()); ++i)
    first += str(i ? ", " : "", file.tensors()[i].name);
  fail(ExitCode::kData, "WTS-08", file.path(), ": ", what, "; found ", file.tensors().size(),
       " tensors: ", first, file.tensors().size() > 4 ? ", ..." : "");
}

// Through the reader of configurations, so that bounds, types and slips of keys are told as there.
config::RunConfig config_of(const std::string& arch, const Keys& keys) {
  config::Node root;
  std::vector<config::Problem> problems;
  config::apply_override(root, str("model.arch=", arch), problems);
  for (const auto& [key, value] : keys)
    config::apply_override(root, str("model.", key, "=", value), problems);
  config::RunConfig config;
  config::read_tree(root, *config::make_member(config), problems);
  std::erase_if(problems, [](const config::Problem& p) { return p.missing; });
  config::throw_problems(problems);
  return config;
}

config::Selected<config::ModelConfig> model_of(const std::string& arch, const Keys& keys,
                                               const std::string& place) {
  const std::vector<std::string> known = config::Registry<config::ModelConfig>::names();
  if (std::ranges::find(known, arch) == known.end())
    fail(ExitCode::kData, "WTS-08", place, ": is a ", arch, " model, which this program cannot compute yet");
  config::Selected<config::ModelConfig> model;
  try {
    model = config_of(arch, keys).model;
  } catch (const Error& e) {
    fail(ExitCode::kData, "WTS-08", place, ": makes no model: ", e.what());
  }
  std::vector<config::Finding> findings;
  model->check(findings);
  if (!findings.empty())
    fail(ExitCode::kData, "WTS-08", place, ": ", findings[0].path, ": ", findings[0].message);
  return model;
}

Dims dims_of(const Parameter& p) {
  Dims dims;
  for (const int64_t d : p.global) dims.push_back(uint64_t(d));
  return dims;
}

// Vectors are kept as [C] or as [1, 1, C]; the content is the same.
bool same_but_for_ones(Dims a, Dims b) {
  std::erase(a, 1);
  std::erase(b, 1);
  return a == b;
}

bool is_unused(const Architecture& a, std::string_view name) {
  return std::ranges::find(a.unused, name) != a.unused.end();
}

constexpr std::string_view kTiedHead = "lm_head.weight", kEmbedding = "model.embed_tokens.weight";

// Where the head is the embedding, a file may hold it all the same, but not another one.
void check_tied_head(const TensorFile& file, Model& model, std::vector<std::string>& notes) {
  const auto place_of = [&](std::string_view name) {
    return size_t(std::ranges::find(file.tensors(), name, &TensorInfo::name) - file.tensors().begin());
  };
  const size_t head = place_of(kTiedHead), embedding = place_of(kEmbedding);
  if (model.parameters.find(std::string(kTiedHead)) || head == file.tensors().size() ||
      embedding == file.tensors().size())
    return;
  const TensorInfo &a = file.tensors()[head], &b = file.tensors()[embedding];
  double largest = a.shape == b.shape && is_float(a.type) && is_float(b.type) ? 0 : INFINITY;
  constexpr uint64_t kBlock = 1 << 18;  // elements
  std::vector<std::byte> raw;
  std::vector<double> x, y;
  for (uint64_t at = 0, n = 0; std::isfinite(largest) && at < *numel_of(a.shape); at += n) {
    n = std::min(kBlock, *numel_of(a.shape) - at);
    const auto read = [&](size_t tensor, Type type, std::vector<double>& values) {
      raw.resize(n * size_of(type));
      values.resize(n);
      file.read(tensor, at * size_of(type), raw);
      convert_values(type, raw, Type::kF64, std::as_writable_bytes(std::span(values)));
    };
    read(head, a.type, x);
    read(embedding, b.type, y);
    for (uint64_t k = 0; k < n; ++k)
      if (const double off = std::fabs(x[k] - y[k]); std::isnan(off) || off > largest) largest = off;
  }
  if (!(largest == 0))
    fail(ExitCode::kData, "WTS-08", file.path(),
         ": the configuration says that the head is the embedding, but ", kTiedHead,
         " differs from it by up to ", largest, "; mend it by tie_word_embeddings: false");
  notes.push_back(str(file.path(), ": ", kTiedHead, " is the embedding and is passed over"));
}

// Exactly the model's parameters, in their order and shapes.
std::unique_ptr<TensorFile> fit(std::unique_ptr<TensorFile> file, Model& model,
                                const Architecture& architecture) {
  auto fitted = std::make_unique<Chosen>(std::move(file));
  std::map<std::string, size_t> places;
  std::vector<std::string> left_names, lines;
  for (size_t i = 0; i < fitted->source().size(); ++i) {
    const std::string& name = fitted->source()[i].name;
    if (!places.emplace(name, i).second) lines.push_back(str(name, ": twice, under names of two forms"));
  }
  for (const auto& [name, place] : places)
    if (!model.parameters.find(name)) left_names.push_back(name);
  for (const Parameter* p : model.parameters.all()) {
    const Dims wanted = dims_of(*p);
    const auto it = places.find(p->name);
    if (it == places.end()) {
      if (is_unused(architecture, p->name)) {
        const Type type = fitted->source().empty() ? Type::kF32 : fitted->source()[0].type;
        fitted->add({p->name, type, wanted}, Chosen::kZeros);
      } else {
        lines.push_back(str(p->name, ": missing, expected ", to_string(wanted),
                            config::did_you_mean(p->name, left_names)));
      }
      continue;
    }
    const TensorInfo& found = fitted->source()[it->second];
    if (!same_but_for_ones(found.shape, wanted)) {
      lines.push_back(str(p->name, ": found ", to_string(found.shape), ", expected ", to_string(wanted)));
    } else if (!is_float(found.type)) {
      lines.push_back(str(p->name, ": found ", to_string(found.type), ", expected F64, F32, F16 or BF16"));
    } else {
      fitted->add({p->name, found.type, wanted}, it->second);
    }
  }
  for (const std::string& name : left_names)
    if (!is_unused(architecture, name) && !name.ends_with(".rotary_emb.inv_freq") && name != kTiedHead)
      lines.push_back(str(name, ": unexpected, found ", to_string(fitted->source()[places[name]].shape)));
  if (!lines.empty()) {
    std::string all;
    for (size_t i = 0; i < std::min<size_t>(lines.size(), 50); ++i) all += "\n  " + lines[i];
    if (lines.size() > 50) all += str("\n  ... and ", lines.size() - 50, " more");
    fail(ExitCode::kData, "WTS-09", fitted->path(), ": ", lines.size(),
         " tensors differ from what the model expects:", all);
  }
  return fitted;
}

Shapes shapes_of(const TensorFile& file) {
  Shapes shapes;
  for (const TensorInfo& t : file.tensors()) shapes[t.name] = t.shape;
  return shapes;
}

// Where config.json tells a size that the shapes tell, too, it must be the same.
void check_sizes(const Json& config, const Keys& keys, const std::string& place) {
  static constexpr std::array<std::pair<const char*, const char*>, 4> kBoth = {{
      {"num_hidden_layers", "num_layers"},
      {"hidden_size", "hidden_size"},
      {"intermediate_size", "ffn_size"},
      {"vocab_size", "vocab_size"},
  }};
  for (const auto& [theirs, ours] : kBoth) {
    const auto told = keys.find(ours);
    if (told == keys.end() || !config.contains(theirs) || config[theirs].is_null()) continue;
    if (config[theirs].dump() != told->second)
      fail(ExitCode::kData, "WTS-08", place, ": ", theirs, " is ", config[theirs].dump(),
           ", but the tensors are those of a model with ", told->second,
           "; mend it by the config.json that belongs to them, or by all shards");
  }
}

// What was taken as published because neither a shape nor a key tells it.
void note_untold(const Architecture& architecture, const Keys& keys, ModelFile& model) {
  std::string assumed;
  for (const config::Leaf& leaf : config::leaves(*config::make_member(model.model)))
    if (std::ranges::find(architecture.untold, leaf.path) != architecture.untold.end() &&
        !keys.count(leaf.path))
      assumed += str(assumed.empty() ? "" : ", ", leaf.path, " ", leaf.text);
  if (!assumed.empty())
    model.notes.push_back(str(model.tensors->path(), ": no shape tells some keys of ", architecture.arch,
                              ", taken are ", assumed, "; others are given by model.KEY=VALUE"));
}

}  // namespace

ModelFile open_model_file(const fs::path& path, const std::vector<std::string>& overrides) {
  ModelFile model;
  Json config;
  std::unique_ptr<TensorFile> file;
  if (fs::is_directory(path)) {
    HfFolder folder = open_hf_folder(path);
    config = std::move(folder.config);
    file = std::move(folder.tensors);
    model.tokenizer_files = tokenizer_files(path);
    for (const fs::path& name : model.tokenizer_files)
      if (name.filename() == "tokenizer.json" || name.filename().string().starts_with("rwkv_vocab"))
        model.tokenizer = name;
  } else {
    file = open_tensor_file(path);
  }
  Keys noted;
  std::string noted_arch;
  if (const auto* safetensors = dynamic_cast<const SafetensorsFile*>(file.get());
      safetensors && !config.is_object()) {
    const auto it = safetensors->metadata().find(std::string(kModelMetadata));
    if (it != safetensors->metadata().end()) {
      const Json keys = parse_strict_json(it->second, "WTS-06", str(path, ": metadata ", kModelMetadata));
      for (const auto& [key, value] : keys.items())
        if (value.is_string()) (key == "arch" ? noted_arch : noted[key]) = value.get<std::string>();
    }
  }
  file = without_prefixes(std::move(file), model.notes);
  const std::string place = config.is_object() ? (path / "config.json").string() : path.string();
  const std::string model_type =
      config.is_object() && config.contains("model_type") && config["model_type"].is_string()
          ? config["model_type"].get<std::string>()
          : "";
  if (config.is_object() && model_type.empty())
    fail(ExitCode::kData, "WTS-08", place, ": has no model_type, expected for example \"llama\"");
  const Form* form = recognise_form(names_of(*file), model_type);
  if (!form && !model_type.empty())
    fail(ExitCode::kData, "WTS-08", place, ": model_type is '", model_type,
         "', and the tensors are not in a form of it that is known");
  if (form && form->needs_config && !config.is_object() && noted.empty() && overrides.empty())
    fail(ExitCode::kData, "WTS-08", path, ": the weights of a ", form->arch,
         " model do not tell its heads and positions; "
         "mend it by naming the folder that holds config.json, or by model.num_heads=... and what else it "
         "has");
  if (form) file = to_ours(std::move(file), *form);
  const Shapes shapes = shapes_of(*file);
  const Architecture* architecture = form                  ? find_architecture(form->arch)
                                     : !noted_arch.empty() ? find_architecture(noted_arch)
                                                           : recognise_architecture(shapes);
  if (!architecture) unknown_model(*file);
  Keys keys = keys_from_shapes(*architecture, shapes);
  if (form && config.is_object()) {
    check_sizes(config, keys, place);
    form->from_config(config, keys, place);
    model.form = form->name;
    model.folder_config = config;
  }
  for (const auto& [key, value] : noted) keys[key] = value;
  for (const std::string& text : overrides) {
    const size_t cut = text.find('=');
    if (!text.starts_with("model.") || cut == std::string::npos)
      fail(ExitCode::kUsage, "WTS-08", "'", text, "': expected model.KEY=VALUE");
    keys[text.substr(6, cut - 6)] = text.substr(cut + 1);
  }
  model.model = model_of(std::string(architecture->arch), keys, place);
  const auto parameters = make_model(*model.model);
  check_tied_head(*file, *parameters, model.notes);
  model.tensors = fit(std::move(file), *parameters, *architecture);
  model.notes.insert(model.notes.end(), model.tensors->notes().begin(), model.tensors->notes().end());
  note_untold(*architecture, keys, model);
  return model;
}

config::RunConfig run_config_of(const config::Selected<config::ModelConfig>& model) {
  auto& section = const_cast<config::Selected<config::ModelConfig>&>(model);  // its values are only read
  Keys keys;
  for (const config::Leaf& leaf : config::leaves(*config::make_member(section)))
    if (!leaf.text.empty() && leaf.text != "null" && leaf.path != "arch") keys[leaf.path] = leaf.text;
  return config_of(model.name(), keys);
}

bool is_foreign(const fs::path& path) {
  if (fs::is_regular_file(path)) return true;
  if (fs::exists(path / "checkpoints") || fs::exists(path / "manifest.json")) return false;
  return std::ranges::any_of(
      std::array{"config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                 "pytorch_model.bin.index.json", "zero_to_fp32.py"},
      [&](const char* name) { return fs::exists(path / name); });
}

}  // namespace rookery::foreign
