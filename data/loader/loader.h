// loader.h: batches of windows, read ahead by a thread. Which window a sample is: data/sampler/. Files:
// data/dataset/.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset/token_set.h"
#include "data/sampler/mixture.h"
#include "data/sampler/sampler.h"

namespace rookery::data {

struct Batch {
  int64_t rows = 0, seq_len = 0;   // B, T
  std::vector<int32_t> x, y;       // [B,T]: y[b,t] is the token after x[b,t]
  std::vector<uint8_t> doc_start;  // [B,T]: 1 where x[b,t] is the first token of a document. A row that
                                   // begins inside a document has 0 at t = 0: whether its state starts from
                                   // zero there is the trainer's choice.
  std::vector<int64_t> samples;    // [B]: global sample numbers
  std::vector<int32_t> document;   // [B]: of a part of the rows: where in its row the document of the token
                                   // before the part begins; empty: parts that begin at 0
};
// The part-th of `parts` equal parts of the tokens of each row.
Batch part_of(const Batch& batch, int64_t part, int64_t parts);

struct LoaderSource {
  std::shared_ptr<const TokenSet> set;
  double weight = 1;  // share of the tokens, normalised over the sources
  std::string name;
};

struct LoaderOptions {
  SamplerOptions sampling;
  int64_t vocab_size = 0;        // of the model: every id is checked against it
  std::string tokenizer_sha256;  // of the run; empty: not compared
  int64_t rank = 0, world = 1;   // this rank reads samples first + j * world + rank
  int64_t prefetch = 4;          // batches read ahead
};

class Loader {
 public:
  // Throws what make_sampler and Mixture throw; kData (DATA-06) when a set's ids do not fit the vocabulary,
  // kData (DATA-11) when a set was made with another tokenizer.
  Loader(std::vector<LoaderSource> sources, LoaderOptions options);
  ~Loader();  // stops the thread

  // Row j is global sample first + j * world + rank. While each call begins where the one before it ended
  // (first + rows * world) with as many rows, batches come from the queue; any other call drops the queue and
  // begins anew there. Throws kData with source, document and position on an id that is not below vocab_size,
  // and what TokenSet::read throws.
  Batch next(int64_t first, int64_t rows);
  // The same batch, read by the caller: a pure function of its arguments.
  Batch read(int64_t first, int64_t rows) const;

  // Seconds that next() has waited in total.
  double wait_seconds() const;
  // The source whose rows took most of the reading time so far.
  std::string slowest_source() const;
  // Samples after which every window of a source was seen once, and how many of the first n samples each
  // source gives.
  int64_t samples_per_epoch(size_t source) const { return samplers_[source]->samples_per_epoch(); }
  std::vector<int64_t> samples_by_source(int64_t n) const { return mixture_.counts(n); }
  const std::vector<LoaderSource>& sources() const { return sources_; }
  // What the user should know, e.g. one file named twice.
  const std::vector<std::string>& warnings() const { return warnings_; }
  // Throws kData when a file was changed or replaced since it was opened.
  void check_unchanged() const;

 private:
  struct Ahead;  // the thread and its queue
  void check_sources();

  std::vector<LoaderSource> sources_;
  LoaderOptions options_;
  Mixture mixture_;
  std::vector<std::unique_ptr<Sampler>> samplers_;
  std::vector<std::string> warnings_;
  mutable std::vector<std::atomic<int64_t>> read_ns_;  // time in the rows of each source
  std::unique_ptr<Ahead> ahead_;
};

// A batch of so many windows of T tokens of one set, from these positions on; samples are the numbers
// of the windows. Throws as Loader::next does.
Batch read_windows(const TokenSet& set, std::span<const int64_t> starts, int64_t seq_len, int64_t vocab_size);

// Throws kData (DATA-06) with document and position when one of `tokens`, which stand at `start` of the set,
// is not below vocab_size.
void check_ids(const TokenSet& set, int64_t start, std::span<const int32_t> tokens, int64_t vocab_size);

// Throws kData (DATA-11) when the set tells its tokenizer and it is another than `sha256`.
void check_tokenizer(const TokenSet& set, std::string_view sha256);

}  // namespace rookery::data
