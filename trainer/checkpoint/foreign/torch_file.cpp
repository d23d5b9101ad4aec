// torch_file.cpp: which map of the pickle holds the weights, what of the storages each tensor covers, and the
// gathering of tensors that are views.
#include "trainer/checkpoint/foreign/torch_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <set>

#include "kernels/base/error.h"
#include "trainer/checkpoint/foreign/pickle.h"
#include "trainer/checkpoint/foreign/zip_file.h"

namespace rookery::foreign {
namespace {

using Kind = PickleValue::Kind;

constexpr uint64_t kMaxRowBytes = 1u << 20;
// A view may be larger than what it shows (stride 0), but not without bound: memory follows the file's size.
constexpr uint64_t kLeastLimitBytes = 1u << 16;

// Where a tensor's elements lie in the file.
struct View {
  uint64_t begin = 0;  // byte of the first element
  std::vector<uint64_t> size, stride;
  uint64_t span = 0;  // elements from the first to the last, holes included; 0: empty
  bool contiguous = true;
};

class TorchFile : public TensorFile {
 public:
  explicit TorchFile(io::InputFile file) : TensorFile(file.path()), zip_(std::move(file)) {
    const std::string pickle_name = find_pickle();
    folder_ = pickle_name.substr(0, pickle_name.size() - 8);
    check_archive();
    const std::string pickle = zip_.read(pickle_name, kMaxPickleBytes);
    const Unpickled content = unpickle(pickle, str(path_, ": ", pickle_name));
    collect(content);
  }

  void read(size_t i, uint64_t offset, std::span<std::byte> out) const override {
    const View& view = views_[i];
    if (out.empty()) return;
    if (view.contiguous) return zip_.file().read_at(view.begin + offset, out);
    gather(i, offset, out);
  }

  void verify() const override { zip_.verify(); }

 private:
  template <class... Args>
  [[noreturn]] void bad(const Args&... what) const {
    fail(ExitCode::kData, "WTS-02", path_, ": ", what...);
  }

  std::string find_pickle() const {
    std::string found;
    for (const auto& [name, entry] : zip_.entries()) {
      if (name != "data.pkl" && !name.ends_with("/data.pkl")) continue;
      if (!found.empty()) bad("both ", found, " and ", name, ", expected one data.pkl");
      found = name;
    }
    if (found.empty())
      bad("a zip archive without data.pkl, expected the weights that torch.save wrote; mend it by giving the "
          "file itself, not an archive around it");
    return found;
  }

  void check_archive() const {
    for (const auto& [name, entry] : zip_.entries())
      if (name == folder_ + "constants.pkl" || name.starts_with(folder_ + "code/"))
        fail(ExitCode::kData, "WTS-01", path_,
             ": is a TorchScript file, expected a state dict; mend it by saving model.state_dict() with "
             "torch.save");
    if (zip_.find(folder_ + "byteorder") != nullptr) {
      const std::string order = zip_.read(folder_ + "byteorder", 64);
      if (order != "little")
        bad("byteorder is '", order, "', expected 'little'; mend it by saving on a little-endian machine");
    }
  }

  // The map of the tensors: the root itself, or the one map below it that trainers put the state dict into.
  const PickleItems& state_dict(const Unpickled& content) const {
    const auto is_map = [](const PickleValue& v) { return v.kind == Kind::kDict; };
    if (!is_map(content.root))
      fail(ExitCode::kData, "WTS-04", path_,
           ": the file holds no map of names to tensors; mend it by saving "
           "model.state_dict()");
    const PickleItems& root = content.collections[content.root.index];
    const PickleItems* below = nullptr;
    for (size_t i = 0; i + 1 < root.size(); i += 2) {
      if (root[i + 1].kind == Kind::kTensor) return root;
      if (root[i].kind == Kind::kText && is_map(root[i + 1]) &&
          (root[i].text == "state_dict" || root[i].text == "model" || root[i].text == "module")) {
        if (below)
          fail(ExitCode::kData, "WTS-04", path_,
               ": more than one of state_dict, model and module holds a map; "
               "mend it by saving the weights alone");
        below = &content.collections[root[i + 1].index];
      }
    }
    return below ? *below : root;
  }

