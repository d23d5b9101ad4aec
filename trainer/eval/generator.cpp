#include "trainer/eval/generator.h"

#include "data/hdf5/hdf5.h"
#include "kernels/ops/matmul/matmul.h"

namespace rookery::eval {
namespace h5 = data::h5;
namespace {

constexpr int64_t kPromptChunk = 256;  // tokens of a prompt in one pass
constexpr std::string_view kFormat = "rookery-state";

std::string dataset_of(const std::string& slot) { return "/state/" + slot; }

h5::Type type_of(const Tensor& t) { return t.dtype() == DType::kF64 ? h5::Type::kF64 : h5::Type::kF32; }

}  // namespace

Generator::Generator(Model& model, Device& device) : model_(model), device_(device) { seq_.carry = true; }

void Generator::feed(std::span<const int32_t> tokens) {
  while (!tokens.empty()) {
    const auto count = std::min<int64_t>(kPromptChunk, static_cast<int64_t>(tokens.size()));
    nn::Context cx{nullptr, seq_};
    const Tensor hidden = model_
                              .hidden(cx, tensor_from(tokens.first(static_cast<size_t>(count)), {1, count},
                                                      DType::kI32, device_))
                              .value();
    tokens = tokens.subspan(static_cast<size_t>(count));
    if (!tokens.empty()) continue;
    const Tensor last = hidden.reshape({count, hidden.dim(2)}).narrow(count - 1, 1);
    logits_ = to_doubles(ops::linear(last, Var(model_.head().master)).value());
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
  // One pass over one token shows which slots there are and their shapes.
  const int32_t any = 0;
  feed(std::span<const int32_t>(&any, 1));
  std::vector<std::pair<std::string, Tensor>> states;
  for (const auto& [slot, state] : seq_.states()) {
    const Tensor t = empty_like(state.value());
    const h5::Shape shape(t.shape().begin(), t.shape().end());
    const auto& info = file.info(dataset_of(slot));
    if (info.is_text || info.shape != shape || info.type != type_of(t))
      fail(ExitCode::kData, "GEN-06", path.string(), ": ", slot,
           " has another shape or type than the model's ", t.shape(), " of ", to_string(t.dtype()));
    file.read(dataset_of(slot), h5::Shape(shape.size(), 0), shape, {t.raw(), t.bytes()});
    states.emplace_back(slot, t);
  }
  for (const auto& [slot, t] : states) seq_.set(slot, Var(t));
  logits_ = file.read_vector<double>("/logits", logits_.size());
}

}  // namespace rookery::eval
