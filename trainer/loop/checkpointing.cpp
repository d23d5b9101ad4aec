#include "trainer/loop/checkpointing.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "kernels/base/io.h"
#include "parallel/comm/text.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/foreign/model_file.h"
#include "trainer/checkpoint/foreign/values.h"
#include "trainer/checkpoint/run_lock.h"
#include "trainer/loop/human.h"

namespace rookery::loop {
namespace fs = std::filesystem;
namespace {

// The parts of a bucket, one for each of the store's, as memory of the host: their own on the CPU, elsewhere
// room for copies.
class HostImage {
 public:
  explicit HostImage(std::vector<Tensor> parts) : parts_(std::move(parts)), copies_(parts_.size()) {
    for (size_t i = 0; i < parts_.size(); ++i)
      if (parts_[i].device().type() != DeviceType::kCpu) copies_[i].resize(parts_[i].bytes());
  }
  std::byte* data(size_t part) { return copies_[part].empty() ? parts_[part].raw() : copies_[part].data(); }
  void write_back() const {
    for (size_t i = 0; i < parts_.size(); ++i)
      if (!copies_[i].empty()) upload(copies_[i].data(), parts_[i]);
  }

 private:
  std::vector<Tensor> parts_;
  std::vector<std::vector<std::byte>> copies_;
};

std::vector<Tensor> master_parts(const ParamStore& store) {
  std::vector<Tensor> parts;
  for (const ParamStore::Part& part : store.parts()) parts.push_back(part.master);
  return parts;
}

std::vector<Tensor> moment_parts(const ParamStore& store, const Tensor& moments) {
  std::vector<Tensor> parts;
  for (const ParamStore::Part& part : store.parts())
    parts.push_back(moments.narrow(part.begin, part.master.numel()));
  return parts;
}

struct Box {
  std::vector<uint64_t> offset, extent;
};

// Elements [begin, end) of a row-major tensor as boxes, in their order: of a matrix the end of a row, whole
// rows and the beginning of one. `at`: the indices along the dims before `dim`.
void add_boxes(const Shape& shape, int dim, int64_t begin, int64_t end, std::vector<uint64_t> at,
               std::vector<Box>& boxes) {
  if (begin >= end) return;
  int64_t row = 1;
  for (int d = dim + 1; d < shape.size(); ++d) row *= shape[d];
  const auto partial = [&](int64_t from, int64_t to) {
    std::vector<uint64_t> inside = at;
    inside.push_back(static_cast<uint64_t>(from / row));
    const int64_t start = from / row * row;
    add_boxes(shape, dim + 1, from - start, to - start, inside, boxes);
  };
  const int64_t first = (begin + row - 1) / row * row, last = end / row * row;
  if (first > last) return partial(begin, end);  // within one row
  if (begin < first) partial(begin, first);
  if (first < last) {
    Box box{at, std::vector<uint64_t>(at.size(), 1)};
    box.offset.push_back(static_cast<uint64_t>(first / row));
    box.extent.push_back(static_cast<uint64_t>((last - first) / row));
    for (int d = dim + 1; d < shape.size(); ++d) {
      box.offset.push_back(0);
      box.extent.push_back(static_cast<uint64_t>(shape[d]));
    }
    boxes.push_back(std::move(box));
  }
  if (last < end) partial(last, end);
}

// Of a parameter's local part elements [begin, end), as boxes of the whole tensor; at least one, which may be
// empty.
std::vector<Box> boxes_of(const Parameter& p, int64_t begin, int64_t end) {
  std::vector<Box> boxes;
  const Shape local = p.local();
  add_boxes(local, 0, begin, end, {}, boxes);
  const auto dims = static_cast<size_t>(local.size());
  if (boxes.empty()) boxes.push_back({std::vector<uint64_t>(dims, 0), std::vector<uint64_t>(dims, 0)});
  if (const int cut = p.spec.split_dim; cut >= 0)
    for (Box& box : boxes)
      box.offset[static_cast<size_t>(cut)] += static_cast<uint64_t>(p.spec.part * local[cut]);
  return boxes;
}

// Groups of tensors in memory of the host; null: they are not at hand.
struct HostBuckets {
  HostImage *param = nullptr, *m = nullptr, *v = nullptr;
};

// What this rank owns of each parameter, with an optimizer of its moments too; an empty piece where that is
// nothing.
std::vector<checkpoint::Piece> pieces_of(const ParamStore& store, const AdamW* optim,
                                         const HostBuckets& host) {
  std::vector<checkpoint::Piece> pieces;
  const size_t size = dtype_size(store.dtype());
  for (size_t i = 0; i < store.parameters().size(); ++i) {
    const Parameter& p = *store.parameters()[i];
    const ParamStore::Range own = store.range(i);
    const auto part = static_cast<size_t>(&store.part(i) - store.parts().data());
    const std::vector<Box> boxes = boxes_of(p, own.first, own.first + own.end - own.begin);
    for (const auto& [group, image] :
         {std::pair{"param", host.param}, {"opt/m", host.m}, {"opt/v", host.v}}) {
      const bool moment = group != std::string_view("param");
      if (moment && optim == nullptr) continue;
      auto at = static_cast<size_t>(own.begin - store.parts()[part].begin) * size;
      for (const Box& box : boxes) {
        checkpoint::Piece piece{group, p.name, to_string(store.dtype()), {}, box.offset, box.extent, {}, {}};
        for (const int64_t d : p.global) piece.global_shape.push_back(static_cast<uint64_t>(d));
        size_t bytes = size;
        for (const uint64_t n : box.extent) bytes *= n;
        if (image != nullptr) piece.bytes = {image->data(part) + at, bytes};
        at += bytes;
        if (moment)
          for (const OptimSegment& s : optim->segments(i))
            piece.segments.push_back({s.axis, s.begin, s.end, s.steps});
        pieces.push_back(std::move(piece));
      }
    }
  }
  return pieces;
}

// Of these the ones that this rank writes: each element is written by one.
void keep_own(const ParamStore& store, std::vector<checkpoint::Piece>& pieces) {
  const bool others_have_it = store.level() == 0 && store.mesh().replicas().rank() > 0;
  std::map<std::string, bool> counts;
  for (const Parameter* p : store.parameters()) counts[p->name] = !others_have_it && store.counts(*p);
  std::erase_if(pieces, [&](const checkpoint::Piece& piece) {
    return !counts.at(piece.name) || std::ranges::count(piece.extent, 0u) > 0;
  });
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

// "74 what went wrong" for all ranks to know; empty: nothing did.
std::string problem_of(const std::function<void()>& work) {
  try {
    work();
    return "";
  } catch (const Error& e) {
    if (e.code() == ExitCode::kInternal) throw;
    return str(static_cast<int>(e.code()), " ", e.what());
  }
}

size_t size_of(const checkpoint::Piece& piece) {
  size_t bytes = piece.dtype == "f64" ? sizeof(double) : sizeof(float);
  for (const uint64_t n : piece.extent) bytes *= n;
  return bytes;
}

// The values of a piece, out of those of the whole tensor.
void copy_box(const std::byte* whole, const checkpoint::Piece& piece) {
  const size_t bytes = size_of(piece), dims = piece.extent.size();
  if (bytes == 0) return;
  size_t elements = 1;
  for (const uint64_t n : piece.extent) elements *= n;
  const size_t width = bytes / elements, row = piece.extent.back();
  for (size_t i = 0; i < elements; i += row) {
    size_t place = 0, stride = 1, rest = i;  // of the row's first element, in the whole tensor
    for (size_t d = dims; d-- > 0; stride *= piece.global_shape[d]) {
      place += (piece.offset[d] + rest % piece.extent[d]) * stride;
      rest /= piece.extent[d];
    }
    std::memcpy(piece.bytes.data() + i * width, whole + place * width, row * width);
  }
}

// Whether a checkpoint must not hold tensors that this rank knows nothing of: stages of a pipeline know
// their own alone.
bool has_all(const ParamStore& store) { return store.mesh().degree(Axis::kPipe) == 1; }

fs::path checkpoint_named(const fs::path& run_dir, const std::string& which) {
  int64_t step = 0;
  const auto [end, error] = std::from_chars(which.data(), which.data() + which.size(), step);
  const bool number = error == std::errc() && end == which.data() + which.size();
  return number ? checkpoint::folder_of(run_dir, step) : fs::path(which);
}

}  // namespace

// From its begin to its end: what is written, and by what.
struct RunFolder::Save {
  checkpoint::SaveRequest request;
  std::vector<checkpoint::Piece> pieces;
  std::vector<std::byte> copy;  // what the pieces are of, where training goes on meanwhile
  config::CheckpointConfig keep;
  fs::path temporary;
  std::string report, problem;
  double write_s = 0;
  std::atomic<bool> written = false;
  std::thread thread;

