#include "trainer/loop/checkpointing.h"

#include <unistd.h>

#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "kernels/base/io.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/foreign/model_file.h"
#include "trainer/checkpoint/foreign/values.h"
#include "trainer/checkpoint/run_lock.h"
#include "trainer/loop/human.h"

namespace rookery::loop {
namespace fs = std::filesystem;
namespace {

// A bucket as memory of the host: its own on the CPU, elsewhere room for a copy.
class HostImage {
 public:
  explicit HostImage(Tensor bucket) : bucket_(std::move(bucket)) {
    if (bucket_.device().type() != DeviceType::kCpu) copy_.resize(bucket_.bytes());
  }
  std::byte* data() { return copy_.empty() ? bucket_.raw() : copy_.data(); }
  void write_back() const {
    if (!copy_.empty()) upload(copy_.data(), bucket_);
  }

 private:
  Tensor bucket_;
  std::vector<std::byte> copy_;
};

// `host`: the values of the whole bucket; null: they are not at hand.
checkpoint::Piece whole(const std::string& group, const Parameter& p, const Tensor& bucket,
                        ParamStore::Range range, std::byte* host) {
  checkpoint::Piece piece;
  piece.group = group;
  piece.name = p.name;
  piece.dtype = to_string(bucket.dtype());
  for (const int64_t d : p.global) piece.global_shape.push_back(static_cast<uint64_t>(d));
  piece.offset.assign(piece.global_shape.size(), 0);
  piece.extent = piece.global_shape;
  const size_t size = dtype_size(bucket.dtype());
  if (host != nullptr)
    piece.bytes = {host + static_cast<size_t>(range.begin) * size,
                   static_cast<size_t>(range.end - range.begin) * size};
  return piece;
}

struct HostBuckets {
  std::byte *param = nullptr, *m = nullptr, *v = nullptr;
};

// What this rank owns: at level 0 all of every tensor; with an optimizer its moments too.
std::vector<checkpoint::Piece> pieces_of(const ParamStore& store, const AdamW* optim,
                                         const HostBuckets& host) {
  std::vector<checkpoint::Piece> pieces;
  for (size_t i = 0; i < store.parameters().size(); ++i) {
    const Parameter& p = *store.parameters()[i];
    pieces.push_back(whole("param", p, store.masters(), store.range(i), host.param));
    if (optim == nullptr) continue;
    for (const auto& [group, bucket, data] :
         {std::tuple{"opt/m", optim->m(), host.m}, {"opt/v", optim->v(), host.v}}) {
      pieces.push_back(whole(group, p, bucket, store.range(i), data));
      for (const OptimSegment& s : optim->segments(i))
        pieces.back().segments.push_back({s.axis, s.begin, s.end, s.steps});
    }
  }
  return pieces;
}

// The values of a piece that lies on a device, valid until the next call.
class Downloads {
 public:
  Downloads(const ParamStore& store, const AdamW& optim) : store_(store), optim_(optim) {
    for (size_t i = 0; i < store.parameters().size(); ++i) places_[store.parameters()[i]->name] = i;
  }
  std::span<const std::byte> operator()(const checkpoint::Piece& piece) {
    const Tensor& bucket = piece.group == "param"   ? store_.masters()
                           : piece.group == "opt/m" ? optim_.m()
                                                    : optim_.v();
    const ParamStore::Range range = store_.range(places_.at(piece.name));
    const Tensor values = bucket.narrow(range.begin, range.end - range.begin);
    bytes_.resize(values.bytes());
    download(values, bytes_.data());
    return bytes_;
  }

