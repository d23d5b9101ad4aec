#include "parallel/mesh/mesh.h"

namespace rookery {

std::string to_string(Axis axis) {
  switch (axis) {
    case Axis::kPipe:
      return "pipe";
    case Axis::kData:
      return "data";
    case Axis::kSeq:
      return "seq";
    case Axis::kTensor:
      return "tensor";
    case Axis::kExpert:
      return "expert";
  }
  return "?";
}

int64_t MeshDegrees::of(Axis axis) const {
  switch (axis) {
    case Axis::kPipe:
      return pipe;
    case Axis::kData:
      return data;
    case Axis::kSeq:
      return seq;
    case Axis::kTensor:
      return tensor;
    case Axis::kExpert:
      return expert;
  }
  return 1;
}

std::string to_string(const MeshDegrees& degrees) {
  std::string text;
  for (const Axis axis : {Axis::kPipe, Axis::kData, Axis::kSeq, Axis::kTensor, Axis::kExpert})
    if (degrees.of(axis) > 1) text += str(text.empty() ? "" : " x ", to_string(axis), " ", degrees.of(axis));
  return text.empty() ? "one rank" : text;
}

Mesh::Mesh(const MeshDegrees& degrees, Communicator& world) : degrees_(degrees), world_(&world) {
  // A colour is where its ranks stand on all other axes; their order is that of the world.
  divide(
      [&](int64_t colour, int64_t, int64_t) { return world.split(static_cast<int>(colour), world.rank()); });
}

Mesh::Mesh(const MeshDegrees& degrees, MetaCommunicator& world) : degrees_(degrees), world_(&world) {
  divide([](int64_t, int64_t place, int64_t size) {
    return std::make_unique<MetaCommunicator>(static_cast<int>(place), static_cast<int>(size));
  });
}

void Mesh::divide(const MakeGroup& make_group) {
  const MeshDegrees& d = degrees_;
  RK_CHECK(d.world() == world_->size(), "[Mesh] ", to_string(d), " is ", d.world(), " ranks, the world has ",
           world_->size());
  RK_CHECK(d.data * d.seq % d.expert == 0, "[Mesh] ", to_string(d));
  const int64_t rank = world_->rank();
  const int64_t tensor = rank % d.tensor, seq = rank / d.tensor % d.seq,
                data = rank / (d.tensor * d.seq) % d.data, pipe = rank / (d.tensor * d.seq * d.data);
  const int64_t replica = data * d.seq + seq;
  const auto at = [&](Axis axis) -> std::unique_ptr<Communicator>& {
    return axes_[static_cast<size_t>(axis)];
  };
  at(Axis::kPipe) = make_group(replica * d.tensor + tensor, pipe, d.pipe);
  at(Axis::kData) = make_group((pipe * d.seq + seq) * d.tensor + tensor, data, d.data);
  at(Axis::kSeq) = make_group((pipe * d.data + data) * d.tensor + tensor, seq, d.seq);
  at(Axis::kTensor) = make_group((pipe * d.data + data) * d.seq + seq, tensor, d.tensor);
  replicas_ = make_group(pipe * d.tensor + tensor, replica, d.data * d.seq);
  const int64_t groups = d.data * d.seq / d.expert;
  at(Axis::kExpert) =
      make_group((pipe * groups + replica / d.expert) * d.tensor + tensor, replica % d.expert, d.expert);
}

const Mesh& Mesh::single() {
  struct Single {
    std::unique_ptr<Communicator> self = self_communicator();
    Mesh mesh{{}, *self};
  };
  static const Single single;
  return single.mesh;
}

}  // namespace rookery
