// text_sample.h: a sample of a language's files, small enough to learn a vocabulary from (vocab_trainer.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/text/documents.h"
#include "data/tokenizer/vocab_trainer.h"

namespace rookery::data {

// About `bytes` bytes of the files' text, from places spread evenly over them; all of it if there is no more.
// Documents are joined by line ends. Of plain text only the sampled places are read; JSON Lines are read
// through in constant memory. `options` tells the text field and what bad records and bad text do (kError
// throws, kSkip goes on: invalid bytes of plain text then belong to no token). Throws kData (VOCAB-10) where
// there is no text, and what the readers of data/text/ throw.
LanguageSample sample_language(std::string name, const std::vector<TextInput>& files,
                               const TextOptions& options, int64_t bytes);

}  // namespace rookery::data
