// pickle.cpp: the restricted machine, one function per kind of opcode; and the writer of one fixed shape.
// Opcodes: formats.md 6.2; Python's own table is Lib/pickletools.py.
#include "trainer/checkpoint/foreign/pickle.h"

#include <array>
#include <bit>
#include <unordered_map>

#include "data/tokenizer/utf8.h"
#include "kernels/base/error.h"
#include "trainer/checkpoint/foreign/little_endian.h"

namespace rookery::foreign {
namespace {

using Kind = PickleValue::Kind;

constexpr size_t kMaxTextBytes = 1u << 20, kMaxObjects = 4'000'000, kMaxMarks = 64, kMaxDims = 16;

enum Op : uint8_t {
  kMark = '(',
  kStop = '.',
  kBinFloat = 'G',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kShortBinString = 'U',
  kBinUnicode = 'X',
  kEmptyList = ']',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyTuple = ')',
  kEmptyDict = '}',
  kProto = 0x80,
  kNewObj = 0x81,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kEmptySet = 0x8f
};

struct StorageRow {
  std::string_view global, name;
  Type type;
};
constexpr std::array kStorages = {StorageRow{"torch FloatStorage", "FloatStorage", Type::kF32},
                                  StorageRow{"torch HalfStorage", "HalfStorage", Type::kF16},
                                  StorageRow{"torch BFloat16Storage", "BFloat16Storage", Type::kBf16},
                                  StorageRow{"torch DoubleStorage", "DoubleStorage", Type::kF64},
                                  StorageRow{"torch LongStorage", "LongStorage", Type::kI64},
                                  StorageRow{"torch IntStorage", "IntStorage", Type::kI32},
                                  StorageRow{"torch ShortStorage", "ShortStorage", Type::kI16},
                                  StorageRow{"torch CharStorage", "CharStorage", Type::kI8},
                                  StorageRow{"torch ByteStorage", "ByteStorage", Type::kU8},
                                  StorageRow{"torch BoolStorage", "BoolStorage", Type::kBool}};

constexpr std::string_view kOrderedDict = "collections OrderedDict",
                           kRebuildTensor = "torch._utils _rebuild_tensor",
                           kRebuildTensor2 = "torch._utils _rebuild_tensor_v2",
                           kRebuildParameter = "torch._utils _rebuild_parameter",
                           kParameter = "torch.nn.parameter Parameter", kSize = "torch Size",
                           kDevice = "torch device";
// The text of an accepted global lives here, not in the pickle.
constexpr std::array kCallables = {kOrderedDict, kRebuildTensor, kRebuildTensor2, kRebuildParameter,
                                   kParameter,   kSize,          kDevice};

class Machine {
 public:
  Machine(std::string_view bytes, const std::string& place) : bytes_(bytes), place_(place) {}

  Unpickled run() {
    if (bytes_.size() > kMaxPickleBytes) bad(bytes_.size(), " bytes, expected at most ", kMaxPickleBytes);
    while (true) {
      op_at_ = at_;
      const auto op = take<uint8_t>();
      if (op == kStop) break;
      step(op);
    }
    if (at_ != bytes_.size()) bad(bytes_.size() - at_, " bytes after the end of the pickle");
    if (stack_.size() != 1 || marks_ != 0) bad("the pickle ends with ", stack_.size(), " values, expected 1");
    out_.root = stack_[0];
    return std::move(out_);
  }

 private:
  template <class... Args>
  [[noreturn]] void bad(const Args&... what) const {
    fail(ExitCode::kData, "WTS-03", place_, ": byte ", op_at_, ": ", str(what...),
         ". Nothing of the file was executed");
  }

  // ---- the bytes

  std::string_view take_bytes(uint64_t count) {
    if (count > bytes_.size() - at_)
      bad("needs ", count, " bytes, the pickle has ", bytes_.size() - at_, " left");
    const std::string_view taken = bytes_.substr(at_, count);
    at_ += count;
    return taken;
  }
  template <class T>
  T take() {
    return load<T>(take_bytes(sizeof(T)), 0);
  }
  std::string_view take_line() {
    const size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos || end - at_ > kMaxTextBytes) bad("a name without an end");
    const std::string_view line = bytes_.substr(at_, end - at_);
    at_ = end + 1;
    return line;
  }
  std::string_view take_text(uint64_t count) {
    if (count > bytes_.size() - at_ || count > kMaxTextBytes)
      bad("a text of ", count, " bytes, the pickle has ", bytes_.size() - at_, " left and the limit is ",
          kMaxTextBytes);
    return take_bytes(count);
  }

  // ---- the stack

