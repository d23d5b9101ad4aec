// warp.cpp: operations of the lanes of a warp. Operands and results lie on the lanes' stacks: the lane that
// comes last computes for all, so one rendezvous is enough.
#include "kernels/emul/ops.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/emul/machine.h"

namespace rookery::emulator {

namespace {

std::string_view name_of(WarpOpKind kind) {
  switch (kind) {
    case WarpOpKind::kSync:
      return "syncwarp";
    case WarpOpKind::kShuffle:
      return "shuffle";
    case WarpOpKind::kBallot:
      return "ballot";
    case WarpOpKind::kReduce:
      return "reduction";
    case WarpOpKind::kLoadMatrix:
      return "ldmatrix";
    case WarpOpKind::kStoreMatrix:
      return "stmatrix";
    case WarpOpKind::kMultiply:
      return "mma";
    case WarpOpKind::kNamedBarrier:
      return "named barrier";
  }
  return "?";
}

using Operands = std::array<void*, kWarpSize>;

template <class Body>
void for_lanes(uint32_t mask, const Body& body) {
  for (; mask != 0; mask &= mask - 1) body(std::countr_zero(mask));
}

struct ShuffleOperand {
  uint64_t value, result;
  int source;
};

struct BallotOperand {
  bool predicate;
  uint32_t result;
};

struct ReduceOperand {
  ReduceKind kind;
  int64_t value, result;
};

}  // namespace

void Machine::warp_op(WarpOpKind kind, uint32_t mask, Site site, void* operand,
                      void (*evaluate)(const Operands&, uint32_t)) {
  const uint32_t bit = uint32_t{1} << self_->lane;
  const int first = self_->warp * kWarpSize;
  if ((mask & bit) == 0)
    fault("lane ", self_->lane, " of warp ", self_->warp, " is not in the mask of its own ", name_of(kind),
          " of ", site);
  if (threads_ - first < kWarpSize && mask >> (threads_ - first) != 0)
    fault("the mask of the ", name_of(kind), " of ", site, " names lanes that the last warp of a block of ",
          threads_, " threads does not have");
  auto& ops = warp_ops_[static_cast<size_t>(self_->warp)];
  auto op = std::find_if(ops.begin(), ops.end(), [&](const WarpOp& o) { return o.mask & bit; });
  if (op == ops.end()) {
    for_lanes(mask, [&](int lane) {
      if (thread_[static_cast<size_t>(first + lane)].done)
        fault("the mask of the ", name_of(kind), " of ", site, " names lane ", lane, " of warp ", self_->warp,
              ", which has returned");
    });
    ops.push_back({kind, mask, 0, site, {}});
    op = ops.end() - 1;
  } else if (op->kind != kind || op->mask != mask || !same_site(op->site, site)) {
    fault("divergent warp ", self_->warp, ": lane ", self_->lane, " is at the ", name_of(kind), " of ", site,
          ", while lane ", std::countr_zero(op->arrived), " waits for it at the ", name_of(op->kind), " of ",
          op->site);
  }
  op->operands[static_cast<size_t>(self_->lane)] = operand;
  op->arrived |= bit;
  if (op->arrived != mask) {
    wait(name_of(kind), site);
    return;
  }
  const WarpOp complete = *op;
  ops.erase(op);
  evaluate(complete.operands, mask);
  for_lanes(mask & ~bit, [&](int lane) { make_ready(thread_[static_cast<size_t>(first + lane)]); });
}

void syncwarp(uint32_t mask, Site site) {
  Machine& machine = Machine::current();
  if (machine.removed("syncwarp", site)) return;
  machine.warp_op(WarpOpKind::kSync, mask, site, nullptr, [](const Operands&, uint32_t lanes) {
    Machine& m = Machine::current();
    m.races().syncwarp(m.self().warp * kWarpSize, lanes);
  });
}

uint64_t shuffle(ShuffleKind kind, uint64_t value, int argument, int width, uint32_t mask, Site site) {
  Machine& machine = Machine::current();
  if (width < 1 || width > kWarpSize || !std::has_single_bit(static_cast<unsigned>(width)))
    machine.fault("the shuffle of ", site, " has width ", width, ", expected a power of two up to ",
                  kWarpSize);
  // Sources outside the segment give the lane's own value, as in hardware.
  const int lane = machine.self().lane, segment = lane & ~(width - 1);
  int source = lane;
  switch (kind) {
    case ShuffleKind::kLane:
      source = segment + (argument & (width - 1));
      break;
    case ShuffleKind::kUp:
      source = lane - argument >= segment ? lane - argument : lane;
      break;
    case ShuffleKind::kDown:
      source = lane + argument < segment + width ? lane + argument : lane;
      break;
    case ShuffleKind::kXor:
      source = (lane ^ argument) < segment + width ? lane ^ argument : lane;
      break;
  }
  if ((mask >> source & 1) == 0)
    machine.fault("the shuffle of ", site, " reads lane ", source, ", which its mask does not name");
  ShuffleOperand operand{value, 0, source};
  machine.warp_op(WarpOpKind::kShuffle, mask, site, &operand, [](const Operands& operands, uint32_t lanes) {
    for_lanes(lanes, [&](int i) {
      auto* own = static_cast<ShuffleOperand*>(operands[static_cast<size_t>(i)]);
      own->result = static_cast<ShuffleOperand*>(operands[static_cast<size_t>(own->source)])->value;
    });
  });
  return operand.result;
}

uint32_t ballot(bool predicate, uint32_t mask, Site site) {
  BallotOperand operand{predicate, 0};
  Machine::current().warp_op(
      WarpOpKind::kBallot, mask, site, &operand, [](const Operands& operands, uint32_t lanes) {
        uint32_t votes = 0;
        for_lanes(lanes, [&](int i) {
          if (static_cast<BallotOperand*>(operands[static_cast<size_t>(i)])->predicate)
            votes |= uint32_t{1} << i;
        });
        for_lanes(lanes, [&](int i) {
          static_cast<BallotOperand*>(operands[static_cast<size_t>(i)])->result = votes;
        });
      });
  return operand.result;
}

int64_t reduce(ReduceKind kind, int64_t value, uint32_t mask, Site site) {
  ReduceOperand operand{kind, value, 0};
  Machine::current().warp_op(
      WarpOpKind::kReduce, mask, site, &operand, [](const Operands& operands, uint32_t lanes) {
        const auto at = [&](int i) { return static_cast<ReduceOperand*>(operands[static_cast<size_t>(i)]); };
        const ReduceOperand& first = *at(std::countr_zero(lanes));
        int64_t total = first.value;
        for_lanes(lanes & (lanes - 1), [&](int i) {
          switch (first.kind) {
            case ReduceKind::kAdd:
              total += at(i)->value;
              break;
            case ReduceKind::kMin:
              total = std::min(total, at(i)->value);
              break;
            case ReduceKind::kMax:
              total = std::max(total, at(i)->value);
              break;
          }
        });
        for_lanes(lanes, [&](int i) { at(i)->result = total; });
      });
  return operand.result;
}

}  // namespace rookery::emulator
