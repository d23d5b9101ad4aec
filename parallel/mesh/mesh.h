// mesh.h: the ranks as a grid, one axis for each way of dividing the work. Who is declared to do what:
// config (`mesh:`); who acts on it: shard/, collective_ops/, sequence/, pipeline/.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>

#include "parallel/comm/communicator.h"
#include "parallel/comm/meta.h"
#include "parallel/mesh/degrees.h"

namespace rookery {

// Rank r of the world is (pipe, data, seq, tensor) in that order, the last running fastest: tensor ranks,
// which talk most, are neighbours.
class Mesh {
 public:
  // Every rank of the world calls it. degrees.world() is world.size(). The world outlives the mesh.
  Mesh(const MeshDegrees& degrees, Communicator& world);
  // One that is only thought of: its axes are of MetaCommunicators.
  Mesh(const MeshDegrees& degrees, MetaCommunicator& world);
  static const Mesh& single();  // of the only rank there is

  const MeshDegrees& degrees() const { return degrees_; }
  int64_t degree(Axis axis) const { return degrees_.of(axis); }
  int64_t index(Axis axis) const { return axis_of(axis).rank(); }
  // The ranks that differ from this one on that axis alone, in the order of their index.
  Communicator& axis(Axis axis) const { return axis_of(axis); }
  // data x seq: those that have the same part of the model, and whose gradients are added.
  Communicator& replicas() const { return *replicas_; }
  Communicator& world() const { return *world_; }

 private:
  // A group by its colour, this rank's place in it and its size.
  using MakeGroup = std::function<std::unique_ptr<Communicator>(int64_t colour, int64_t place, int64_t size)>;
  void divide(const MakeGroup& make_group);
  Communicator& axis_of(Axis axis) const { return *axes_[static_cast<size_t>(axis)]; }
  MeshDegrees degrees_;
  Communicator* world_;
  std::array<std::unique_ptr<Communicator>, 5> axes_;
  std::unique_ptr<Communicator> replicas_;
};

}  // namespace rookery