  void push(PickleValue value) {
    // Each opcode pushes one value at most, so this bounds every table.
    if (++objects_ > kMaxObjects) bad("more than ", kMaxObjects, " values");
    stack_.push_back(value);
  }
  PickleValue pop() {
    if (stack_.empty() || stack_.back().kind == Kind::kMark) bad("too few values on the stack");
    const PickleValue value = stack_.back();
    stack_.pop_back();
    return value;
  }
  PickleValue& top() {
    if (stack_.empty() || stack_.back().kind == Kind::kMark) bad("too few values on the stack");
    return stack_.back();
  }
  PickleItems pop_to_mark() {
    size_t begin = stack_.size();
    while (begin > 0 && stack_[begin - 1].kind != Kind::kMark) --begin;
    if (begin == 0) bad("no mark on the stack");
    PickleItems items(stack_.begin() + long(begin), stack_.end());
    stack_.resize(begin - 1);
    --marks_;
    return items;
  }
  PickleItems pop_some(size_t count) {
    PickleItems items(count);
    for (size_t i = count; i-- > 0;) items[i] = pop();
    return items;
  }
  void push_collection(Kind kind, PickleItems items) {
    out_.collections.push_back(std::move(items));
    push({.kind = kind, .index = out_.collections.size() - 1});
  }
  PickleItems& items_of(const PickleValue& value) { return out_.collections[value.index]; }
  PickleItems& top_collection(Kind kind, std::string_view what) {
    if (top().kind != kind) bad("expected ", what, " on the stack");
    return items_of(top());
  }

  // ---- what the opcodes do

  void step(uint8_t op) {
    switch (op) {
      case kProto:
        if (const auto version = take<uint8_t>(); version != 2)
          bad("protocol ", int(version),
              ", expected 2; mend it by saving with torch.save's default protocol");
        return;
      case kMark:
        if (++marks_ > kMaxMarks) bad("more than ", kMaxMarks, " levels");
        return push({.kind = Kind::kMark});
      case kNone:
        return push({});
      case kNewTrue:
      case kNewFalse:
        return push({.kind = Kind::kBool, .number = op == kNewTrue});
      case kBinInt:
        return push_int(take<int32_t>());
      case kBinInt1:
        return push_int(take<uint8_t>());
      case kBinInt2:
        return push_int(take<uint16_t>());
      case kLong1:
        return push_long();
      case kBinFloat:
        return push(
            {.kind = Kind::kFloat, .real = std::bit_cast<double>(__builtin_bswap64(take<uint64_t>()))});
      case kBinUnicode:
        return push_text(take_text(take<uint32_t>()));
      case kShortBinString:
        return push_text(take_text(take<uint8_t>()));
      case kEmptyTuple:
        return push_collection(Kind::kTuple, {});
      case kEmptyList:
        return push_collection(Kind::kList, {});
      case kEmptySet:
        return push_collection(Kind::kSet, {});
      case kEmptyDict:
        return push_collection(Kind::kDict, {});
      case kTuple:
        return push_collection(Kind::kTuple, pop_to_mark());
      case kTuple1:
      case kTuple2:
      case kTuple3:
        return push_collection(Kind::kTuple, pop_some(size_t(op - kTuple1 + 1)));
      case kAppend: {
        const PickleValue value = pop();
        top_collection(Kind::kList, "a list").push_back(value);
        return;
      }
      case kAppends:
        return extend(top_after_mark(Kind::kList, "a list"));
      case kSetItem: {
        PickleItems pair = pop_some(2);
        items_ = std::move(pair);
        return extend_dict(top_collection(Kind::kDict, "a dictionary"));
      }
      case kSetItems:
        return extend_dict(top_after_mark(Kind::kDict, "a dictionary"));
      case kBinPut:
        return put(take<uint8_t>());
      case kLongBinPut:
        return put(take<uint32_t>());
      case kBinGet:
        return get(take<uint8_t>());
      case kLongBinGet:
        return get(take<uint32_t>());
      case kGlobal:
        return push_global();
      case kBinPersId:
        return push_storage();
      case kReduce:
        return reduce();
      case kNewObj:
        return new_object();
      case kBuild:
        // The state of a state dict (its `_metadata`) does not concern the weights.
        pop();
        top_collection(Kind::kDict, "a dictionary");
        return;
      default:
        bad("opcode ", hex(op), " is not on the list of those that a state dict needs");
    }
  }

  static std::string hex(uint8_t op) {
    constexpr const char* kDigits = "0123456789abcdef";
    return {'0', 'x', kDigits[op >> 4], kDigits[op & 15]};
  }

