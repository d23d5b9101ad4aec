#include "trainer/checkpoint/foreign/convert.h"

#include <algorithm>
#include <array>
#include <mutex>

#include "kernels/base/error.h"
#include "kernels/base/io.h"
#include "trainer/checkpoint/foreign/layout.h"
#include "trainer/checkpoint/foreign/safetensors.h"
#include "trainer/checkpoint/foreign/torch_file.h"
#include "trainer/checkpoint/foreign/values.h"

namespace rookery::foreign {
namespace {

// The parameters of one of our checkpoints.
class CheckpointFile : public TensorFile {
 public:
  explicit CheckpointFile(checkpoint::Checkpoint opened)
      : TensorFile(opened.folder()), checkpoint_(std::move(opened)) {
    for (const checkpoint::TensorEntry& t : checkpoint_.manifest().tensors)
      if (t.group == "param")
        tensors_.push_back({t.name, t.dtype == "f64" ? Type::kF64 : Type::kF32, t.shape});
  }

  // The boxes of a checkpoint are no byte ranges: a tensor is read as a whole and kept for the next range.
  void read(size_t i, uint64_t offset, std::span<std::byte> out) const override {
    const TensorInfo& t = tensors_[i];
    if (out.empty()) return;
    if (offset == 0 && out.size() == t.bytes()) return read_whole(t, out);
    std::scoped_lock lock(mutex_);
    if (kept_ != i) {
      kept_bytes_.resize(t.bytes());
      read_whole(t, kept_bytes_);
      kept_ = i;
    }
    std::copy_n(kept_bytes_.begin() + long(offset), out.size(), out.begin());
  }

 private:
  void read_whole(const TensorInfo& t, std::span<std::byte> out) const {
    checkpoint::Piece piece{
        "param", t.name, t.type == Type::kF64 ? "f64" : "f32", t.shape, Dims(t.shape.size(), 0), t.shape,
        out,     {}};
    checkpoint_.read(std::span(&piece, 1), false);
  }
  checkpoint::Checkpoint checkpoint_;
  mutable std::mutex mutex_;
  mutable size_t kept_ = size_t(-1);
  mutable std::vector<std::byte> kept_bytes_;
};

checkpoint::Checkpoint open_native(const fs::path& path) {
  if (!fs::exists(path / "checkpoints")) return checkpoint::Checkpoint::open(path);
  auto newest = checkpoint::Checkpoint::open_newest(path);
  if (!newest)
    fail(ExitCode::kNoInput, "CKPT-19", path,
         ": the run has no checkpoint yet. Wait for its first save, or name a checkpoint folder");
  return std::move(*newest);
}

// Which tensors were not as they should be; all are named once everything was seen.
class Faults {
 public:
  void add(const std::string& name, const ValueCounts& counts) {
    if (counts.not_finite > 0) not_finite_.push_back(str(name, " (", counts.not_finite, ")"));
    if (counts.overflows > 0) overflows_.push_back(str(name, " (", counts.overflows, ")"));
    total_.add(counts);
  }
  const ValueCounts& total() const { return total_; }
  void check(const fs::path& place, const ConvertOptions& options) const {
    if (!not_finite_.empty() && !options.allow_nan)
      fail(ExitCode::kData, "WTS-10", place, ": ", total_.not_finite, " elements are NaN or infinity, in ",
           list(not_finite_), "; mend it by another file, or take them over with --allow-nan");
    if (!overflows_.empty() && !options.saturate)
      fail(ExitCode::kData, "WTS-11", place, ": ", total_.overflows, " elements are beyond the largest ",
           to_string(*options.type), " number, in ", list(overflows_),
           "; mend it by --dtype bf16 or fp32, or by --saturate");
  }

