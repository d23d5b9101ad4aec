// manifest.h: what save.cpp, load.cpp and retention.cpp share: names in the folder and the text of the
// manifest. The manifest is JSON whose last line holds the CRC-32C of all bytes before it, so that a changed
// bit in it is found, too.
#pragma once

#include "kernels/base/error.h"
#include "trainer/checkpoint/checkpoint.h"

namespace rookery::checkpoint {

inline constexpr std::string_view kManifestName = "manifest.json";
inline constexpr int kFormatVersion = 1;

fs::path checkpoints_of(const fs::path& run_dir);
std::string shard_name(int rank);  // "rank-00003.h5"
std::string dataset_name(std::string_view group,
                         std::string_view tensor);  // "/opt/m/blocks/0/att/key/weight"
std::string hex(uint32_t value);                    // 8 digits
std::string utc_now();                              // "2025-04-24T02:23:42Z"

nlohmann::json to_json(const Manifest& manifest);
Manifest from_json(const nlohmann::json& json,
                   size_t file_count);         // throws what nlohmann throws, or runtime_error
bool covered_once(const TensorEntry& tensor);  // each element lies in exactly one box

std::string manifest_text(const Manifest& manifest);
Manifest parse_manifest(const std::string& text, const fs::path& file);

// Elements of a shape; nothing if that overflows.
std::optional<uint64_t> numel_of(const std::vector<uint64_t>& shape);

// The part that two boxes share; empty (nothing) if they are apart.
struct Overlap {
  std::vector<uint64_t> offset, extent;
};
std::optional<Overlap> overlap(const std::vector<uint64_t>& offset_a, const std::vector<uint64_t>& extent_a,
                               const std::vector<uint64_t>& offset_b, const std::vector<uint64_t>& extent_b);

// Removes a checkpoint's folder so that it is invalid from the first step on: the manifest goes first.
void remove_checkpoint(const fs::path& folder, std::string_view point);

// CRC-32C of each kBlockBytes of a file.
std::vector<uint32_t> block_checksums(const fs::path& file);

}  // namespace rookery::checkpoint
