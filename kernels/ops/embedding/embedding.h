// embedding.h: rows of a table by token id. Bodies: embedding_cpu.cpp, embedding_cuda.cu.
#pragma once

#include "kernels/autograd/autograd.h"
#include "kernels/ops/backend.h"

namespace rookery::ops {

// y[b, t] = table[ids[b, t] - first], zeros where the table has no such row: it may be a slice of the
// vocabulary. ids: i32 [B, T], each in [0, words of the vocabulary) (checked by the caller); table: [V, C];
// y: [B, T, C]. The gradient adds rows in the order of the tokens: the same bits at any number of threads.
Var embedding(const Tensor& ids, const Var& table, int64_t first = 0);

}  // namespace rookery::ops

namespace rookery {
struct EmbeddingArgs {
  Tensor ids, table, y;
  int64_t first;  // id of the first row
};
struct EmbeddingGrad {
  Tensor ids, dy;
  int64_t first;
  GradTarget dtable;
  Tensor order;  // on a GPU: i32 [B, T], scratch
};
RK_BACKENDS_GPU(void embedding_forward(const EmbeddingArgs&))
RK_BACKENDS_GPU(void embedding_backward(const EmbeddingGrad&))
}  // namespace rookery
