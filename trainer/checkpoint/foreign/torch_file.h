// torch_file.h: .pth files, as PyTorch 1.6 and later write them: a zip archive (zip_file.h) of a pickle
// (pickle.h) and raw storages.
#pragma once

#include "kernels/base/io.h"
#include "trainer/checkpoint/foreign/tensor_file.h"

namespace rookery::foreign {

// Errors: WTS-02 (archive), WTS-03 (pickle), WTS-04 (a tensor that its storage does not hold, by name),
// WTS-01 (TorchScript).
std::unique_ptr<TensorFile> open_torch_file(io::InputFile file);

// Loads with torch.load(weights_only=True, mmap=True) and in the RWKV runners. Every type but U16, U32, U64,
// C64 and the 8-bit floats.
std::unique_ptr<TensorWriter> write_torch_file(const fs::path& path, std::vector<TensorInfo> tensors);

}  // namespace rookery::foreign
