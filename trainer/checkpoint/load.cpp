// load.cpp: opening and verifying a checkpoint; filling the wanted boxes from the saved ones. Writing:
// save.cpp.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "data/hdf5/hdf5.h"
#include "kernels/base/io.h"
#include "trainer/checkpoint/manifest.h"

namespace rookery::checkpoint {
namespace {

namespace h5 = data::h5;

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += str(i ? ", " : "", shape[i]);
  return text + "]";
}

// Size first (a cut-off file is the commonest damage), then the checksum of each block.
void verify_file(const fs::path& folder, const FileEntry& entry) {
  const fs::path path = folder / entry.name;
  std::error_code ec;
  if (!fs::exists(path, ec))
    fail(ExitCode::kData, "CKPT-13", path, ": is missing, expected ", entry.bytes,
         " bytes; mend it by using another checkpoint");
  const uint64_t size = io::InputFile(path).size();
  if (size != entry.bytes)
    fail(ExitCode::kData, "CKPT-13", path, ": holds ", size, " bytes, expected ", entry.bytes,
         "; mend it by using another checkpoint");
  const std::vector<uint32_t> found = block_checksums(path);
  for (size_t i = 0; i < found.size(); ++i)
    if (i >= entry.blocks.size() || found[i] != entry.blocks[i]) {
      const uint64_t first = i * kBlockBytes, last = std::min(size, first + kBlockBytes) - 1;
      fail(ExitCode::kData, "CKPT-14", path, ": checksum mismatch at bytes ", first, "-", last, " (expected ",
           i < entry.blocks.size() ? hex(entry.blocks[i]) : "none", ", got ", hex(found[i]),
           "); mend it by using another checkpoint");
    }
}

// The file says of itself what the manifest says of it, and holds the boxes that the manifest lists.
void verify_content(const h5::Reader& reader, const Manifest& m, size_t file) {
  const auto differs = [&](std::string_view what, const std::string& found, const std::string& expected) {
    if (found != expected)
      fail(ExitCode::kData, "CKPT-15", reader.path(), ": belongs to another checkpoint: its ", what, " is ",
           found, ", expected ", expected, "; mend it by putting the right file back");
  };
  differs("format", reader.text("/", "format"), "rookery-checkpoint");
  differs("run_id", reader.text("/", "run_id"), m.run_id);
  differs("step", str(reader.number("/", "step")), str(m.step));
  differs("rank", str(reader.number("/", "rank")), str(file));
  differs("world", str(reader.number("/", "world")), str(m.world));
  for (const TensorEntry& t : m.tensors)
    for (const Box& box : t.boxes) {
      if (box.file != file) continue;
      const h5::DatasetInfo& info = reader.info(box.dataset);
      if (info.is_text || to_string(info.type) != t.dtype || info.shape != box.extent)
        fail(ExitCode::kData, "CKPT-16", reader.path(), ": ", box.dataset, " is ", to_string(info.type), " ",
             shape_text(info.shape), ", expected ", t.dtype, " ", shape_text(box.extent));
    }
}

template <class T>
bool all_finite(std::span<const std::byte> bytes) {
  const size_t n = bytes.size() / sizeof(T);
  for (size_t i = 0; i < n; ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    if (!std::isfinite(value)) return false;
  }
  return true;
}

}  // namespace

struct Checkpoint::State {
  fs::path folder;
  Manifest manifest;
  std::vector<h5::Reader> files;
  std::map<std::string, const TensorEntry*> tensors;  // by data set group

  void open_files() {
    for (size_t i = 0; i < manifest.files.size(); ++i) {
      files.emplace_back(folder / manifest.files[i].name);
      verify_content(files[i], manifest, i);
    }
    for (const TensorEntry& t : manifest.tensors) tensors[dataset_name(t.group, t.name)] = &t;
  }

  // One line for each tensor that is not as the pieces want it.
  std::vector<std::string> differences(std::span<const Piece> pieces, bool complete) const {
    std::vector<std::string> lines;
    std::set<std::string> groups, wanted;
    for (const Piece& p : pieces) {
      groups.insert(p.group);
      const std::string name = dataset_name(p.group, p.name);
      const bool first = wanted.insert(name).second;
      const auto it = tensors.find(name);
      const std::string label = str(p.group, "/", p.name);
      if (it == tensors.end()) {
        if (first)
          lines.push_back(str(label, ": missing, expected ", p.dtype, " ", shape_text(p.global_shape)));
      } else if (it->second->shape != p.global_shape || it->second->dtype != p.dtype) {
        if (first)
          lines.push_back(str(label, ": found ", it->second->dtype, " ", shape_text(it->second->shape),
                              ", expected ", p.dtype, " ", shape_text(p.global_shape)));
      }
    }
    for (const auto& [name, t] : tensors)
      if (complete && groups.count(t->group) && !wanted.count(name))
        lines.push_back(
            str(t->group, "/", t->name, ": unexpected, found ", t->dtype, " ", shape_text(t->shape)));
    return lines;
  }

