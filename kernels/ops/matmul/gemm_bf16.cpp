// gemm_bf16.cpp: matrix products through oneDNN. As with BLAS (gemm.cpp) each thread of the pool computes its
// own slab of C on one thread of the library, so there is one pool and the bits repeat. The operands are
// rounded as they lie: the library copies what it needs in another order, block by block, at no loss of
// speed.
#include "kernels/ops/matmul/gemm_bf16.h"

#ifndef ROOKERY_HAVE_ONEDNN

namespace rookery {
bool bf16_matmul_available() { return false; }
void parallel_gemm_bf16(Device&, int64_t, int64_t, int64_t, Operand<float>, Operand<float>, float, float*,
                        int64_t) {
  RK_CHECK(false, "[gemm_bf16] this build has no oneDNN");
}
}  // namespace rookery

#else

#include <omp.h>

#include <map>
#include <oneapi/dnnl/dnnl.hpp>

#include "kernels/ops/matmul/bf16.h"
#include "kernels/ops/matmul/slabs.h"
#include "kernels/tensor/tensor.h"

namespace rookery {
namespace {

constexpr auto kRound = RK_KERNEL(round_bf16);
using dnnl::memory;

// A [rows, columns] bf16 or float matrix; element (i, j) at i * row_stride + j * column_stride.
struct Layout {
  int64_t rows, columns, row_stride, column_stride;
  auto operator<=>(const Layout&) const = default;
  memory::desc desc(memory::data_type type) const {
    return {{rows, columns}, type, memory::dims{row_stride, column_stride}};
  }
};

struct ProductKey {
  Layout a, b, c;
  float beta;
  auto operator<=>(const ProductKey&) const = default;
};

struct Product {
  dnnl::matmul::primitive_desc desc;
  dnnl::matmul primitive;
};

// The library's handles and scratch of one thread: a pool's threads live as long as their device.
class Products {
 public:
  void run(const ProductKey& key, const uint16_t* a, const uint16_t* b, float* c) {
    const Product& p = product(key);
    scratch_.resize(std::max(scratch_.size(), p.desc.scratchpad_desc().get_size()));
    auto at = [&](const memory::desc& desc, const void* data) {
      return memory(desc, engine_, const_cast<void*>(data));
    };
    p.primitive.execute(stream_, {{DNNL_ARG_SRC, at(p.desc.src_desc(), a)},
                                  {DNNL_ARG_WEIGHTS, at(p.desc.weights_desc(), b)},
                                  {DNNL_ARG_DST, at(p.desc.dst_desc(), c)},
                                  {DNNL_ARG_SCRATCHPAD, at(p.desc.scratchpad_desc(), scratch_.data())}});
    stream_.wait();
  }

 private:
  const Product& product(const ProductKey& key) {
    const auto found = products_.find(key);
    if (found != products_.end()) return found->second;
    if (products_.size() == kMostProducts) products_.clear();
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // one for all products of the thread
    if (key.beta != 0) {
      dnnl::post_ops sum;
      sum.append_sum(key.beta);
      attributes.set_post_ops(sum);
    }
    const dnnl::matmul::desc operation(key.a.desc(memory::data_type::bf16),
                                       key.b.desc(memory::data_type::bf16),
                                       key.c.desc(memory::data_type::f32));
    const dnnl::matmul::primitive_desc desc(operation, attributes, engine_);
    return products_.emplace(key, Product{desc, dnnl::matmul(desc)}).first->second;
  }

  static constexpr size_t kMostProducts = 1024;  // a step has some dozens; texts of any length have more
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::map<ProductKey, Product> products_;
  std::vector<std::byte> scratch_;
};

}  // namespace

bool bf16_matmul_available() {
  // The library may have been told to use less than the processor has (ONEDNN_MAX_CPU_ISA).
  constexpr auto kNeeded = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  return cpu_has_bf16() && (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & kNeeded) == kNeeded;
}

void parallel_gemm_bf16(Device& device, int64_t m, int64_t n, int64_t k, Operand<float> a, Operand<float> b,
                        float beta, float* c, int64_t ldc) {
  struct Rounded {
    int64_t rows, columns;  // as stored
    Tensor block;
    uint16_t* data() const { return reinterpret_cast<uint16_t*>(block.raw()); }
  };
  auto scratch = [&](const Operand<float>& from, int64_t rows, int64_t columns) {
    if (from.transposed) std::swap(rows, columns);
    return Rounded{rows, columns, empty({rows, columns, 2}, DType::kU8, device)};
  };
  const Rounded ra = scratch(a, m, k), rb = scratch(b, k, n);
  if (device.type() == DeviceType::kMeta) return;
  const int64_t threads = device.pool().num_threads();
  parallel_for(device.pool(), threads, 1, [&](int64_t begin, int64_t end) {
    auto round = [&](const Operand<float>& from, const Rounded& to) {
      const int64_t first = to.rows * begin / threads, last = to.rows * end / threads;
      kRound(device, {from.data + first * from.ld, from.ld, last - first, to.columns,
                      to.data() + first * to.columns, to.columns});
    };
    round(a, ra);
    round(b, rb);
  });

  const Operand<uint16_t> round_a{ra.data(), ra.columns, a.transposed},
      round_b{rb.data(), rb.columns, b.transposed};
  for_slabs(device, m, n, k, [&](const Slab& s) {
    auto layout = [](int64_t rows, int64_t columns, const Operand<uint16_t>& o) {
      return Layout{rows, columns, o.transposed ? 1 : o.ld, o.transposed ? o.ld : 1};
    };
    const ProductKey key{
        layout(s.rows, k, round_a), layout(k, s.columns, round_b), {s.rows, s.columns, ldc, 1}, beta};
    omp_set_num_threads(1);  // of this thread alone
    static thread_local Products products;
    products.run(key, round_a.from_row(s.row).data, round_b.from_column(s.column).data,
                 c + s.row * ldc + s.column);
  });
}

}  // namespace rookery

#endif