  void push_int(int64_t value) { push({.kind = Kind::kInt, .number = value}); }
  void push_long() {
    const std::string_view digits = take_bytes(take<uint8_t>());
    if (digits.size() > 8) bad("an integer of ", digits.size(), " bytes, expected at most 8");
    uint64_t value = digits.empty() || !(uint8_t(digits.back()) & 0x80) ? 0 : ~uint64_t{0};
    for (size_t i = digits.size(); i-- > 0;) value = value << 8 | uint8_t(digits[i]);
    push_int(int64_t(value));
  }
  void push_text(std::string_view text) {
    if (data::find_invalid_utf8(text) != std::string_view::npos) bad("a text that is not UTF-8");
    push({.kind = Kind::kText, .text = text});
  }

  PickleItems& top_after_mark(Kind kind, std::string_view what) {
    items_ = pop_to_mark();
    return top_collection(kind, what);
  }
  void extend(PickleItems& list) { list.insert(list.end(), items_.begin(), items_.end()); }
  void extend_dict(PickleItems& dict) {
    if (items_.size() % 2 != 0) bad("a key without a value");
    extend(dict);
  }

  void put(uint32_t slot) {
    memo_[slot] = top();
    if (memo_.size() > kMaxObjects) bad("more than ", kMaxObjects, " memo entries");
  }
  void get(uint32_t slot) {
    const auto it = memo_.find(slot);
    if (it == memo_.end()) bad("memo entry ", slot, " was never put");
    push(it->second);
  }

  void push_global() {
    const std::string_view module = take_line(), name = take_line();
    const std::string global = str(module, " ", name);
    for (const StorageRow& row : kStorages)
      if (row.global == global) return push({.kind = Kind::kGlobal, .text = row.global});
    for (const std::string_view callable : kCallables)
      if (callable == global) return push({.kind = Kind::kGlobal, .text = callable});
    bad("the pickle asks for the global '", printable_name(global), "', which no state dict needs");
  }
  // A hostile name must not steer a terminal.
  static std::string printable_name(std::string_view name) {
    std::string text;
    for (const char c : name.substr(0, 200)) text += c >= 0x20 && c < 0x7f ? c : '?';
    return text;
  }

  void push_storage() {
    const PickleValue id = pop();
    if (id.kind != Kind::kTuple) bad("a persistent id that is no tuple");
    const PickleItems& parts = items_of(id);
    const bool sound = parts.size() == 5 && parts[0].kind == Kind::kText && parts[0].text == "storage" &&
                       parts[1].kind == Kind::kGlobal && parts[2].kind == Kind::kText &&
                       parts[3].kind == Kind::kText && parts[4].kind == Kind::kInt;
    if (!sound) bad("a persistent id that is not ('storage', type, key, device, numel)");
    for (const StorageRow& row : kStorages)
      if (row.global == parts[1].text) {
        out_.storages.push_back({row.type, parts[2].text, parts[4].number});
        return push({.kind = Kind::kStorage, .index = out_.storages.size() - 1});
      }
    bad("'", parts[1].text, "' is no type of storage");
  }

  std::vector<int64_t> integers(const PickleValue& value, std::string_view what) {
    if (value.kind != Kind::kTuple) bad(what, " of a tensor is no tuple");
    const PickleItems& items = items_of(value);
    if (items.size() > kMaxDims)
      bad(what, " of a tensor has ", items.size(), " entries, expected at most ", kMaxDims);
    std::vector<int64_t> numbers;
    for (const PickleValue& item : items) {
      if (item.kind != Kind::kInt) bad(what, " of a tensor holds something else than integers");
      numbers.push_back(item.number);
    }
    return numbers;
  }

  void push_tensor(const PickleItems& a) {
    if (a.size() < 4 || a[0].kind != Kind::kStorage || a[1].kind != Kind::kInt)
      bad("a tensor that is not made of (storage, offset, size, stride, ...)");
    out_.tensors.push_back({out_.storages[a[0].index], a[1].number, integers(a[2], "the size"),
                            integers(a[3], "the stride"), op_at_});
    push({.kind = Kind::kTensor, .index = out_.tensors.size() - 1});
  }

  void reduce() {
    const PickleValue arguments = pop(), callable = pop();
    if (callable.kind != Kind::kGlobal || arguments.kind != Kind::kTuple)
      bad("a call of something that is no global, or without a tuple of arguments");
    const PickleItems& a = items_of(arguments);
    const std::string_view name = callable.text;
    if (name == kOrderedDict && a.empty()) return push_collection(Kind::kDict, {});
    if (name == kRebuildTensor || name == kRebuildTensor2) return push_tensor(a);
    if (name == kRebuildParameter && !a.empty() && a[0].kind == Kind::kTensor) return push(a[0]);
    if (name == kSize && a.size() == 1 && a[0].kind == Kind::kTuple) return push(a[0]);
    if (name == kDevice && !a.empty() && a[0].kind == Kind::kText) return push(a[0]);
    bad("'", name, "' with arguments that it does not have in a state dict");
  }

