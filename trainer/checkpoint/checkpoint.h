// checkpoint.h: native checkpoints: RUN/checkpoints/step-00000120/{rank-00000.h5 .., manifest.json}. A
// checkpoint exists iff its manifest does and matches; it appears by one rename of its folder, so a kill or a
// full disk at any moment leaves the ones before it whole. Every byte read is covered by a CRC-32C. Works on
// boxes of named tensors in host memory: what they are cut from, and by how many ranks, is the caller's
// business. Format: docs/checkpoints.md. Next: save.cpp (writing), load.cpp (reading), retention.cpp (which
// to keep), run_lock.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace rookery::checkpoint {

namespace fs = std::filesystem;
using Warn = std::function<void(const std::string&)>;  // one line of text, without "warning:"; may be empty

// The Adam step count of a part of a tensor that was created at one time: [begin, end) along `axis`.
struct Segment {
  int axis = 0;
  int64_t begin = 0, end = 0, steps = 0;
  bool operator==(const Segment&) const = default;
};

// A box [offset, offset + extent) of a tensor of global_shape, row-major in `bytes`. Saving only reads
// `bytes`; loading fills `bytes` and `segments`.
struct Piece {
  std::string group;  // "param" | "opt/m" | "opt/v"
  std::string name;   // "blocks.0.att.key.weight"
  std::string dtype;  // "f32" | "f64"
  // An extent may be 0: nothing of a tensor that must be there.
  std::vector<uint64_t> global_shape, offset, extent;
  std::span<std::byte> bytes;
  std::vector<Segment> segments;
};

// ---- writing
// ------------------------------------------------------------------------------------------------------

struct SaveRequest {
  int64_t step = 0;
  std::string run_id;
  int rank = 0, world = 1;
  std::span<const Piece> pieces;  // what this rank owns; over all ranks each element of each tensor once
  // Where given: makes the bytes of a piece whose own are empty, when it is that piece's turn; they must last
  // until the next call. So a checkpoint can be larger than the memory.
  std::function<std::span<const std::byte>(const Piece&)> content;
  nlohmann::json state;          // the training state; JSON knows no NaN and no infinity
  std::string config;            // the resolved configuration, as text
  std::optional<double> metric;  // of validation, lower is better: what keep_best compares
};

struct SaveReport {
  fs::path folder;
  uint64_t bytes = 0;
  std::string warning;  // what failed after the checkpoint stood (the pointer `latest`); empty: nothing
};

// Saves a run of one rank. On failure (disk full, ...) throws CKPT-01 with the path, the bytes needed and the
// bytes free; what was there before is untouched and no temporary is left, so the caller may go on and try
// again later.
SaveReport save(const fs::path& run_dir, const SaveRequest& request);

// The same in its parts, for several ranks: rank 0 begins; every rank writes its shard; after all have done
// so, rank 0 finishes with the reports of all of them (JSON, in the order of ranks), or abandons.
fs::path begin_save(const fs::path& run_dir, int64_t step);  // the temporary folder, empty
fs::path temporary_folder(const fs::path& run_dir, int64_t step);
nlohmann::json write_shard(const fs::path& temporary, const SaveRequest& request);
SaveReport finish_save(const fs::path& run_dir, const SaveRequest& request,
                       const std::vector<nlohmann::json>& shards);
void abandon_save(const fs::path& run_dir, int64_t step) noexcept;
// The error of save(): `why` of some rank, with the bytes that this one needs.
[[noreturn]] void fail_unsaved(const fs::path& run_dir, const SaveRequest& request, ExitCode code,
                               const std::string& why);

// Before training: the folder takes a file (kCannotCreate otherwise), and how `checkpoint_bytes` compare with
// the free space: a warning below twice, CKPT-02 (kIo) below once.
void check_writable(const fs::path& run_dir, uint64_t checkpoint_bytes, const Warn& warn);

// ---- reading
// ------------------------------------------------------------------------------------------------------

struct Box {
  size_t file = 0;  // index into Manifest::files
  std::string dataset;
  std::vector<uint64_t> offset, extent;
  uint32_t crc32c = 0;
};