 private:
  static std::string list(const std::vector<std::string>& names) {
    std::string text;
    for (size_t i = 0; i < std::min<size_t>(names.size(), 20); ++i) text += str(i ? ", " : "", names[i]);
    return names.size() > 20 ? str(text, " and ", names.size() - 20, " more") : text;
  }
  std::vector<std::string> not_finite_, overflows_;
  ValueCounts total_;
};

std::vector<TensorInfo> infos_of(const TensorFile& file, const std::optional<Type>& type) {
  std::vector<TensorInfo> infos = file.tensors();
  if (type)
    for (TensorInfo& t : infos) t.type = *type;
  return infos;
}

std::map<std::string, size_t> places_of(const TensorFile& file) {
  std::map<std::string, size_t> places;
  for (size_t i = 0; i < file.tensors().size(); ++i) places[file.tensors()[i].name] = i;
  return places;
}

void write_tensors(const TensorFile& from, TensorWriter& writer, const ConvertOptions& options,
                   Faults& faults) {
  const auto places = places_of(from);
  std::vector<std::byte> content;
  for (const TensorInfo& t : writer.tensors()) {
    content.resize(t.bytes());
    faults.add(t.name, read_values(from, places.at(t.name), t.type, content, options.saturate));
    writer.write(content);
  }
  writer.finish();
}

Metadata metadata_of(const ModelFile& model) {
  nlohmann::json keys = model_keys(model);
  keys["arch"] = model.model.name();
  return {{std::string(kModelMetadata), keys.dump()}};
}

void write_text(const fs::path& path, std::string_view text) {
  io::OutputFile file(path, kWritePoint);
  file.write(text);
  file.sync();
  file.close();
}

void copy_to(const fs::path& from, const fs::path& to) {
  constexpr uint64_t kBlockBytes = 4u << 20;
  const io::InputFile in(from);
  io::OutputFile out(to, kWritePoint);
  std::vector<std::byte> buffer(std::min(kBlockBytes, in.size()));
  for (uint64_t at = 0; at < in.size();) {
    const auto block = std::span(buffer).first(std::min(kBlockBytes, in.size() - at));
    in.read_at(at, block);
    out.write(block);
    at += block.size();
  }
  out.sync();
  out.close();
}

const Form& form_of(const std::string& name, const std::string& arch) {
  const Form* chosen = nullptr;
  std::string known;
  for (const Form& form : forms()) {
    if (form.arch != arch) continue;
    known += str(known.empty() ? "" : ", ", form.name);
    if (form.name == name || name.empty()) chosen = chosen && name.empty() ? nullptr : &form;
  }
  if (!chosen)
    fail(ExitCode::kUsage, "WTS-14", name.empty() ? "a form is needed" : str("there is no form '", name, "'"),
         " for ", arch,
         known.empty() ? " models: Hugging Face has none; write .pth or .safetensors" : ": expected one of ",
         known);
  return *chosen;
}

std::string torch_name(Type type) {
  return type == Type::kF64    ? "float64"
         : type == Type::kF16  ? "float16"
         : type == Type::kBf16 ? "bfloat16"
                               : "float32";
}

// config.json for the model. Where the input has one of the same form, its keys go on that say nothing about
// the computation: tokens of begin and end, the longest text, and all that are not known here.
Json config_for(const ModelFile& model, const Form& form) {
  static constexpr std::array<std::string_view, 4> kTheirs = {"bos_token_id", "eos_token_id",
                                                              "max_position_embeddings", "use_cache"};
  static constexpr std::array<std::string_view, 3> kOtherSpellings = {"rope_parameters", "dtype",
                                                                      "torch_dtype"};
  Json config = form.to_config(model_keys(model));
  if (model.form != form.name) return config;
  for (const auto& [key, value] : model.folder_config.items()) {
    if (std::ranges::find(kOtherSpellings, key) != kOtherSpellings.end()) continue;
    if (!config.contains(key) || std::ranges::find(kTheirs, key) != kTheirs.end()) config[key] = value;
  }
  return config;
}

std::string shard_file(size_t i, size_t count) {
  const auto five = [](size_t n) {
    std::string digits = std::to_string(n);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  return count == 1 ? "model.safetensors" : str("model-", five(i + 1), "-of-", five(count), ".safetensors");
}

// The tensors cut into files of at most `limit` bytes, in their order.
std::vector<std::vector<TensorInfo>> shards_of(std::vector<TensorInfo> infos, uint64_t limit) {
  std::vector<std::vector<TensorInfo>> shards(1);
  uint64_t bytes = 0;
  for (TensorInfo& t : infos) {
    if (bytes > 0 && bytes + t.bytes() > limit) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += t.bytes();
    shards.back().push_back(std::move(t));
  }
  return shards;
}

void write_folder(const ModelFile& model, const TensorFile& theirs, const Form& form, const fs::path& folder,
                  const ConvertOptions& options, Faults& faults) {
  io::create_directories(folder);
  Json config = config_for(model, form);
  const std::vector<TensorInfo> infos = infos_of(theirs, options.type);
  config["torch_dtype"] = torch_name(infos.at(0).type);
  write_text(folder / "config.json", config.dump(2) + "\n");
  const auto shards = shards_of(infos, options.shard_bytes);
  Json index{{"metadata", {{"total_size", 0}}}, {"weight_map", Json::object()}};
  uint64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_file(i, shards.size());
    const auto writer = write_safetensors(folder / name, shards[i], {});
    write_tensors(theirs, *writer, options, faults);
    for (const TensorInfo& t : shards[i]) {
      index["weight_map"][t.name] = name;
      total += t.bytes();
    }
  }
  index["metadata"]["total_size"] = total;
  if (shards.size() > 1) write_text(folder / "model.safetensors.index.json", index.dump(2) + "\n");
  if (options.tokenizer.empty()) {
    for (const fs::path& file : model.tokenizer_files) copy_to(file, folder / file.filename());
  } else {
    copy_to(options.tokenizer, folder / options.tokenizer.filename());
  }
  io::sync_directory(folder);
}

void write_checkpoint(const ModelFile& model, const fs::path& run, const fs::path& out,
                      const ConvertOptions& options, Faults& faults) {
  const TensorFile& from = *model.tensors;
  const bool wide =
      options.type
          ? *options.type == Type::kF64
          : std::ranges::any_of(from.tensors(), [](const TensorInfo& t) { return t.type == Type::kF64; });
  const Type type = wide ? Type::kF64 : Type::kF32;
  std::vector<checkpoint::Piece> pieces;
  for (const TensorInfo& t : infos_of(from, type))
    pieces.push_back(
        {"param", t.name, wide ? "f64" : "f32", t.shape, Dims(t.shape.size(), 0), t.shape, {}, {}});

  config::RunConfig config = run_config_of(model.model);
  config.name = "converted";
  config.precision = wide ? "fp64" : "fp32";
  io::create_directories(run);
  const fs::path tokenizer = options.tokenizer.empty() ? model.tokenizer : options.tokenizer;
  if (!tokenizer.empty()) {
    copy_to(tokenizer, run / tokenizer.filename());
    config.data.tokenizer = fs::absolute(out) / tokenizer.filename();  // where the run will be
  }

  checkpoint::SaveRequest request;
  request.run_id = "converted";
  request.pieces = pieces;
  request.state = {{"step", 0}, {"converted_from", from.path().filename().string()}};
  request.config = config::resolved_yaml(config);
  std::vector<std::byte> content;
  const auto places = places_of(from);
  request.content = [&](const checkpoint::Piece& p) -> std::span<const std::byte> {
    const size_t i = places.at(p.name);
    content.resize(from.tensors()[i].bytes() / size_of(from.tensors()[i].type) * size_of(type));
    faults.add(p.name, read_values(from, i, type, content));
    return content;
  };
  const fs::path folder = checkpoint::begin_save(run, 0);
  checkpoint::finish_save(run, request, {checkpoint::write_shard(folder, request)});
}

// What was written, opened by the same way as any other file. A .pth does not tell what its shapes do not.
ModelFile reopen(const ModelFile& from, const fs::path& written, const ConvertOptions& options) {
  std::vector<std::string> overrides;
  if (options.target == Target::kTorch)
    for (const auto& [key, value] : model_keys(from)) overrides.push_back(str("model.", key, "=", value));
  return open_weights(written, overrides);
}

// Every element of what was written against the source.
void compare(const ModelFile& from, const ModelFile& again, const fs::path& written,
             const ConvertOptions& options, const Form* form) {
  const auto places = places_of(*again.tensors);
  const Architecture* architecture = find_architecture(from.model.name());
  std::vector<std::byte> expected, found;
  for (size_t i = 0; i < from.tensors->tensors().size(); ++i) {
    const TensorInfo& t = from.tensors->tensors()[i];
    const TensorInfo& u = again.tensors->tensors()[places.at(t.name)];
    if (form && architecture && std::ranges::find(architecture->unused, t.name) != architecture->unused.end())
      continue;
    expected.resize(*numel_of(t.shape) * size_of(u.type));
    found.resize(u.bytes());
    read_values(*from.tensors, i, u.type, expected, options.saturate);
    again.tensors->read(places.at(t.name), 0, found);
    if (u.shape != t.shape || found != expected)
      fail(ExitCode::kIo, "WTS-13", written, ": tensor ", t.name,
           " reads back with other values than were written; mend it by checking the disk");
  }
}

// An output that may be replaced: a file, or a folder that looks like what is written here.
void check_output(const fs::path& from, const fs::path& out, const ConvertOptions& options) {
  if (!fs::exists(fs::symlink_status(out))) return;
  const fs::path inner = fs::weakly_canonical(from), outer = fs::weakly_canonical(out);
  if (inner == outer || inner.string().starts_with(outer.string() + "/"))
    fail(ExitCode::kCannotCreate, "WTS-12", out, ": is the input, or holds it; mend it by another --out");
  if (!options.replace)
    fail(ExitCode::kCannotCreate, "WTS-12", out,
         ": is there already; mend it by another --out, or by --force");
  if (fs::is_directory(out) && !fs::exists(out / "config.json") && !fs::exists(out / "checkpoints"))
    fail(ExitCode::kCannotCreate, "WTS-12", out,
         ": is a folder without config.json or checkpoints, which --force does not replace; mend it by "
         "another --out");
}

}  // namespace

ModelFile open_weights(const fs::path& path, const std::vector<std::string>& overrides) {
  if (is_foreign(path)) return open_model_file(path, overrides);
  if (!overrides.empty())
    fail(ExitCode::kUsage, "WTS-08", "'", overrides[0], "': ", path,
         " has a configuration of its own; expected a file of another program for model.KEY=VALUE");
  ModelFile model;
  checkpoint::Checkpoint opened = open_native(path);
  config::RunConfig config = config::parse_run(opened.manifest().config, opened.folder().string());
  model.model = std::move(config.model);
  if (fs::is_regular_file(config.data.tokenizer)) {
    model.tokenizer = config.data.tokenizer;
    model.tokenizer_files = {model.tokenizer};
  }
  model.tensors = std::make_unique<CheckpointFile>(std::move(opened));
  return model;
}

std::map<std::string, std::string> model_keys(const ModelFile& model) {
  Keys keys;
  auto& section =
      const_cast<config::Selected<config::ModelConfig>&>(model.model);  // its values are only read
  for (const config::Leaf& leaf : config::leaves(*config::make_member(section)))
    if (!leaf.text.empty() && leaf.text != "null" && leaf.path != "arch") keys[leaf.path] = leaf.text;
  Shapes shapes;
  for (const TensorInfo& t : model.tensors->tensors()) shapes[t.name] = t.shape;
  if (const Architecture* architecture = find_architecture(model.model.name()))
    for (const auto& [key, value] : keys_from_shapes(*architecture, shapes)) keys[key] = value;
  return keys;
}

ConvertReport convert(const ModelFile& from, const fs::path& out, const ConvertOptions& options) {
  check_output(from.tensors->path(), out, options);
  if (!options.tokenizer.empty()) io::InputFile(options.tokenizer);  // before the work, not after it
  const Form* form = options.target == Target::kFolder ? &form_of(options.form, from.model.name()) : nullptr;
  const fs::path temporary = io::temporary_beside(out);
  Faults faults;
  ConvertReport report;
  try {
    const TensorFile& tensors = *from.tensors;
    switch (options.target) {
      case Target::kTorch:
        write_tensors(tensors, *write_torch_file(temporary, infos_of(tensors, options.type)), options,
                      faults);
        break;
      case Target::kSafetensors:
        write_tensors(tensors,
                      *write_safetensors(temporary, infos_of(tensors, options.type), metadata_of(from)),
                      options, faults);
        break;
      case Target::kFolder:
        write_folder(from, *to_theirs(from.tensors, *form), *form, temporary, options, faults);
        break;
      case Target::kCheckpoint:
        write_checkpoint(from, temporary, out, options, faults);
        break;
    }
    faults.check(tensors.path(), options);
    const ModelFile again = reopen(from, temporary, options);
    compare(from, again, temporary, options, form);
    if (options.check) options.check(again);
    if (fs::exists(fs::symlink_status(out))) {
      io::exchange(temporary, out, "weights");
      io::remove_all(temporary, "weights");
    } else {
      io::rename(temporary, out, "weights");
    }
  } catch (...) {
    std::error_code ec;
    fs::remove_all(temporary, ec);  // not through the I/O layer: its fault may be why we are here
    throw;
  }
  report.saturated = faults.total().overflows;
  report.not_finite = faults.total().not_finite;
  report.tensors = from.tensors->tensors().size();
  return report;
}

}  // namespace rookery::foreign
