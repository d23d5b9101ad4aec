#include "trainer/eval/generator.h"

#include <algorithm>

#include "data/hdf5/hdf5.h"

namespace rookery::eval {
namespace h5 = data::h5;
namespace {

constexpr int64_t kPromptChunk = 256;  // tokens of a prompt in one pass
constexpr std::string_view kFormat = "rookery-state";

std::string dataset_of(const std::string& slot) { return "/state/" + slot; }
std::string history_of(const std::string& slot) { return "/history/" + slot; }

h5::Type type_of(const Tensor& t) {
  switch (t.dtype()) {
    case DType::kBF16:
      return h5::Type::kU16;  // its bits
    case DType::kF64:
      return h5::Type::kF64;
    case DType::kF32:
      return h5::Type::kF32;
    case DType::kI64:
      return h5::Type::kI64;
    case DType::kI32:
      return h5::Type::kI32;
    case DType::kU8:
      return h5::Type::kU8;
  }
  RK_CHECK(false, "[Generator] no type for ", t.dtype());
}

// The filled rows of the one sequence: [length, ...].
Tensor rows_of(const nn::SeqContext::History& history) {
  const std::vector<int64_t> dims(history.rows.shape().begin() + 1, history.rows.shape().end());
  return history.rows.reshape(Shape(std::span<const int64_t>(dims))).narrow(0, history.length);
}

}  // namespace

Generator::Generator(Model& model, Device& device) : model_(model), device_(device) { seq_.carry = true; }

void Generator::feed(std::span<const int32_t> tokens) {
  nn::Context cx{nullptr, seq_};
  while (!tokens.empty()) {
    // All but the last are read for what they leave behind; only after the last is a prediction wanted.
    const auto size = static_cast<int64_t>(tokens.size()),
               count = std::clamp<int64_t>(size - 1, 1, kPromptChunk);
    device_.arena().begin_step(size > 1 ? str("read ", count) : "token");  // the states outlive it
    {
      const Tensor ids =
          tensor_from(tokens.first(static_cast<size_t>(count)), {1, count}, DType::kI32, device_);
      if (size > 1) {
        model_.prefill(cx, ids);
      } else {
        logits_ = to_doubles(model_.logits(cx, ids).value());
      }
    }
    device_.arena().end_step();
    tokens = tokens.subspan(static_cast<size_t>(count));
  }
}

void Generator::save_state(const std::filesystem::path& path, const std::string& identity) const {
  h5::Writer file(path, "state");
  file.attribute("/", "format", kFormat);
  file.attribute("/", "format_version", uint32_t{1});
  file.attribute("/", "weights", identity);
  auto write = [&](const std::string& name, const Tensor& t) {
    file.dataset(name, type_of(t), {t.shape().begin(), t.shape().end()}, {t.raw(), t.bytes()});
  };
  for (const auto& [slot, state] : seq_.states()) write(dataset_of(slot), state.value());
  for (const auto& [slot, history] : seq_.histories()) write(history_of(slot), rows_of(history));
  file.dataset<double>("/logits", logits_);
  file.close();
}

void Generator::load_state(const std::filesystem::path& path, const std::string& identity) {
  const h5::Reader file(path);
  if (!file.has_attribute("/", "format") || file.text("/", "format") != kFormat)
    fail(ExitCode::kData, "GEN-04", path.string(),
         ": not a saved state; expected a file written by --state-out");
  if (file.text("/", "weights") != identity)
    fail(ExitCode::kData, "GEN-05", path.string(), ": the state of other weights (",
         file.text("/", "weights"), "), this is ", identity, ". Use it with the run that wrote it");
  // One pass over one token shows which slots there are and their shapes; of a history the file tells the
  // length.
  seq_.clear();
  const int32_t any = 0;
  feed(std::span<const int32_t>(&any, 1));
  auto read = [&](const std::string& name, const std::string& slot, const Tensor& like, bool any_length) {
    const auto& info = file.info(name);
    h5::Shape shape(like.shape().begin(), like.shape().end());
    if (any_length && info.shape.size() == shape.size()) shape[0] = info.shape[0];
    if (info.is_text || info.shape != shape || info.type != type_of(like) || shape[0] == 0)
      fail(ExitCode::kData, "GEN-06", path.string(), ": ", slot,
           " has another shape or type than the model's ", like.shape(), " of ", to_string(like.dtype()));
    const std::vector<int64_t> dims(shape.begin(), shape.end());
    const Tensor t = empty(Shape(std::span<const int64_t>(dims)), like.dtype(), device_);
    file.read(name, h5::Shape(shape.size(), 0), shape, {t.raw(), t.bytes()});
    return t;
  };
  std::vector<std::pair<std::string, Tensor>> states, histories;
  for (const auto& [slot, state] : seq_.states())
    states.emplace_back(slot, read(dataset_of(slot), slot, state.value(), false));
  for (const auto& [slot, history] : seq_.histories()) {
    histories.emplace_back(slot, read(history_of(slot), slot, rows_of(history), true));
    const int64_t length = histories.back().second.dim(0), expected = histories.front().second.dim(0);
    if (length != expected)
      fail(ExitCode::kData, "GEN-06", path.string(), ": ", slot, " holds ", length, " tokens, ",
           histories.front().first, " ", expected,
           "; expected the same number: the file was not written by --state-out");
    if (histories.back().second.dtype() != DType::kI32) continue;
    for (const int32_t id : histories.back().second.span<int32_t>())
      if (id < 0 || id >= model_.vocab_size())
        fail(ExitCode::kData, "GEN-06", path.string(), ": ", slot, " holds token ", id,
             ", expected 0 or more and below the model's vocab_size ", model_.vocab_size(),
             ": the file is damaged; make it again by --state-out");
  }
  for (const auto& [slot, t] : states) seq_.set(slot, Var(t));
  for (const auto& [slot, t] : histories) {
    std::vector<int64_t> dims{1};
    dims.insert(dims.end(), t.shape().begin(), t.shape().end());
    seq_.set_history(slot, {t.reshape(Shape(std::span<const int64_t>(dims))), t.dim(0)});
  }
  logits_ = file.read_vector<double>("/logits", logits_.size());
}

}  // namespace rookery::eval
