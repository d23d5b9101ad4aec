// pickle.h: the few opcodes of Python's pickles that a state dict of PyTorch is made of, as data. Nothing is
// ever called or looked up: a global is an identifier that is compared with a closed list, and the machine
// itself knows what each of them means. Next: torch_file.cpp, which holds the tensors against the storages.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/checkpoint/foreign/tensor_file.h"

namespace rookery::foreign {

// A persistent id: ('storage', torch.FloatStorage, '0', 'cpu', numel).
struct PickledStorage {
  Type type;
  std::string_view key;
  int64_t numel;
};

// torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...): as claimed, not yet checked.
struct PickledTensor {
  PickledStorage storage;
  int64_t offset = 0;  // elements
  std::vector<int64_t> size, stride;
  uint64_t opcode_offset = 0;  // of the REDUCE that makes it
};

struct PickleValue {
  enum class Kind : uint8_t {
    kMark,
    kNone,
    kBool,
    kInt,
    kFloat,
    kText,
    kGlobal,
    kTuple,
    kList,
    kSet,
    kDict,
    kStorage,
    kTensor
  };
  Kind kind = Kind::kNone;
  int64_t number = 0;          // kBool, kInt
  double real = 0;             // kFloat
  std::string_view text = {};  // kText, of the pickle; of kGlobal, "module name"
  size_t index = 0;            // of its table in Unpickled
};

// A dictionary keeps the order of its keys; keys and values alternate.
using PickleItems = std::vector<PickleValue>;

struct Unpickled {
  PickleValue root;
  std::deque<PickleItems> collections;  // of kTuple, kList, kSet, kDict
  std::deque<PickledStorage> storages;
  std::deque<PickledTensor> tensors;
};

inline constexpr uint64_t kMaxPickleBytes = 256u << 20;

// WTS-03 names the opcode's byte and what was found: another opcode or global, too few values on the stack, a
// memo entry that was never put, a text beyond the end. `bytes` must outlive the result. `place` stands for
// the pickle in messages. Memory: at most some 100 bytes per byte of the pickle, and 4M objects.
Unpickled unpickle(std::string_view bytes, const std::string& place);

// The pickle of {name: tensor}, tensor i in storage "i" of its own (formats.md 6.3).
std::string pickle_tensors(std::span<const TensorInfo> tensors);

}  // namespace rookery::foreign
