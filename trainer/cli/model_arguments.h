// model_arguments.h: options of the commands that use a trained model: eval, generate.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "trainer/cli/command.h"
#include "trainer/loop/session.h"

namespace rookery::cli {

std::vector<Option> with_model_options(std::vector<Option> options);  // --run, --vocab, --threads
loop::Session load_model(const Arguments& a);
// --vocab, else the run's own. Throws kData when its ids do not fit the model.
std::unique_ptr<data::Tokenizer> load_vocabulary(const Arguments& a, loop::Session& session);
// Throws kData when a token is not below the model's vocab_size; `place` tells where the tokens are from.
void check_ids(std::span<const int32_t> ids, loop::Session& session, std::string_view place);

}  // namespace rookery::cli