  void fill(Piece& p) const {
    const TensorEntry& t = *tensors.at(dataset_name(p.group, p.name));
    const auto numel = numel_of(p.extent);
    RK_CHECK(p.offset.size() == t.shape.size() && p.extent.size() == t.shape.size() && numel &&
                 p.bytes.size() == *numel * h5::size_of(*h5::type_named(p.dtype)),
             "[checkpoint] ", p.group, "/", p.name, ": bad box");
    p.segments = t.segments;
    if (*numel == 0) return;
    uint64_t filled = 0;
    for (const Box& box : t.boxes) {
      const auto common = overlap(box.offset, box.extent, p.offset, p.extent);
      if (!common) continue;
      std::vector<uint64_t> from = common->offset, to = common->offset;
      for (size_t a = 0; a < from.size(); ++a) {
        from[a] -= box.offset[a];
        to[a] -= p.offset[a];
      }
      files[box.file].read(box.dataset, from, common->extent, p.bytes, p.extent, to);
      filled += *numel_of(common->extent);
    }
    RK_CHECK(filled == *numel, "[checkpoint] ", p.group, "/", p.name, ": ", filled, " of ", *numel,
             " elements are covered");
    const bool finite =
        p.dtype == "f64" ? all_finite<double>(p.bytes) : p.dtype != "f32" || all_finite<float>(p.bytes);
    if (p.group == "param" && !finite)
      fail(ExitCode::kData, "CKPT-21", folder, ": parameter ", p.name,
           " holds NaN or infinity; mend it by resuming from an earlier checkpoint");
  }
};

Checkpoint::Checkpoint(std::unique_ptr<State> state) : state_(std::move(state)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Checkpoint Checkpoint::open(const fs::path& folder, const Warn& warn) {
  auto state = std::make_unique<State>();
  state->folder = folder;
  state->manifest = read_manifest(folder);
  std::set<std::string> known = {std::string(kManifestName)};
  for (const FileEntry& f : state->manifest.files) {
    verify_file(folder, f);
    known.insert(f.name);
  }
  state->open_files();
  for (const auto& entry : fs::directory_iterator(folder))
    if (warn && !known.count(entry.path().filename().string()))
      warn(str(entry.path().string(), ": is no part of the checkpoint and is ignored"));
  return Checkpoint(std::move(state));
}

Checkpoint Checkpoint::open_verified(const fs::path& folder) {
  auto state = std::make_unique<State>();
  state->folder = folder;
  state->manifest = read_manifest(folder);
  state->open_files();
  return Checkpoint(std::move(state));
}

std::optional<Checkpoint> Checkpoint::open_newest(const fs::path& run_dir, const Warn& warn) {
  const std::vector<int64_t> steps = list_steps(run_dir);
  const fs::path latest = checkpoints_of(run_dir) / "latest";
  if (warn && fs::exists(latest)) {
    std::string named = io::read_file(latest, 4096);
    named.erase(named.find_last_not_of("\n\r ") + 1);
    if (std::ranges::none_of(steps, [&](int64_t step) { return folder_name(step) == named; }))
      warn(str(latest.string(), ": names ", named,
               ", which is not there; using the newest checkpoint that verifies"));
  }
  std::vector<std::string> problems;
  for (const int64_t step : steps) {
    try {
      Checkpoint found = open(folder_of(run_dir, step), warn);
      for (const std::string& problem : problems)
        if (warn) warn(str(problem, ". Falling back to ", folder_name(step)));
      return found;
    } catch (const Error& e) {
      if (e.code() != ExitCode::kData && e.code() != ExitCode::kNoInput && e.code() != ExitCode::kIo) throw;
      problems.push_back(str(folder_name(step), " is not usable: ", e.what()));
    }
  }
  if (problems.empty()) return std::nullopt;
  std::string all;
  for (const std::string& problem : problems) all += "\n  " + problem;
  fail(ExitCode::kData, "CKPT-17", checkpoints_of(run_dir),
       ": no checkpoint is usable, expected at least one:", all,
       "\nmend it by restoring a copy, or by starting in another folder");
}

const Manifest& Checkpoint::manifest() const { return state_->manifest; }
const fs::path& Checkpoint::folder() const { return state_->folder; }

void Checkpoint::read(std::span<Piece> pieces, bool complete) const {
  const std::vector<std::string> lines = state_->differences(pieces, complete);
  if (!lines.empty()) {
    std::string all;
    for (const std::string& line : lines) all += "\n  " + line;
    fail(ExitCode::kData, "CKPT-20", folder(), ": ", lines.size(),
         " tensors differ from what the model expects:", all,
         "\nmend it by using the configuration that the checkpoint was made with");
  }
  for (Piece& p : pieces) state_->fill(p);
}

std::vector<std::string> verify(const fs::path& folder) {
  std::vector<std::string> problems;
  const auto attempt = [&](const auto& step) {
    try {
      step();
    } catch (const Error& e) {
      problems.push_back(e.what());
    }
  };
  Manifest m;
  attempt([&] { m = read_manifest(folder); });
  for (size_t i = 0; i < m.files.size(); ++i) {
    attempt([&] { verify_file(folder, m.files[i]); });
    attempt([&] {
      const h5::Reader reader(folder / m.files[i].name);
      verify_content(reader, m, i);
      for (const TensorEntry& t : m.tensors)
        for (const Box& box : t.boxes) {
          if (box.file != i) continue;
          std::vector<std::byte> bytes(reader.info(box.dataset).numel *
                                       h5::size_of(reader.info(box.dataset).type));
          reader.read(box.dataset, std::vector<uint64_t>(box.extent.size(), 0), box.extent, bytes);
          if (io::crc32c(bytes) != box.crc32c)
            fail(ExitCode::kData, "CKPT-14", reader.path(), ": ", box.dataset,
                 ": checksum mismatch (expected ", hex(box.crc32c), ", got ", hex(io::crc32c(bytes)), ")");
        }
    });
  }
  return problems;
}

}  // namespace rookery::checkpoint