  void collect(const Unpickled& content) {
    const PickleItems& map = state_dict(content);
    std::set<std::string_view> names;
    size_t passed_over = 0;
    for (size_t i = 0; i + 1 < map.size(); i += 2) {
      if (map[i + 1].kind != Kind::kTensor) {
        ++passed_over;
        continue;
      }
      if (map[i].kind != Kind::kText)
        fail(ExitCode::kData, "WTS-04", path_, ": the name of a tensor is no text");
      if (!names.insert(map[i].text).second)
        fail(ExitCode::kData, "WTS-04", path_, ": tensor ", map[i].text, " stands there twice");
      add(std::string(map[i].text), content.tensors[map[i + 1].index]);
    }
    if (passed_over > 0)
      notes_.push_back(str(path_, ": ", passed_over, " entries that are no tensors are passed over"));
  }

  // Every claim of a tensor against its storage, in 64 bits with overflow checks.
  void add(std::string name, const PickledTensor& t) {
    TensorInfo info{std::move(name), t.storage.type, {}};
    const auto bad_tensor = [&](const auto&... what) {
      fail(ExitCode::kData, "WTS-04", path_, ": tensor ", info.name, " (byte ", t.opcode_offset,
           " of data.pkl): ", what...);
    };
    if (t.storage.numel < 0 || t.offset < 0)
      bad_tensor("storage of ", t.storage.numel, " elements, offset ", t.offset, ", expected none below 0");
    if (t.size.size() != t.stride.size())
      bad_tensor(t.size.size(), " sizes and ", t.stride.size(), " strides");
    View view;
    for (size_t a = 0; a < t.size.size(); ++a) {
      if (t.size[a] < 0 || t.stride[a] < 0)
        bad_tensor("size ", t.size[a], " with stride ", t.stride[a], " on axis ", a,
                   ", expected none below 0");
      info.shape.push_back(uint64_t(t.size[a]));
    }
    const auto numel = numel_of(info.shape);
    uint64_t bytes = 0;
    const uint64_t limit = std::max(zip_.file().size(), kLeastLimitBytes);
    if (!numel || __builtin_mul_overflow(*numel, size_of(info.type), &bytes) || bytes > limit)
      bad_tensor("shape ", to_string(info.shape), " asks for more than the ", limit, " bytes of the file");
    const ZipEntry* storage = zip_.find(str(folder_, "data/", t.storage.key));
    if (!storage) bad_tensor("its storage '", t.storage.key, "' is no entry of ", folder_, "data/");
    uint64_t storage_bytes = 0;
    if (__builtin_mul_overflow(uint64_t(t.storage.numel), size_of(info.type), &storage_bytes) ||
        storage_bytes != storage->bytes)
      bad_tensor("its storage has ", t.storage.numel, " elements of ", size_of(info.type), " bytes, entry ",
                 folder_, "data/", t.storage.key, " holds ", storage->bytes, " bytes");
    uint64_t last = uint64_t(t.offset), expected_stride = 1;
    for (size_t a = t.size.size(); a-- > 0;) {
      const uint64_t size = info.shape[a], stride = uint64_t(t.stride[a]);
      if (size == 1) continue;
      if (stride != expected_stride) view.contiguous = false;
      uint64_t reach = 0;
      if (*numel > 0 &&
          (__builtin_mul_overflow(size - 1, stride, &reach) || __builtin_add_overflow(last, reach, &last)))
        bad_tensor("strides ", to_string(Dims(t.stride.begin(), t.stride.end())), " overflow");
      expected_stride *= size;  // divides or equals numel, or numel is 0
      view.size.insert(view.size.begin(), size);
      view.stride.insert(view.stride.begin(), stride);
    }
    if (*numel > 0 && last >= uint64_t(t.storage.numel))
      bad_tensor("offset ", t.offset, ", shape ", to_string(info.shape), " and strides ",
                 to_string(Dims(t.stride.begin(), t.stride.end())), " reach element ", last,
                 ", its storage has ", t.storage.numel);
    if (*numel > 0) {
      view.begin = storage->offset + uint64_t(t.offset) * size_of(info.type);
      view.span = last - uint64_t(t.offset) + 1;
    } else {
      view.contiguous = true;
    }
    tensors_.push_back(std::move(info));
    views_.push_back(std::move(view));
  }

