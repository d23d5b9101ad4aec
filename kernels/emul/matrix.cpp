// matrix.cpp: ldmatrix, stmatrix and mma of a warp. All follow one table of fragments (docs/emulation.md):
// lane l has g = l / 4 and q = l % 4; the low half of a register is the lower column or k.
#include <bit>
#include <cstring>
#include <utility>

#include "kernels/emul/machine.h"

namespace rookery::emulator {
namespace {

using Operands = std::array<void*, kWarpSize>;
constexpr uint32_t kAllLanes = 0xffffffffu;

struct MatrixOperand {
  uint32_t* registers;  // one per matrix
  char* row;
  int matrices;
  bool transposed;
};

// visit(lane, register, half, row of that matrix, byte in the row) for each 16-bit value.
template <class Visit>
void for_matrix_values(const Operands& operands, const Visit& visit) {
  const auto at = [&](int lane) -> MatrixOperand& {
    return *static_cast<MatrixOperand*>(operands[static_cast<size_t>(lane)]);
  };
  const MatrixOperand& first = at(0);
  for (int m = 0; m < first.matrices; ++m) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int g = lane / 4, q = lane % 4;
      for (int half = 0; half < 2; ++half) {
        const int row = first.transposed ? 2 * q + half : g;
        const int column = first.transposed ? g : 2 * q + half;
        visit(at(lane).registers[m], half, at(8 * m + row).row + 2 * column);
      }
    }
  }
}

void load_matrices(const Operands& operands, uint32_t) {
  for_matrix_values(operands, [](uint32_t& reg, int half, const char* value) {
    uint16_t bits;
    std::memcpy(&bits, value, 2);
    reg = half == 0 ? bits : (reg & 0xffff) | static_cast<uint32_t>(bits) << 16;
  });
}

void store_matrices(const Operands& operands, uint32_t) {
  for_matrix_values(operands, [](uint32_t reg, int half, char* value) {
    const uint16_t bits = static_cast<uint16_t>(half == 0 ? reg : reg >> 16);
    std::memcpy(value, &bits, 2);
  });
}

void move_matrices(WarpOpKind kind, uint32_t* registers, void* row, int matrices, bool transposed, Site site,
                   uintptr_t where) {
  Machine& machine = Machine::current();
  if (machine.self().lane < 8 * matrices) {
    const char* name = kind == WarpOpKind::kLoadMatrix ? "ldmatrix" : "stmatrix";
    if (!machine.is_shared(row, 16))
      machine.fault("lane ", machine.self().lane, " gives the ", name, " of ", site,
                    " an address outside shared memory");
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
      machine.fault("lane ", machine.self().lane, " gives the ", name, " of ", site,
                    " an address that is not a multiple of 16 bytes");
    machine.note(kind == WarpOpKind::kLoadMatrix ? Access::kRead : Access::kWrite,
                 reinterpret_cast<uintptr_t>(row), 16, where);
  }
  MatrixOperand operand{registers, static_cast<char*>(row), matrices, transposed};
  machine.warp_op(kind, kAllLanes, site, &operand,
                  kind == WarpOpKind::kLoadMatrix ? load_matrices : store_matrices);
}

struct MultiplyOperand {
  float* d;
  const uint32_t *a, *b;
  const float* c;
};

// d = a b + c with a [16, K], b [K, 8]. The products are exact in float; they are added one after the other,
// in the order of k or, where the options say so, in an order drawn anew for each operation.
template <int K>
void multiply(const Operands& operands, const std::array<std::array<float, K>, 16>& a,
              const std::array<std::array<float, 8>, K>& b) {
  Machine& machine = Machine::current();
  std::array<size_t, K> order;
  for (size_t k = 0; k < K; ++k) order[k] = k;
  if (machine.options().shuffle_sums)
    for (size_t k = K; k > 1; --k) std::swap(order[k - 1], order[machine.random() % k]);
  std::array<std::array<float, 8>, 16> sum;
  const auto for_accumulators = [&](const auto& visit) {
    for (size_t lane = 0; lane < kWarpSize; ++lane) {
      auto& operand = *static_cast<MultiplyOperand*>(operands[lane]);
      const size_t g = lane / 4, q = lane % 4;
      for (size_t i = 0; i < 4; ++i) visit(operand, i, sum[g + i / 2 * 8][2 * q + i % 2]);
    }
  };
  for_accumulators([](MultiplyOperand& operand, size_t i, float& value) { value = operand.c[i]; });
  for (const size_t k : order)
    for (size_t i = 0; i < 16; ++i)
      for (size_t j = 0; j < 8; ++j) sum[i][j] += a[i][k] * b[k][j];
  for_accumulators([](MultiplyOperand& operand, size_t i, float& value) { operand.d[i] = value; });
}

// The matrices from the fragments of the lanes, V values in a register: value_of(register, which of them).
template <int V, class ValueOf>
void multiply_fragments(const Operands& operands, const ValueOf& value_of) {
  std::array<std::array<float, 8 * V>, 16> a;
  std::array<std::array<float, 8>, 8 * V> b;
  for (size_t lane = 0; lane < kWarpSize; ++lane) {
    const auto& operand = *static_cast<MultiplyOperand*>(operands[lane]);
    const size_t g = lane / 4, q = lane % 4;
    for (size_t v = 0; v < V; ++v) {
      for (size_t r = 0; r < 4; ++r) a[g + r % 2 * 8][V * (q + r / 2 * 4) + v] = value_of(operand.a[r], v);
      for (size_t r = 0; r < 2; ++r) b[V * (q + r * 4) + v][g] = value_of(operand.b[r], v);
    }
  }
  multiply<8 * V>(operands, a, b);
}

void multiply_bf16(const Operands& operands, uint32_t) {
  multiply_fragments<2>(operands, [](uint32_t reg, size_t v) {
    return std::bit_cast<float>(v == 0 ? reg << 16 : reg & 0xffff0000u);
  });
}

void multiply_tf32(const Operands& operands, uint32_t) {
  multiply_fragments<1>(operands,
                        [](uint32_t reg, size_t) { return std::bit_cast<float>(reg & 0xffffe000u); });
}

}  // namespace

void load_matrix(uint32_t* registers, const void* row, int matrices, bool transposed, Site site) {
  move_matrices(WarpOpKind::kLoadMatrix, registers, const_cast<void*>(row), matrices, transposed, site,
                reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
}

void store_matrix(void* row, const uint32_t* registers, int matrices, bool transposed, Site site) {
  move_matrices(WarpOpKind::kStoreMatrix, const_cast<uint32_t*>(registers), row, matrices, transposed, site,
                reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
}

void mma_bf16(float* d, const uint32_t* a, const uint32_t* b, const float* c, Site site) {
  MultiplyOperand operand{d, a, b, c};
  Machine::current().warp_op(WarpOpKind::kMultiply, kAllLanes, site, &operand, multiply_bf16);
}

void mma_tf32(float* d, const uint32_t* a, const uint32_t* b, const float* c, Site site) {
  MultiplyOperand operand{d, a, b, c};
  Machine::current().warp_op(WarpOpKind::kMultiply, kAllLanes, site, &operand, multiply_tf32);
}

}  // namespace rookery::emulator
