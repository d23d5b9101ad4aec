// inspect.h: what a token set looks like, for people: `rookery data inspect`.
#pragma once

#include <cstdint>
#include <vector>

#include "data/dataset/token_set.h"

namespace rookery::data {

struct InspectReport {
  int64_t sampled_tokens = 0, sampled_docs = 0;  // what was looked at; large sets are sampled evenly
  int32_t min_id = 0, max_id = 0;
  int64_t distinct_ids = 0;
  int64_t longest_run = 0;  // of one id
  int32_t longest_run_id = 0;
  int64_t shortest_doc = 0, longest_doc = 0;  // tokens, of the sampled documents
  double mean_doc = 0;
  std::vector<int64_t>
      length_histogram;      // [i]: documents of 2^i to 2^(i+1) - 1 tokens; [0] holds empty ones too
  int64_t bare_docs = 0;     // sampled documents without text: nothing, or the end token alone
  int64_t unended_docs = 0;  // sampled documents that do not end with the end token
};

// Reads at most 16 Mi tokens and about a million documents.
InspectReport inspect_token_set(const TokenSet& set);

}  // namespace rookery::data