  // The element range of a view that is not contiguous, row by row of its innermost axis. Where the view has
  // no more holes than elements (a transposed matrix), all of it is read once and kept for the next range.
  void gather(size_t i, uint64_t offset, std::span<std::byte> out) const {
    const View& view = views_[i];
    const uint64_t item = size_of(tensors_[i].type), width = view.size.back(), step = view.stride.back();
    RK_CHECK(offset % item == 0 && out.size() % item == 0, "[TorchFile] a range that cuts an element");
    const bool dense = view.span <= 2 * *numel_of(tensors_[i].shape);
    std::scoped_lock lock(mutex_);
    if (dense && kept_ != i) {
      kept_bytes_.resize(view.span * item);
      zip_.file().read_at(view.begin, kept_bytes_);
      kept_ = i;
    }
    std::vector<std::byte> row;
    uint64_t element = offset / item;
    for (size_t done = 0; done < out.size();) {
      uint64_t rest = element / width, place = 0;
      for (size_t a = view.size.size() - 1; a-- > 0; rest /= view.size[a])
        place += rest % view.size[a] * view.stride[a];
      const uint64_t column = element % width;
      place += column * step;
      const uint64_t most = step == 0 ? width : std::max<uint64_t>(1, kMaxRowBytes / (step * item));
      const uint64_t count = std::min({width - column, (out.size() - done) / item, dense ? width : most});
      const std::byte* from = kept_bytes_.data() + place * item;
      if (!dense) {
        row.resize(((count - 1) * step + 1) * item);
        zip_.file().read_at(view.begin + place * item, row);
        from = row.data();
      }
      if (step == 1) {
        std::memcpy(out.data() + done, from, count * item);
      } else {
        for (uint64_t k = 0; k < count; ++k)
          std::memcpy(out.data() + done + k * item, from + k * step * item, item);
      }
      done += count * item;
      element += count;
    }
  }

  ZipReader zip_;
  std::string folder_;  // of all entries, with its '/'
  std::vector<View> views_;
  mutable std::mutex mutex_;
  mutable size_t kept_ = size_t(-1);
  mutable std::vector<std::byte> kept_bytes_;
};

class TorchWriter : public TensorWriter {
 public:
  TorchWriter(const fs::path& path, std::vector<TensorInfo> tensors) : zip_(path) {
    tensors_ = std::move(tensors);
    zip_.add(folder_ + "data.pkl", pickle_tensors(tensors_));
    zip_.add(folder_ + "byteorder", "little");
  }
  void write(std::span<const std::byte> content) override {
    RK_CHECK(next_ < tensors_.size() && content.size() == tensors_[next_].bytes(), "[TorchWriter] tensor ",
             next_, ": ", content.size(), " bytes");
    zip_.add(str(folder_, "data/", next_++), content);
  }
  void finish() override {
    RK_CHECK(next_ == tensors_.size(), "[TorchWriter] ", next_, " of ", tensors_.size(),
             " tensors were written");
    zip_.add(folder_ + "version", "3\n");
    zip_.finish();
  }

 private:
  ZipWriter zip_;
  const std::string folder_ = "archive/";
  size_t next_ = 0;
};

}  // namespace

std::unique_ptr<TensorFile> open_torch_file(io::InputFile file) {
  return std::make_unique<TorchFile>(std::move(file));
}

std::unique_ptr<TensorWriter> write_torch_file(const fs::path& path, std::vector<TensorInfo> tensors) {
  return std::make_unique<TorchWriter>(path, std::move(tensors));
}

}  // namespace rookery::foreign
