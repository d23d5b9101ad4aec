// manifest.cpp: names in a checkpoint's folder; the manifest's text and its strict reading.
#include "trainer/checkpoint/manifest.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <set>
#include <stdexcept>

#include "data/hdf5/hdf5.h"
#include "kernels/base/io.h"

namespace rookery::checkpoint {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxManifestBytes = 256u << 20;
constexpr size_t kMaxAxes = 8;

std::string padded(int64_t number, size_t digits) {
  const std::string text = str(number);
  return std::string(text.size() < digits ? digits - text.size() : 0, '0') + text;
}

uint32_t unhex(const json& value) {
  const std::string text = value.get<std::string>();
  uint32_t number = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), number, 16);
  if (ec != std::errc() || end != text.data() + text.size() || text.size() != 8)
    throw std::runtime_error("bad checksum");
  return number;
}

// The last line: it follows from all the bytes before it.
std::string last_line(std::string_view body) {
  return str("\"crc32c\": \"", hex(io::crc32c(std::as_bytes(std::span(body.data(), body.size())))),
             "\"\n}\n");
}

json segment_json(const Segment& s) { return json::array({s.axis, s.begin, s.end, s.steps}); }

std::vector<uint64_t> shape_from(const json& value) {
  auto shape = value.get<std::vector<uint64_t>>();
  if (shape.size() > kMaxAxes) throw std::runtime_error("more than 8 axes");
  return shape;
}

TensorEntry tensor_from(const json& j, size_t files) {
  TensorEntry t{j.at("group"), j.at("name"), j.at("dtype"), shape_from(j.at("shape")), {}, {}};
  for (const json& s : j.at("segments"))
    t.segments.push_back(
        {s.at(0).get<int>(), s.at(1).get<int64_t>(), s.at(2).get<int64_t>(), s.at(3).get<int64_t>()});
  for (const json& b : j.at("boxes")) {
    Box box{b.at("file").get<size_t>(), b.at("dataset").get<std::string>(), shape_from(b.at("offset")),
            shape_from(b.at("extent")), unhex(b.at("crc32c"))};
    if (box.file >= files) throw std::runtime_error("a box names a file that is not listed");
    t.boxes.push_back(std::move(box));
  }
  return t;
}

}  // namespace

fs::path checkpoints_of(const fs::path& run_dir) { return run_dir / "checkpoints"; }
std::string folder_name(int64_t step) { return "step-" + padded(step, 8); }
fs::path folder_of(const fs::path& run_dir, int64_t step) {
  return checkpoints_of(run_dir) / folder_name(step);
}
fs::path temporary_folder(const fs::path& run_dir, int64_t step) {
  return checkpoints_of(run_dir) / (folder_name(step) + ".tmp");
}
std::string shard_name(int rank) { return "rank-" + padded(rank, 5) + ".h5"; }

