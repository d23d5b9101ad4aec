// save.cpp: writing a checkpoint: shards into step-N.tmp, each read back and compared; the manifest last;
// then the folder takes its final name. Reading: load.cpp.
#include <map>

#include "data/hdf5/hdf5.h"
#include "kernels/base/io.h"
#include "trainer/checkpoint/manifest.h"

namespace rookery::checkpoint {
namespace {

namespace h5 = data::h5;
using nlohmann::json;

std::vector<uint64_t> flat(const std::vector<Segment>& segments) {
  std::vector<uint64_t> numbers;
  for (const Segment& s : segments)
    for (const int64_t v : {int64_t(s.axis), s.begin, s.end, s.steps}) numbers.push_back(uint64_t(v));
  return numbers;
}

void check_piece(const Piece& p, std::span<const std::byte> bytes) {
  const auto type = h5::type_named(p.dtype);
  const auto numel = numel_of(p.extent);
  RK_CHECK(type && numel && bytes.size() == *numel * h5::size_of(*type), "[checkpoint] ", p.group, "/",
           p.name, ": ", bytes.size(), " bytes do not fit its extent and dtype ", p.dtype);
  RK_CHECK(p.offset.size() == p.global_shape.size() && p.extent.size() == p.global_shape.size(),
           "[checkpoint] ", p.group, "/", p.name, ": offset, extent and shape differ in rank");
}

// The boxes must stand in the file as they stood in memory; a page that was written wrongly must not become a
// checkpoint.
void read_back(const fs::path& path, const std::vector<TensorEntry>& tensors) {
  const h5::Reader reader(path);
  const io::InputFile file(path);
  std::vector<std::byte> buffer(kBlockBytes);
  for (const TensorEntry& t : tensors)
    for (const Box& box : t.boxes) {
      const h5::DatasetInfo& info = reader.info(box.dataset);
      uint64_t left = info.numel * h5::size_of(info.type), at = info.offset.value_or(0);
      uint32_t sum = 0;
      while (left > 0) {
        const auto part = std::span(buffer).first(std::min(left, kBlockBytes));
        file.read_at(at, part);
        sum = io::crc32c(part, sum);
        at += part.size();
        left -= part.size();
      }
      if (sum != box.crc32c)
        fail(ExitCode::kIo, "CKPT-03", path, ": ", box.dataset, " reads back with checksum ", hex(sum),
             ", expected ", hex(box.crc32c), "; mend it by checking the disk");
    }
}

}  // namespace

fs::path begin_save(const fs::path& run_dir, int64_t step) {
  const fs::path temporary = temporary_folder(run_dir, step);
  io::create_directories(checkpoints_of(run_dir));
  io::remove_all(temporary, "ckpt.clean");
  io::create_directories(temporary);
  return temporary;
}

json write_shard(const fs::path& temporary, const SaveRequest& request) {
  const fs::path path = temporary / shard_name(request.rank);
  std::vector<TensorEntry> tensors;
  std::map<std::string, size_t> index;  // data set group -> place in `tensors`

  h5::Writer writer(path, "ckpt.shard", h5::Writer::Place::kFinal);
  writer.attribute("/", "format", "rookery-checkpoint");
  writer.attribute("/", "format_version", uint32_t(kFormatVersion));
  writer.attribute("/", "run_id", request.run_id);
  writer.attribute("/", "step", uint64_t(request.step));
  writer.attribute("/", "rank", uint32_t(request.rank));
  writer.attribute("/", "world", uint32_t(request.world));
  for (const Piece& p : request.pieces) {
    const std::span<const std::byte> bytes =
        p.bytes.empty() && request.content ? request.content(p) : std::span<const std::byte>(p.bytes);
    check_piece(p, bytes);
    const std::string name = dataset_name(p.group, p.name);
    const auto [at, is_new] = index.emplace(name, tensors.size());
    if (is_new) {
      tensors.push_back({p.group, p.name, p.dtype, p.global_shape, p.segments, {}});
      writer.group(name);
      writer.attribute(name, "global_shape", std::span<const uint64_t>(p.global_shape));
      if (!p.segments.empty())
        writer.attribute(name, "segments", std::span<const uint64_t>(flat(p.segments)));
    }
    TensorEntry& t = tensors[at->second];
    const Box box{size_t(request.rank), str(name, "/", t.boxes.size()), p.offset, p.extent,
                  io::crc32c(bytes)};
    writer.dataset(box.dataset, *h5::type_named(p.dtype), p.extent, bytes);
    writer.attribute(box.dataset, "offset", std::span<const uint64_t>(box.offset));
    writer.attribute(box.dataset, "extent", std::span<const uint64_t>(box.extent));
    writer.attribute(box.dataset, "dtype", p.dtype);
    writer.attribute(box.dataset, "crc32c", box.crc32c);
    t.boxes.push_back(box);
  }
  writer.close();
  read_back(path, tensors);

  // A report is a manifest of one file; `file` of its boxes already counts over all ranks.
  Manifest report;
  report.step = request.step;
  report.run_id = request.run_id;
  report.files = {{path.filename().string(), fs::file_size(path), block_checksums(path)}};
  report.tensors = std::move(tensors);
  return to_json(report);
}

SaveReport finish_save(const fs::path& run_dir, const SaveRequest& request, const std::vector<json>& shards) {
  RK_CHECK(shards.size() == size_t(request.world), "[checkpoint] ", shards.size(), " reports of ",
           request.world, " ranks");
  Manifest m;
  m.step = request.step;
  m.world = request.world;
  m.run_id = request.run_id;
  m.saved_at = utc_now();
  m.metric = request.metric;
  m.state = request.state;
  m.config = request.config;
  std::map<std::string, size_t> index;
  for (const json& shard : shards) {
    Manifest part = from_json(shard, size_t(request.world));
    RK_CHECK(part.step == m.step && part.run_id == m.run_id && part.files.size() == 1,
             "[checkpoint] a foreign report");
    m.files.push_back(std::move(part.files[0]));
    for (TensorEntry& t : part.tensors) {
      const auto [at, is_new] = index.emplace(dataset_name(t.group, t.name), m.tensors.size());
      if (is_new) {
        m.tensors.push_back(std::move(t));
      } else {
        TensorEntry& known = m.tensors[at->second];
        RK_CHECK(known.shape == t.shape && known.dtype == t.dtype && known.segments == t.segments,
                 "[checkpoint] ranks differ in ", t.group, "/", t.name);
        known.boxes.insert(known.boxes.end(), t.boxes.begin(), t.boxes.end());
      }
    }
  }
  for (const TensorEntry& t : m.tensors)
    RK_CHECK(covered_once(t), "[checkpoint] the pieces of ", t.group, "/", t.name,
             " do not cover it exactly once");

  const fs::path temporary = temporary_folder(run_dir, request.step),
                 final_path = folder_of(run_dir, request.step);
  io::OutputFile manifest(temporary / kManifestName, "ckpt.manifest");
  manifest.write(manifest_text(m));
  manifest.sync();
  manifest.close();
  io::sync_directory(temporary);
  SaveReport report{final_path, m.bytes(), {}};
  const bool replaces = fs::exists(fs::symlink_status(final_path));
  if (replaces) {
    io::exchange(temporary, final_path, "ckpt");
  } else {
    io::rename(temporary, final_path, "ckpt");
  }
  // From here on it stands, and what is left is tidying.
  try {
    if (replaces) remove_checkpoint(temporary, "ckpt.retire");
    io::write_file_atomic(checkpoints_of(run_dir) / "latest", folder_name(request.step) + "\n",
                          "ckpt.latest");
  } catch (const Error& e) {
    if (e.code() == ExitCode::kInternal) throw;
    abandon_save(run_dir, request.step);
    report.warning = str(final_path.string(), " is saved, but ", e.what());
  }
  return report;
}

void abandon_save(const fs::path& run_dir, int64_t step) noexcept {
  std::error_code ec;
  fs::remove_all(temporary_folder(run_dir, step),
                 ec);  // not through the I/O layer: its fault may be why we are here
}

void fail_unsaved(const fs::path& run_dir, const SaveRequest& request, ExitCode code,
                  const std::string& why) {
  uint64_t needed = 0;
  for (const Piece& p : request.pieces)
    needed += numel_of(p.extent).value_or(0) * h5::size_of(*h5::type_named(p.dtype));
  std::error_code ec;
  const fs::space_info space = fs::space(run_dir, ec);
  fail(code, "CKPT-01", folder_of(run_dir, request.step), ": was not saved: ", why, "; it needs about ",
       needed, " bytes, ", ec ? 0 : space.available, " are free; earlier checkpoints are untouched");
}

SaveReport save(const fs::path& run_dir, const SaveRequest& request) {
  RK_CHECK(request.world == 1 && request.rank == 0, "[checkpoint] save() is for one rank");
  try {
    const fs::path temporary = begin_save(run_dir, request.step);
    return finish_save(run_dir, request, {write_shard(temporary, request)});
  } catch (const Error& e) {
    abandon_save(run_dir, request.step);
    if (e.code() == ExitCode::kInternal) throw;
    fail_unsaved(run_dir, request, e.code(), e.what());
  } catch (...) {
    abandon_save(run_dir, request.step);
    throw;
  }
}

void check_writable(const fs::path& run_dir, uint64_t checkpoint_bytes, const Warn& warn) {
  const fs::path folder = checkpoints_of(run_dir);
  const fs::path probe = io::temporary_beside(folder / "probe");
  try {
    io::create_directories(folder);
    io::OutputFile file(probe, "ckpt.probe");
    file.write("probe");
    file.sync();
    file.close();
    io::remove(probe, "ckpt.probe");
  } catch (const Error& e) {
    std::error_code ec;
    fs::remove(probe, ec);
    fail(ExitCode::kCannotCreate, "CKPT-04", folder, ": cannot take checkpoints: ", e.what());
  }
  const uint64_t available = io::free_bytes(folder);
  const std::string numbers =
      str(folder.string(), ": ", available, " bytes are free, a checkpoint takes about ", checkpoint_bytes,
          " and two at a time must fit");
  if (available < checkpoint_bytes) fail(ExitCode::kIo, "CKPT-02", numbers, "; mend it by making room");
  if (available / 2 < checkpoint_bytes && warn) warn(numbers);
}

}  // namespace rookery::checkpoint
