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
  RK_CHECK(degrees.world() == world.size(), "[Mesh] ", to_string(degrees), " is ", degrees.world(),
           " ranks, the world has ", world.size());
  RK_CHECK(degrees.data * degrees.seq % degrees.expert == 0, "[Mesh] ", to_string(degrees));
  const int64_t rank = world.rank();
  const int64_t tensor = rank % degrees.tensor, seq = rank / degrees.tensor % degrees.seq,
                data = rank / (degrees.tensor * degrees.seq) % degrees.data,
                pipe = rank / (degrees.tensor * degrees.seq * degrees.data);
  const int64_t replica = data * degrees.seq + seq;
  // A colour is where its ranks stand on all other axes; their order is that of the world.
  const auto split = [&](int64_t colour) {
    return world.split(static_cast<int>(colour), static_cast<int>(rank));
  };
  const auto at = [&](Axis axis) -> std::unique_ptr<Communicator>& {
    return axes_[static_cast<size_t>(axis)];
  };
  at(Axis::kPipe) = split(replica * degrees.tensor + tensor);
  at(Axis::kData) = split((pipe * degrees.seq + seq) * degrees.tensor + tensor);
  at(Axis::kSeq) = split((pipe * degrees.data + data) * degrees.tensor + tensor);
  at(Axis::kTensor) = split((pipe * degrees.data + data) * degrees.seq + seq);
  replicas_ = split(pipe * degrees.tensor + tensor);
  const int64_t groups = degrees.data * degrees.seq / degrees.expert;
  at(Axis::kExpert) = split((pipe * groups + replica / degrees.expert) * degrees.tensor + tensor);
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