std::string dataset_name(std::string_view group, std::string_view tensor) {
  std::string name = str("/", group, "/", tensor);
  std::replace(name.begin() + long(group.size()) + 2, name.end(), '.', '/');
  return name;
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text;
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

std::string hex(uint32_t value) {
  std::string text;
  for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[(value >> shift) & 15];
  return text;
}

std::optional<uint64_t> numel_of(const std::vector<uint64_t>& shape) {
  uint64_t n = 1;
  for (const uint64_t d : shape)
    if (__builtin_mul_overflow(n, d, &n)) return std::nullopt;
  return n;
}

std::optional<Overlap> overlap(const std::vector<uint64_t>& offset_a, const std::vector<uint64_t>& extent_a,
                               const std::vector<uint64_t>& offset_b, const std::vector<uint64_t>& extent_b) {
  Overlap common;
  for (size_t i = 0; i < offset_a.size(); ++i) {
    const uint64_t begin = std::max(offset_a[i], offset_b[i]);
    const uint64_t end = std::min(offset_a[i] + extent_a[i], offset_b[i] + extent_b[i]);
    if (begin >= end) return std::nullopt;
    common.offset.push_back(begin);
    common.extent.push_back(end - begin);
  }
  return common;
}

std::vector<uint32_t> block_checksums(const fs::path& path) {
  const io::InputFile file(path);
  std::vector<uint32_t> sums;
  std::vector<std::byte> buffer(std::min(kBlockBytes, file.size()));
  for (uint64_t at = 0; at < file.size(); at += kBlockBytes) {
    const auto block = std::span(buffer).first(std::min(kBlockBytes, file.size() - at));
    file.read_at(at, block);
    sums.push_back(io::crc32c(block));
  }
  return sums;
}

void remove_checkpoint(const fs::path& folder, std::string_view point) {
  io::remove(folder / kManifestName, point);
  io::sync_directory(folder);
  io::remove_all(folder, point);
  io::sync_directory(folder.parent_path());
}

uint64_t Manifest::bytes() const {
  uint64_t total = 0;
  for (const FileEntry& f : files) total += f.bytes;
  return total;
}

// All boxes inside, no two overlap, the volumes add up.
bool covered_once(const TensorEntry& t) {
  const auto total = numel_of(t.shape);
  if (!total) return false;
  uint64_t covered = 0;
  for (size_t i = 0; i < t.boxes.size(); ++i) {
    const Box& box = t.boxes[i];
    if (box.offset.size() != t.shape.size() || box.extent.size() != t.shape.size()) return false;
    for (size_t a = 0; a < t.shape.size(); ++a)
      if (box.offset[a] > t.shape[a] || box.extent[a] > t.shape[a] - box.offset[a]) return false;
    for (size_t k = 0; k < i; ++k)
      if (overlap(box.offset, box.extent, t.boxes[k].offset, t.boxes[k].extent)) return false;
    covered += *numel_of(box.extent);
  }
  return covered == *total;
}

Manifest from_json(const json& j, size_t file_count) {
  Manifest m;
  m.step = j.at("step").get<int64_t>();
  m.world = j.at("world").get<int>();
  m.run_id = j.at("run_id").get<std::string>();
  m.saved_at = j.at("saved_at").get<std::string>();
  if (!j.at("metric").is_null()) m.metric = j.at("metric").get<double>();
  m.state = j.at("state");
  m.config = j.at("config").get<std::string>();
  for (const json& f : j.at("files")) {
    FileEntry file{f.at("name").get<std::string>(), f.at("bytes").get<uint64_t>(), {}};
    if (file.name.empty() || file.name[0] == '.' || file.name.find('/') != std::string::npos)
      throw std::runtime_error("a file name that leaves the folder");
    for (const json& b : f.at("blocks")) file.blocks.push_back(unhex(b));
    m.files.push_back(std::move(file));
  }
  for (const json& t : j.at("tensors")) m.tensors.push_back(tensor_from(t, file_count));
  return m;
}

json to_json(const Manifest& m) {
  json files = json::array(), tensors = json::array();
  for (const FileEntry& f : m.files) {
    json blocks = json::array();
    for (const uint32_t b : f.blocks) blocks.push_back(hex(b));
    files.push_back({{"name", f.name}, {"bytes", f.bytes}, {"blocks", blocks}});
  }
  for (const TensorEntry& t : m.tensors) {
    json boxes = json::array(), segments = json::array();
    for (const Segment& s : t.segments) segments.push_back(segment_json(s));
    for (const Box& b : t.boxes)
      boxes.push_back({{"file", b.file},
                       {"dataset", b.dataset},
                       {"offset", b.offset},
                       {"extent", b.extent},
                       {"crc32c", hex(b.crc32c)}});
    tensors.push_back({{"group", t.group},
                       {"name", t.name},
                       {"dtype", t.dtype},
                       {"shape", t.shape},
                       {"segments", segments},
                       {"boxes", boxes}});
  }
  return {{"format", "rookery-checkpoint"},
          {"format_version", kFormatVersion},
          {"byte_order", "little"},
          {"block_bytes", kBlockBytes},
          {"step", m.step},
          {"run_id", m.run_id},
          {"world", m.world},
          {"saved_at", m.saved_at},
          {"metric", m.metric ? json(*m.metric) : json()},
          {"state", m.state},
          {"config", m.config},
          {"files", files},
          {"tensors", tensors}};
}

std::string manifest_text(const Manifest& m) {
  std::string text = to_json(m).dump(1, ' ', false, json::error_handler_t::replace);
  text.resize(text.size() - 2);  // without the closing "\n}"
  text += ",\n";
  return text + last_line(text);
}

Manifest parse_manifest(const std::string& text, const fs::path& path) {
  const auto damaged = [&](std::string_view why) -> Manifest {
    fail(ExitCode::kData, "CKPT-11", path, ": the manifest is damaged (", why,
         "); mend it by using an older checkpoint, see 'rookery ckpt list'");
  };
  json j = json::parse(text, nullptr, false);
  if (!j.is_object() || j.value("format", json()) != "rookery-checkpoint")
    damaged("not the JSON of a checkpoint");
  // What a newer version or another machine wrote may hold its checksum in another way: say that first.
  const json version = j.value("format_version", json()), order = j.value("byte_order", json());
  if (version.is_number_integer() && version.get<int64_t>() > kFormatVersion)
    fail(ExitCode::kConfig, "CKPT-12", path, ": has format version ", version.get<int64_t>(),
         ", expected at most ", kFormatVersion,
         "; mend it by using the version of rookery that wrote it, or a newer one");
  if (order == "big")
    fail(ExitCode::kConfig, "CKPT-12", path,
         ": was written on a big-endian machine, expected little-endian; mend it by converting it there");
  const size_t tail = text.rfind("\"crc32c\"");
  if (tail == std::string::npos || text.substr(tail) != last_line(std::string_view(text).substr(0, tail)))
    damaged("its checksum does not match");
  try {
    if (version != kFormatVersion || order != "little")
      throw std::runtime_error("unknown version or byte order");
    if (j.at("block_bytes") != kBlockBytes) throw std::runtime_error("unknown size of blocks");
    Manifest m = from_json(j, j.at("files").size());
    std::set<std::string> names;
    for (const TensorEntry& t : m.tensors) {
      const std::string name = dataset_name(t.group, t.name);
      if (!names.insert(name).second) throw std::runtime_error(name + " stands there twice");
      if (!data::h5::type_named(t.dtype) || !covered_once(t))
        throw std::runtime_error(name + " is not covered by its boxes");
    }
    return m;
  } catch (const std::exception& e) {
    return damaged(e.what());
  }
}

Manifest read_manifest(const fs::path& folder) {
  std::error_code ec;
  if (!fs::is_directory(folder, ec)) {
    std::error_code link;
    const bool dangling = fs::is_symlink(folder, link) && !fs::exists(folder, link);
    fail(ExitCode::kNoInput, "CKPT-10", folder, ": is no readable folder",
         dangling ? ": a link to nowhere"
         : ec     ? ": " + ec.message()
                  : std::string(),
         "; mend it by naming the folder of a checkpoint");
  }
  const fs::path path = folder / kManifestName;
  const bool there = fs::exists(path, ec);
  if (!there && !ec)
    fail(ExitCode::kData, "CKPT-10", folder, ": is incomplete, it has no ", kManifestName,
         "; mend it by using another checkpoint");
  return parse_manifest(io::read_file(path, kMaxManifestBytes), path);
}

}  // namespace rookery::checkpoint