  void write() {
    const double start = steady_now();
    problem = problem_of([&] { report = checkpoint::write_shard(temporary, request).dump(); });
    write_s = steady_now() - start;
    written = true;
  }
};

struct RunFolder::Impl {
  std::optional<checkpoint::RunLock> lock;  // of rank 0
  checkpoint::Warn warn;
  Communicator& world;
  std::optional<int64_t> loaded_step = {};  // never removed by retention
  std::unique_ptr<Save> save = {};

  bool first() const { return world.rank() == 0; }
  // Every rank calls it with its own; all go on if no rank has one.
  void agree(const fs::path& run_dir, const std::string& problem) {
    const std::vector<std::string> all = exchange_texts(world, problem);
    for (size_t rank = 0; rank < all.size(); ++rank) {
      if (all[rank].empty()) continue;
      const std::unique_ptr<Save> failed = std::move(save);  // over, and still what the request speaks of
      const checkpoint::SaveRequest& request = failed->request;
      if (first()) checkpoint::abandon_save(run_dir, request.step);
      const size_t space = all[rank].find(' ');
      checkpoint::fail_unsaved(
          run_dir, request, static_cast<ExitCode>(std::stoi(all[rank].substr(0, space))),
          str(all.size() > 1 ? str("rank ", rank, ": ") : "", all[rank].substr(space + 1)));
    }
  }
};

RunFolder::RunFolder(fs::path run_dir, Warn warn, Communicator& world) : path_(std::move(run_dir)) {
  impl_ = std::make_unique<Impl>(Impl{{}, warn, world});
  if (impl_->first()) {
    impl_->lock.emplace(path_, warn);
    checkpoint::clean_leftovers(path_, warn);
  }
  world.barrier();
}
RunFolder::~RunFolder() {
  if (impl_ && impl_->save && impl_->save->thread.joinable()) impl_->save->thread.join();
}
RunFolder::RunFolder(RunFolder&&) noexcept = default;

std::optional<int64_t> RunFolder::newest_step() const {
  const auto steps = checkpoint::list_steps(path_);
  return steps.empty() ? std::nullopt : std::optional(steps.front());
}

void RunFolder::remove_checkpoints(int64_t after_step) {
  if (!impl_->first()) return;
  for (const int64_t step : checkpoint::list_steps(path_)) {
    if (step <= after_step) continue;
    // As in retention: without its manifest what is left of a checkpoint is known to be none.
    const fs::path folder = checkpoint::folder_of(path_, step);
    if (fs::exists(folder / "manifest.json")) io::remove(folder / "manifest.json", "ckpt.retire");
    io::remove_all(folder, "ckpt.retire");
  }
}

void RunFolder::check_space(const ParamStore& store) const {
  uint64_t masters = 0;
  for (const Parameter* p : store.parameters())
    masters += static_cast<uint64_t>(p->global.numel()) * dtype_size(store.dtype());
  if (impl_->first()) checkpoint::check_writable(path_, 3 * masters, impl_->warn);
}

std::optional<RunFolder::Found> RunFolder::find(const std::string& which) const {
  std::optional<checkpoint::Checkpoint> found;
  if (!impl_->first()) {  // rank 0 has verified it
    const std::string folder = broadcast_text(impl_->world, "");
    if (!folder.empty()) found = checkpoint::Checkpoint::open_verified(folder);
  } else if (which.empty()) {
    found = checkpoint::Checkpoint::open_newest(path_, impl_->warn);
  } else {
    found = checkpoint::Checkpoint::open(checkpoint_named(path_, which), impl_->warn);
  }
  if (impl_->first()) broadcast_text(impl_->world, found ? found->folder().string() : "");
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
  const auto saved = impl_->first() ? checkpoint::Checkpoint::open(found.path, impl_->warn)
                                    : checkpoint::Checkpoint::open_verified(found.path);
  HostImage param(master_parts(store)), m(moment_parts(store, optim.m())), v(moment_parts(store, optim.v()));
  auto pieces = pieces_of(store, &optim, {&param, &m, &v});
  saved.read(pieces, has_all(store));
  for (const HostImage* image : {&param, &m, &v}) image->write_back();
  std::map<std::string, const checkpoint::Piece*> moments;
  for (const checkpoint::Piece& p : pieces)
    if (p.group == "opt/m") moments[p.name] = &p;
  for (size_t i = 0; i < store.parameters().size(); ++i) {
    std::vector<OptimSegment> segments;
    for (const checkpoint::Segment& s : moments.at(store.parameters()[i]->name)->segments)
      segments.push_back({s.axis, s.begin, s.end, s.steps});
    optim.set_segments(i, std::move(segments));
  }
  store.publish();
  impl_->loaded_step = saved.manifest().step;
}

// The request, without the bytes of its pieces, and the temporary folder.
void RunFolder::begin(const TrainState& state, const ParamStore& store, const AdamW& optim,
                      const std::string& config_yaml, const config::CheckpointConfig& keep) {
  RK_CHECK(!impl_->save, "[RunFolder] a save is under way");
  impl_->save = std::make_unique<Save>();
  Save& save = *impl_->save;
  save.keep = keep;
  save.request.step = state.step;
  save.request.run_id = state.run_id;
  save.request.rank = impl_->world.rank();
  save.request.world = impl_->world.size();
  save.request.state = state.to_json();
  save.request.config = config_yaml;
  if (std::isfinite(state.last_validation)) save.request.metric = state.last_validation;
  HostBuckets host;
  std::optional<HostImage> param, m, v;
  if (store.device().type() == DeviceType::kCpu) {
    host = {&param.emplace(master_parts(store)), &m.emplace(moment_parts(store, optim.m())),
            &v.emplace(moment_parts(store, optim.v()))};
  }
  save.pieces = pieces_of(store, &optim, host);
  keep_own(store, save.pieces);
  save.request.pieces = save.pieces;
  save.temporary = checkpoint::temporary_folder(path_, state.step);
  std::string problem;
  if (impl_->first()) problem = problem_of([&] { checkpoint::begin_save(path_, state.step); });
  impl_->agree(path_, problem);
}

RunFolder::Saved RunFolder::save(const TrainState& state, const ParamStore& store, const AdamW& optim,
                                 const std::string& config_yaml, const config::CheckpointConfig& keep) {
  begin(state, store, optim, config_yaml, keep);
  Downloads downloads(store, optim);
  if (store.device().type() != DeviceType::kCpu) impl_->save->request.content = std::ref(downloads);
  impl_->save->write();
  impl_->save->write_s = NAN;
  return finish_save();
}

void RunFolder::start_save(const TrainState& state, const ParamStore& store, const AdamW& optim,
                           const std::string& config_yaml, const config::CheckpointConfig& keep) {
  begin(state, store, optim, config_yaml, keep);
  Save& save = *impl_->save;
  Downloads downloads(store, optim);
  const auto bytes_of = [&](const checkpoint::Piece& p) {
    return p.bytes.empty() ? downloads(p) : std::span<const std::byte>(p.bytes);
  };
  size_t total = 0;
  for (const checkpoint::Piece& p : save.pieces) total += size_of(p);
  save.copy.resize(total);
  size_t at = 0;
  for (checkpoint::Piece& p : save.pieces) {
    const std::span<const std::byte> bytes = bytes_of(p);
    std::memcpy(save.copy.data() + at, bytes.data(), bytes.size());
    p.bytes = {save.copy.data() + at, bytes.size()};
    at += bytes.size();
  }
  save.thread = std::thread([&save] { save.write(); });
}

bool RunFolder::saving() const { return impl_->save != nullptr; }
bool RunFolder::written() const { return impl_->save && impl_->save->written; }

RunFolder::Saved RunFolder::finish_save() {
  Save& save = *impl_->save;
  if (save.thread.joinable()) save.thread.join();
  impl_->agree(path_, save.problem);
  const std::vector<std::string> reports = exchange_texts(impl_->world, save.report);
  Saved saved{checkpoint::folder_of(path_, save.request.step), save.request.step, save.write_s};
  std::string problem;
  if (impl_->first()) {
    std::vector<nlohmann::json> shards;
    for (const std::string& report : reports) shards.push_back(nlohmann::json::parse(report));
    problem = problem_of([&] {
      const auto report = checkpoint::finish_save(path_, save.request, shards);
      if (!report.warning.empty()) impl_->warn(report.warning);
    });
  }
  impl_->agree(path_, problem);
  const std::unique_ptr<Save> done = std::move(impl_->save);
  if (!impl_->first()) return saved;
  std::set<int64_t> in_use{saved.step};
  if (impl_->loaded_step) in_use.insert(*impl_->loaded_step);
  try {
    checkpoint::retire(path_, {done->keep.keep_last, done->keep.keep_every, done->keep.keep_best}, in_use);
  } catch (const Error& error) {
    if (error.code() == ExitCode::kInternal) throw;
    impl_->warn(str("old checkpoints were not removed: ", error.what()));
  }
  return saved;
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
  HostImage image(master_parts(store));
  auto pieces = pieces_of(store, nullptr, {&image});
  const auto done = [&] {
    image.write_back();
    store.publish();
  };
  if (impl_->checkpoint) {
    impl_->checkpoint->read(pieces, has_all(store));
    return done();
  }
  const std::vector<foreign::TensorInfo>& tensors = impl_->file.tensors->tensors();
  std::map<std::string, size_t> places;
  for (size_t i = 0; i < tensors.size(); ++i) places[tensors[i].name] = i;
  std::vector<std::span<std::byte>> into(tensors.size());
  std::vector<std::vector<std::byte>> whole(tensors.size());  // of what this rank has a part of
  std::vector<size_t> place_of_piece;
  std::vector<std::string> lines;
  std::set<std::string> wanted;
  for (const checkpoint::Piece& p : pieces) {
    const auto at = places.find(p.name);
    const bool first = wanted.insert(p.name).second;
    place_of_piece.push_back(at == places.end() ? 0 : at->second);
    if (at == places.end()) {
      if (first) lines.push_back(str(p.name, ": missing, expected ", foreign::to_string(p.global_shape)));
      continue;
    }
    const foreign::TensorInfo& found = tensors[at->second];
    if (first && found.shape != p.global_shape)
      lines.push_back(str(p.name, ": found ", foreign::to_string(found.shape), ", expected ",
                          foreign::to_string(p.global_shape)));
    if (p.extent == p.global_shape) {
      into[at->second] = p.bytes;
    } else if (first) {
      checkpoint::Piece all = p;
      all.extent = p.global_shape;
      whole[at->second].resize(size_of(all));
      into[at->second] = whole[at->second];
    }
  }
  for (const std::string& name : wanted) places.erase(name);
  if (!has_all(store)) places.clear();
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
  for (size_t i = 0; i < pieces.size(); ++i)
    if (!whole[place_of_piece[i]].empty()) copy_box(whole[place_of_piece[i]].data(), pieces[i]);
  done();
}

std::string new_run_id() {
  std::string id = utc_time(unix_now());
  std::erase_if(id, [](char ch) { return ch == '-' || ch == ':' || ch == '.'; });
  return str(id, "-", getpid());
}

}  // namespace rookery::loop