struct TensorEntry {
  std::string group, name, dtype;
  std::vector<uint64_t> shape;
  std::vector<Segment> segments;
  std::vector<Box> boxes;  // cover the tensor exactly once
};

struct FileEntry {
  std::string name;
  uint64_t bytes = 0;
  std::vector<uint32_t> blocks;  // CRC-32C of each kBlockBytes of the file
};
constexpr uint64_t kBlockBytes = 4u << 20;

struct Manifest {
  int64_t step = 0;
  int world = 1;
  std::string run_id;
  std::string saved_at;  // UTC, for people: order goes by step
  std::optional<double> metric;
  nlohmann::json state;
  std::string config;
  std::vector<FileEntry> files;
  std::vector<TensorEntry> tensors;
  uint64_t bytes() const;  // of all files, without the manifest
};

// The manifest of a checkpoint's folder, checked in itself but not against the files. Errors: CKPT-10 (no
// manifest: kData; no such folder: kNoInput), CKPT-11 (damaged), CKPT-12 (of a newer version or another byte
// order; kConfig).
Manifest read_manifest(const fs::path& folder);

class Checkpoint {
 public:
  // Reads the manifest and verifies every byte of every file against it. Errors as read_manifest, and CKPT-13
  // (file missing or of another size), CKPT-14 (checksum, with the block), CKPT-15 (a file of another
  // checkpoint), CKPT-16 (tensors do not fit the files). Files that the manifest does not name give a
  // warning.
  static Checkpoint open(const fs::path& folder, const Warn& warn = {});
  // The same of one that another rank has just verified.
  static Checkpoint open_verified(const fs::path& folder);
  // The newest of a run that verifies, with a warning for each newer one that does not; nothing if the run
  // has none at all. CKPT-17 if there are some and none is usable; CKPT-12 is not passed over.
  static std::optional<Checkpoint> open_newest(const fs::path& run_dir, const Warn& warn = {});

  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  const Manifest& manifest() const;
  const fs::path& folder() const;

  // Fills bytes and segments of the pieces, however the tensors were cut when they were saved. CKPT-20 lists
  // every tensor that is missing, has another shape or dtype, or (if `complete`) stands in a group of the
  // pieces and is not asked for; then nothing is filled. CKPT-21: a parameter that holds NaN or infinity.
  void read(std::span<Piece> pieces, bool complete = true) const;

 private:
  struct State;
  explicit Checkpoint(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// ---- which there are, and which stay
// --------------------------------------------------------------------------------

std::string folder_name(int64_t step);  // "step-00000120"
fs::path folder_of(const fs::path& run_dir, int64_t step);
// Steps whose folder stands under its final name, newest first, complete or not.
std::vector<int64_t> list_steps(const fs::path& run_dir);

struct Summary {
  int64_t step = 0;
  fs::path folder;
  std::string problem;  // empty: complete by its manifest and the sizes of its files
  std::string saved_at;
  uint64_t bytes = 0;
  int world = 0;
  std::optional<double> metric;
};
std::vector<Summary> list(const fs::path& run_dir);  // newest first; reads manifests only

// Everything that is wrong with a checkpoint, one line each; empty if it is sound. Each box is checked, too.
std::vector<std::string> verify(const fs::path& folder);

struct Retention {
  int64_t keep_last = 3;   // at least 1
  int64_t keep_every = 0;  // multiples of this step stay for good; 0: none
  int64_t keep_best = 0;   // of those with a metric, the lowest
};
// Removes what the policy does not keep, its manifest first; never the newest nor those `in_use` (the step
// that was loaded, and the one just saved: a newer one may be damaged). Call it after a save. Returns the
// removed steps.
std::vector<int64_t> retire(const fs::path& run_dir, const Retention& policy,
                            const std::set<int64_t>& in_use = {});
std::vector<int64_t> would_retire(const fs::path& run_dir, const Retention& policy,
                                  const std::set<int64_t>& in_use = {});

// Removes what interrupted saves and removals left behind. Call it at start, under the run's lock.
void clean_leftovers(const fs::path& run_dir, const Warn& warn);

}  // namespace rookery::checkpoint