 private:
  const ParamStore& store_;
  const AdamW& optim_;
  std::map<std::string, size_t> places_;
  std::vector<std::byte> bytes_;
};

fs::path checkpoint_named(const fs::path& run_dir, const std::string& which) {
  int64_t step = 0;
  const auto [end, error] = std::from_chars(which.data(), which.data() + which.size(), step);
  const bool number = error == std::errc() && end == which.data() + which.size();
  return number ? checkpoint::folder_of(run_dir, step) : fs::path(which);
}

}  // namespace

struct RunFolder::Impl {
  checkpoint::RunLock lock;
  checkpoint::Warn warn;
  std::optional<int64_t> loaded_step;  // never removed by retention
};

RunFolder::RunFolder(fs::path run_dir, Warn warn) : path_(std::move(run_dir)) {
  impl_ = std::make_unique<Impl>(Impl{checkpoint::RunLock(path_, warn), warn, {}});
  checkpoint::clean_leftovers(path_, warn);
}
RunFolder::~RunFolder() = default;
RunFolder::RunFolder(RunFolder&&) noexcept = default;

std::optional<int64_t> RunFolder::newest_step() const {
  const auto steps = checkpoint::list_steps(path_);
  return steps.empty() ? std::nullopt : std::optional(steps.front());
}

void RunFolder::remove_checkpoints(int64_t after_step) {
  for (const int64_t step : checkpoint::list_steps(path_)) {
    if (step <= after_step) continue;
    // As in retention: without its manifest what is left of a checkpoint is known to be none.
    const fs::path folder = checkpoint::folder_of(path_, step);
    if (fs::exists(folder / "manifest.json")) io::remove(folder / "manifest.json", "ckpt.retire");
    io::remove_all(folder, "ckpt.retire");
  }
}

void RunFolder::check_space(const ParamStore& store) const {
  const auto masters = static_cast<uint64_t>(store.num_elements()) * dtype_size(store.dtype());
  checkpoint::check_writable(path_, 3 * masters, impl_->warn);
}

std::optional<RunFolder::Found> RunFolder::find(const std::string& which) const {
  std::optional<checkpoint::Checkpoint> found;
  if (which.empty()) {
    found = checkpoint::Checkpoint::open_newest(path_, impl_->warn);
  } else {
    found = checkpoint::Checkpoint::open(checkpoint_named(path_, which), impl_->warn);
  }
  if (!found) return std::nullopt;
  const checkpoint::Manifest& m = found->manifest();
  if (m.state.contains("converted_from"))
    fail(ExitCode::kData, "CKPT-121", found->folder().string(),
         ": holds weights alone, made by ckpt convert: there are no optimizer moments to go on with. Start "
         "from it: "
         "init.from=",
         path_.string(), " and another run_dir");
  return Found{found->folder(), TrainState::from_json(m.state), m.config, m.saved_at, m.world};
}

void RunFolder::load(const Found& found, ParamStore& store, AdamW& optim) {
  const auto saved = checkpoint::Checkpoint::open(found.path, impl_->warn);
  HostImage param(store.masters()), m(optim.m()), v(optim.v());
  auto pieces = pieces_of(store, &optim, {param.data(), m.data(), v.data()});
  saved.read(pieces);
  for (const HostImage* image : {&param, &m, &v}) image->write_back();
  for (size_t i = 0, next = 0; i < store.parameters().size(); ++i, next += 3) {
    std::vector<OptimSegment> segments;
    for (const checkpoint::Segment& s : pieces[next + 1].segments)
      segments.push_back({s.axis, s.begin, s.end, s.steps});
    optim.set_segments(i, std::move(segments));
  }
  store.publish();
  impl_->loaded_step = saved.manifest().step;
}

fs::path RunFolder::save(const TrainState& state, const ParamStore& store, const AdamW& optim,
                         const std::string& config_yaml, const config::CheckpointConfig& keep) {
  const bool on_cpu = store.device().type() == DeviceType::kCpu;
  const auto pieces = pieces_of(
      store, &optim,
      on_cpu ? HostBuckets{store.masters().raw(), optim.m().raw(), optim.v().raw()} : HostBuckets{});
  Downloads downloads(store, optim);
  checkpoint::SaveRequest request;
  request.step = state.step;
  request.run_id = state.run_id;
  request.pieces = pieces;
  if (!on_cpu) request.content = std::ref(downloads);
  request.state = state.to_json();
  request.config = config_yaml;
  if (std::isfinite(state.last_validation)) request.metric = state.last_validation;
  const auto report = checkpoint::save(path_, request);
  if (!report.warning.empty()) impl_->warn(report.warning);
  std::set<int64_t> in_use{state.step};
  if (impl_->loaded_step) in_use.insert(*impl_->loaded_step);
  try {
    checkpoint::retire(path_, {keep.keep_last, keep.keep_every, keep.keep_best}, in_use);
  } catch (const Error& error) {
    if (error.code() == ExitCode::kInternal) throw;
    impl_->warn(str("old checkpoints were not removed: ", error.what()));
  }
  return report.folder;
}

struct Weights::Impl {
  std::optional<checkpoint::Checkpoint> checkpoint;
  foreign::ModelFile file;  // where there is no checkpoint
};

Weights::Weights(const fs::path& path) : impl_(std::make_unique<Impl>()) {
  const checkpoint::Warn ignore;
  if (foreign::is_foreign(path)) {
    impl_->file = foreign::open_model_file(path);
  } else if (!fs::exists(path / "checkpoints")) {
    impl_->checkpoint = checkpoint::Checkpoint::open(path, ignore);
  } else {
    impl_->checkpoint = checkpoint::Checkpoint::open_newest(path, ignore);
    if (!impl_->checkpoint)
      fail(ExitCode::kNoInput, "CKPT-19", path.string(),
           ": the run has no checkpoint yet. Wait for its first save, or name a checkpoint folder");
  }
}
Weights::~Weights() = default;

const fs::path& Weights::path() const {
  return impl_->checkpoint ? impl_->checkpoint->folder() : impl_->file.tensors->path();
}

config::RunConfig Weights::config() const {
  if (impl_->checkpoint) return config::parse_run(impl_->checkpoint->manifest().config, path().string());
  config::RunConfig config = foreign::run_config_of(impl_->file.model);
  config.data.tokenizer = impl_->file.tokenizer;
  return config;
}

int64_t Weights::step() const { return impl_->checkpoint ? impl_->checkpoint->manifest().step : 0; }

std::string Weights::identity() const {
  if (impl_->checkpoint)
    return str("step ", step(), ", manifest ",
               io::sha256_file(impl_->checkpoint->folder() / "manifest.json").substr(0, 16));
  return str("weights ", foreign::fingerprint(*impl_->file.tensors));
}

void Weights::load(ParamStore& store) const {
  HostImage image(store.masters());
  auto pieces = pieces_of(store, nullptr, {image.data()});
  const auto done = [&] {
    image.write_back();
    store.publish();
  };
  if (impl_->checkpoint) {
    impl_->checkpoint->read(pieces);
    return done();
  }
  const std::vector<foreign::TensorInfo>& tensors = impl_->file.tensors->tensors();
  std::map<std::string, size_t> places;
  for (size_t i = 0; i < tensors.size(); ++i) places[tensors[i].name] = i;
  std::vector<std::span<std::byte>> into(tensors.size());
  std::vector<std::string> lines;
  for (const checkpoint::Piece& p : pieces) {
    const auto at = places.find(p.name);
    if (at == places.end()) {
      lines.push_back(str(p.name, ": missing, expected ", foreign::to_string(p.global_shape)));
      continue;
    }
    const foreign::TensorInfo& found = tensors[at->second];
    if (found.shape != p.global_shape)
      lines.push_back(str(p.name, ": found ", foreign::to_string(found.shape), ", expected ",
                          foreign::to_string(p.global_shape)));
    into[at->second] = p.bytes;
    places.erase(at);
  }
  for (const auto& [name, i] : places)
    lines.push_back(str(name, ": unexpected, found ", foreign::to_string(tensors[i].shape)));
  if (!lines.empty()) {
    std::string all;
    for (size_t i = 0; i < std::min<size_t>(lines.size(), 50); ++i) all += "\n  " + lines[i];
    if (lines.size() > 50) all += str("\n  ... and ", lines.size() - 50, " more");
    fail(ExitCode::kData, "WTS-09", path().string(), ": ", lines.size(),
         " tensors differ from what the model of this run expects:", all,
         "\nUse the model section of these weights, or other weights");
  }
  foreign::load_values(*impl_->file.tensors,
                       store.dtype() == DType::kF64 ? foreign::Type::kF64 : foreign::Type::kF32, into);
  done();
}

std::string new_run_id() {
  std::string id = utc_time(unix_now());
  std::erase_if(id, [](char ch) { return ch == '-' || ch == ':' || ch == '.'; });
  return str(id, "-", getpid());
}

}  // namespace rookery::loop