  void new_object() {
    const PickleValue arguments = pop(), type = pop();
    if (type.kind != Kind::kGlobal || type.text != kParameter || arguments.kind != Kind::kTuple ||
        items_of(arguments).empty() || items_of(arguments)[0].kind != Kind::kTensor)
      bad("an object other than torch.nn.parameter.Parameter(tensor)");
    push(items_of(arguments)[0]);
  }

  std::string_view bytes_;
  const std::string& place_;
  uint64_t at_ = 0, op_at_ = 0;
  size_t objects_ = 0, marks_ = 0;
  PickleItems stack_, items_;
  std::unordered_map<uint32_t, PickleValue> memo_;  // not a vector: a far slot must not cost memory
  Unpickled out_;
};

// ---- writing

class Pickler {
 public:
  std::string run(std::span<const TensorInfo> tensors) {
    out_ = "\x80\x02}";
    memoize();
    if (tensors.size() > 1) out_ += char(kMark);
    for (size_t i = 0; i < tensors.size(); ++i) tensor(tensors[i], i);
    if (!tensors.empty()) out_ += char(tensors.size() > 1 ? kSetItems : kSetItem);
    out_ += char(kStop);
    return std::move(out_);
  }

 private:
  void memoize() {
    if (next_ < 256) {
      out_ += char(kBinPut);
      store<uint8_t>(out_, uint8_t(next_));
    } else {
      out_ += char(kLongBinPut);
      store<uint32_t>(out_, next_);
    }
    ++next_;
  }
  void text(std::string_view value) {
    out_ += char(kBinUnicode);
    store<uint32_t>(out_, uint32_t(value.size()));
    out_ += value;
    memoize();
  }
  void global(std::string_view name) {
    out_ += char(kGlobal);
    const size_t cut = name.find(' ');
    out_ += str(name.substr(0, cut), "\n", name.substr(cut + 1), "\n");
    memoize();
  }
  void integer(uint64_t value) {
    if (value < 256) {
      out_ += char(kBinInt1);
      store<uint8_t>(out_, uint8_t(value));
    } else if (value < 65536) {
      out_ += char(kBinInt2);
      store<uint16_t>(out_, uint16_t(value));
    } else if (value < (uint64_t{1} << 31)) {
      out_ += char(kBinInt);
      store<int32_t>(out_, int32_t(value));
    } else {
      std::string digits;
      for (uint64_t rest = value; rest; rest >>= 8) digits += char(rest & 255);
      if (uint8_t(digits.back()) & 0x80) digits += '\0';  // two's complement: not negative
      out_ += char(kLong1);
      store<uint8_t>(out_, uint8_t(digits.size()));
      out_ += digits;
    }
  }
  void integers(const Dims& values) {
    if (values.empty()) {
      out_ += char(kEmptyTuple);
      return;
    }
    if (values.size() > 3) out_ += char(kMark);
    for (const uint64_t v : values) integer(v);
    out_ += values.size() > 3 ? char(kTuple) : char(kTuple1 + values.size() - 1);
    memoize();
  }
  void tensor(const TensorInfo& t, size_t index) {
    text(t.name);
    global(kRebuildTensor2);
    out_ += {char(kMark), char(kMark)};
    text("storage");
    for (const StorageRow& row : kStorages)
      if (row.type == t.type) global(row.global);
    text(std::to_string(index));
    text("cpu");
    integer(*numel_of(t.shape));
    out_ += char(kTuple);
    memoize();
    out_ += char(kBinPersId);
    integer(0);
    integers(t.shape);
    Dims stride(t.shape.size(), 1);
    for (size_t a = stride.size(); a-- > 1;) stride[a - 1] = stride[a] * t.shape[a];
    integers(stride);
    out_ += char(kNewFalse);
    global(kOrderedDict);
    out_ += char(kEmptyTuple);
    out_ += char(kReduce);
    memoize();
    out_ += char(kTuple);
    memoize();
    out_ += char(kReduce);
    memoize();
  }

  std::string out_;
  uint32_t next_ = 0;
};

}  // namespace

Unpickled unpickle(std::string_view bytes, const std::string& place) { return Machine(bytes, place).run(); }

std::string pickle_tensors(std::span<const TensorInfo> tensors) { return Pickler().run(tensors); }

}  // namespace rookery::foreign
