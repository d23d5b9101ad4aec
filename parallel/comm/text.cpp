#include "parallel/comm/text.h"

#include <algorithm>

namespace rookery {

std::vector<std::string> exchange_texts(Communicator& comm, std::string_view mine) {
  if (comm.size() == 1) return {std::string(mine)};
  Device device(DeviceType::kCpu, 1);
  const auto size = static_cast<int64_t>(mine.size());
  const Tensor sizes = empty({comm.size()}, DType::kI64, device);
  comm.all_gather(tensor_from(std::span<const int64_t>(&size, 1), {1}, DType::kI64, device), sizes);
  const std::span<const int64_t> all = sizes.span<int64_t>();
  const int64_t width = std::max<int64_t>(1, *std::ranges::max_element(all));
  const Tensor padded = zeros({width}, DType::kU8, device),
               texts = empty({comm.size() * width}, DType::kU8, device);
  std::ranges::copy(mine, reinterpret_cast<char*>(padded.raw()));
  comm.all_gather(padded, texts);
  std::vector<std::string> result;
  for (const int64_t n : all)
    result.emplace_back(
        reinterpret_cast<const char*>(texts.raw()) + static_cast<int64_t>(result.size()) * width,
        static_cast<size_t>(n));
  return result;
}

std::string broadcast_text(Communicator& comm, std::string_view text, int root) {
  if (comm.size() == 1) return std::string(text);
  Device device(DeviceType::kCpu, 1);
  const auto size = static_cast<int64_t>(text.size());
  const Tensor length = tensor_from(std::span<const int64_t>(&size, 1), {1}, DType::kI64, device);
  comm.broadcast(length, root);
  const int64_t n = length.span<int64_t>()[0];
  const Tensor bytes = zeros({std::max<int64_t>(1, n)}, DType::kU8, device);
  if (comm.rank() == root) std::ranges::copy(text, reinterpret_cast<char*>(bytes.raw()));
  comm.broadcast(bytes, root);
  return {reinterpret_cast<const char*>(bytes.raw()), static_cast<size_t>(n)};
}

}  // namespace rookery
