// tokenizer.cpp: the one place that tells the kinds of tokenizer files apart.
#include "data/tokenizer/tokenizer.h"

#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/vocab_tokenizer.h"
#include "kernels/base/io.h"

namespace rookery::data {

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path) {
  const std::string file = io::read_file(path, kMaxVocabularyFile), name = path.filename().string();
  const size_t first = file.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && file[first] == '{') return std::make_unique<BpeTokenizer>(file, name);
  return std::make_unique<VocabTokenizer>(file, name);
}

}  // namespace rookery::data
