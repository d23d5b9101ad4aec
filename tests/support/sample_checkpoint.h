// sample_checkpoint.h: a small set of tensors whose values follow from the step, to save, load and compare in
// tests.
#pragma once

#include <deque>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"

namespace rookery::test {

// Every element of every tensor is a function of (tensor, place in the tensor, step).
inline float sample_value(const std::string& name, uint64_t place, int64_t step) {
  return float(name.size()) + float(place) * 0.25f + float(step) * 1000;
}

// Boxes with their own memory.
struct Pieces {
  std::deque<std::vector<float>> memory;
  std::vector<checkpoint::Piece> list;

  void add(const std::string& group, const std::string& name, const std::vector<uint64_t>& shape,
           const std::vector<uint64_t>& offset, const std::vector<uint64_t>& extent) {
    uint64_t numel = 1;
    for (const uint64_t d : extent) numel *= d;
    memory.emplace_back(numel, -1.0f);
    list.push_back(
        {group, name, "f32", shape, offset, extent, std::as_writable_bytes(std::span(memory.back())), {}});
  }
  void add_whole(const std::string& group, const std::string& name, const std::vector<uint64_t>& shape) {
    add(group, name, shape, std::vector<uint64_t>(shape.size(), 0), shape);
  }
  // Calls f(piece, its k-th element, the place of that element in the whole tensor).
  template <class F>
  void for_each(F f) {
    for (size_t p = 0; p < list.size(); ++p) {
      const checkpoint::Piece& piece = list[p];
      for (size_t k = 0; k < memory[p].size(); ++k) {
        uint64_t place = 0, rest = k, stride = 1;
        for (size_t a = piece.extent.size(); a-- > 0;) {
          place += (piece.offset[a] + rest % piece.extent[a]) * stride;
          rest /= piece.extent[a];
          stride *= piece.global_shape[a];
        }
        f(piece, memory[p][k], place);
      }
    }
  }
  void set(int64_t step) {
    for_each([&](const checkpoint::Piece& p, float& x, uint64_t place) {
      x = sample_value(p.group + p.name, place, step);
    });
  }
  size_t count_wrong(int64_t step) {
    size_t wrong = 0;
    for_each([&](const checkpoint::Piece& p, float& x, uint64_t place) {
      wrong += x != sample_value(p.group + p.name, place, step);
    });
    return wrong;
  }
};

// A model of three tensors with its Adam moments, not cut.
inline Pieces sample_pieces(int64_t step = 0) {
  Pieces pieces;
  for (const char* group : {"param", "opt/m", "opt/v"}) {
    pieces.add_whole(group, "emb.weight", {40, 16});
    pieces.add_whole(group, "blocks.0.att.key.weight", {16, 24});
    pieces.add_whole(group, "blocks.0.ln1.bias", {16});
  }
  for (checkpoint::Piece& p : pieces.list)
    if (p.group != "param") p.segments = {{0, 0, 10, step}, {0, 10, int64_t(p.global_shape[0]), step / 2}};
  pieces.set(step);
  return pieces;
}

inline checkpoint::SaveRequest request_of(const Pieces& pieces, int64_t step) {
  checkpoint::SaveRequest r;
  r.step = step;
  r.run_id = "run-1";
  r.pieces = pieces.list;
  r.state = {{"step", step}, {"tokens", step * 2048}};
  r.config = "model:\n  arch: rwkv6\n";
  return r;
}

inline checkpoint::SaveReport save_sample(const std::filesystem::path& run, int64_t step) {
  const Pieces pieces = sample_pieces(step);
  return checkpoint::save(run, request_of(pieces, step));
}

// Whether the newest checkpoint of the run is whole and holds the values of its step; its step, or -1.
inline int64_t newest_sound_step(const std::filesystem::path& run, const checkpoint::Warn& warn = {}) {
  const auto newest = checkpoint::Checkpoint::open_newest(run, warn);
  if (!newest) return -1;
  Pieces pieces = sample_pieces();
  newest->read(pieces.list);
  const int64_t step = newest->manifest().step;
  return pieces.count_wrong(step) == 0 && newest->manifest().state.at("step") == step ? step : -1;
}

}  // namespace rookery::test
