// vocab_trainer.h: learns a vocabulary for greedy longest match. Candidates are counted in a sample
// (candidates.h), then the least useful are dropped and better ones put back over several rounds, each judged
// by what the greedy encoder really does.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/vocabulary.h"
#include "kernels/base/parallel.h"

namespace rookery::data {

// Text of one language, or of anything that deserves its own share of the vocabulary: text_sample.h takes it
// from files.
struct LanguageSample {
  std::string name;
  std::string text;
};

struct VocabTraining {
  // Rows of the model's embedding: id 0 is the end of text, ids 1 to vocab_size - 1 are learned. 258..65536.
  int32_t vocab_size = 8192;
  // Each language weighs the same however much text it has (a small sample counts up to four times); else by
  // its bytes.
  bool equal_languages = true;
  // Called with a line of text as the work goes on; may be empty.
  std::function<void(const std::string&)> progress = {};
};

// The vocab_size - 1 entries with ids from 1 on: all 256 single bytes, then by (length, bytes), as in the
// World vocabulary. The same for the same samples, whatever the number of threads. Throws kData (VOCAB-11)
// where the text is too small to hold that many useful strings. Memory: about 20 bytes per byte of sample.
std::vector<VocabEntry> train_vocabulary(const std::vector<LanguageSample>& samples,
                                         const VocabTraining& options, ThreadPool& pool);

// What a tokenizer makes of a text.
struct TokenStatistics {
  int64_t bytes = 0, tokens = 0, characters = 0;
  int64_t whole_characters = 0;  // characters that no token boundary cuts
  double bytes_per_token() const {
    return tokens > 0 ? static_cast<double>(bytes) / static_cast<double>(tokens) : 0;
  }
  double coverage() const {
    return characters > 0 ? static_cast<double>(whole_characters) / static_cast<double>(characters) : 1;
  }
};
TokenStatistics token_statistics(const Tokenizer& tokenizer, std::string_view text);

}  // namespace rookery::data
