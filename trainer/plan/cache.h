// cache.h: the memory that generation keeps between two tokens: of any model by running it, and by the
// formulas of the GoldFinch paper (goldfinch 10).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/models/model.h"

namespace rookery::plan {

struct CacheSize {
  int64_t used = 0;   // bytes of states, and of what is kept of every token
  int64_t taken = 0;  // memory that the device gave for them, room to grow included
};
// After a text of so many tokens, read as a prompt is read. On the meta device nothing is computed and no
// memory is taken, but the sizes are the same.
CacheSize measure_cache(Model& model, Device& device, int64_t tokens);

// Numbers that generation keeps per token; an entry of the paper is one number of 2 bytes.
double transformer_entries(int64_t layers, int64_t width);  // keys and values of every layer: 2 D L
double goldfinch_entries(int64_t width, int64_t bytes_of_a_token_id);  // D / 16 + the token id

// The paper's table of caches for 262144 tokens, L 32, D 4096, heads of 128 channels.
struct PaperRow {
  std::string architecture, formula;  // as printed
  double entries;                     // its value
  double printed_gb;
};
inline constexpr int64_t kPaperTokens = 262144;
std::vector<PaperRow> paper_table();

}  // namespace rookery::plan
