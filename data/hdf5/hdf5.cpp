// hdf5.cpp: the HDF5 C library behind hdf5.h. Three parts: a file driver of our own that sends the library's
// reads and writes through kernels/base/io.h; the Writer; the Reader with its checks. C++ exceptions never
// cross the library: the driver keeps them, and check() throws them again.
#define H5_USE_110_API
#include "data/hdf5/hdf5.h"

#include <hdf5.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <exception>
#include <mutex>
#include <set>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/io.h"

namespace rookery::data::h5 {
namespace {

static_assert(std::endian::native == std::endian::little, "files and memory share one byte order");

constexpr std::array<std::string_view, 10> kTypeNames = {"u8",  "u16", "u32", "u64", "i8",
                                                         "i16", "i32", "i64", "f32", "f64"};
constexpr uint64_t kMaxChunkBytes = 256u << 20, kMaxAttributeBytes = 16u << 20;
constexpr uint64_t kMaxDeflateRatio = 1032;  // what one byte of deflate can stand for

// a * b, or nothing if that does not fit.
std::optional<uint64_t> product(uint64_t a, uint64_t b) {
  uint64_t c;
  return __builtin_mul_overflow(a, b, &c) ? std::nullopt : std::optional(c);
}

// The library's integers are as wide as ours, but another type.
std::vector<hsize_t> dims(const Shape& shape) { return {shape.begin(), shape.end()}; }

std::optional<uint64_t> numel_of(const Shape& shape) {
  std::optional<uint64_t> n = 1;
  for (const uint64_t d : shape)
    if (!(n = product(*n, d))) break;
  return n;
}

// ---- the file driver
// --------------------------------------------------------------------------------------------

// What one open HDF5 file reads from and writes to.
struct Backing {
  std::optional<io::OutputFile> out;
  std::optional<io::InputFile> in;
  uint64_t eof = 0;
  uint64_t metadata_budget =
      UINT64_MAX;            // bytes the library may still read to find its way: ends walks in circles
  std::exception_ptr error;  // the first failure; from then on nothing more reaches the disk
  bool abandoned = false;

  // A reader's failure is the library's too. A writer's is not: the library then comes to its end without
  // trying again.
  template <class F>
  herr_t run(F f) noexcept {
    try {
      f();
    } catch (...) {
      if (!error) error = std::current_exception();
    }
    return error && in ? -1 : 0;
  }
  template <class F>
  herr_t run_if_sound(F f) noexcept {
    return error || abandoned ? 0 : run(f);
  }

  void read(bool metadata, uint64_t at, std::span<std::byte> bytes) {
    if (metadata) {
      if (bytes.size() > metadata_budget)
        fail(ExitCode::kData, "H5-05", in->path(),
             ": its inner references lead in circles; mend it by making the file anew");
      metadata_budget -= bytes.size();
    }
    if (in) return in->read_at(at, bytes);
    const uint64_t there = at < eof ? std::min<uint64_t>(eof - at, bytes.size()) : 0;
    out->read_at(at, bytes.first(there));
    std::ranges::fill(bytes.subspan(there), std::byte{0});
  }
  void write(uint64_t at, std::span<const std::byte> bytes) {
    out->write_at(at, bytes);
    eof = std::max(eof, at + bytes.size());
  }
  void resize(uint64_t size) {
    if (!out || size == eof) return;
    out->truncate(size);
    eof = size;
  }
};

struct DriverFile {
  H5FD_t head;  // the library's part; must be first
  std::shared_ptr<Backing> backing;
  haddr_t eoa;
};

DriverFile& self(H5FD_t* f) { return *reinterpret_cast<DriverFile*>(f); }
const DriverFile& self(const H5FD_t* f) { return *reinterpret_cast<const DriverFile*>(f); }

H5FD_t* driver_open(const char*, unsigned, hid_t fapl, haddr_t) {
  const auto* backing = static_cast<const std::shared_ptr<Backing>* const*>(H5Pget_driver_info(fapl));
  return backing ? &(new DriverFile{{}, **backing, 0})->head : nullptr;
}
herr_t driver_close(H5FD_t* f) {
  delete &self(f);
  return 0;
}
herr_t driver_query(const H5FD_t*, unsigned long* flags) {
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
           H5FD_FEAT_AGGREGATE_SMALLDATA;
  return 0;
}
haddr_t driver_get_eoa(const H5FD_t* f, H5FD_mem_t) { return self(f).eoa; }
herr_t driver_set_eoa(H5FD_t* f, H5FD_mem_t, haddr_t eoa) {
  self(f).eoa = eoa;
  return 0;
}
haddr_t driver_get_eof(const H5FD_t* f, H5FD_mem_t) { return self(f).backing->eof; }
herr_t driver_read(H5FD_t* f, H5FD_mem_t type, hid_t, haddr_t at, size_t size, void* to) {
  Backing& b = *self(f).backing;
  return b.run([&] { b.read(type != H5FD_MEM_DRAW, at, {static_cast<std::byte*>(to), size}); });
}
herr_t driver_write(H5FD_t* f, H5FD_mem_t, hid_t, haddr_t at, size_t size, const void* from) {
  Backing& b = *self(f).backing;
  return b.run_if_sound([&] { b.write(at, {static_cast<const std::byte*>(from), size}); });
}
herr_t driver_truncate(H5FD_t* f, hid_t, hbool_t) {
  Backing& b = *self(f).backing;
  return b.run_if_sound([&] { b.resize(self(f).eoa); });
}

hid_t driver() {
  static const hid_t id = [] {
    H5FD_class_t c{};
#ifdef H5FD_CLASS_VERSION
    c.version = H5FD_CLASS_VERSION;
    c.value = H5FD_class_value_t(600);  // of the range for private drivers
#endif
    c.name = "rookery";
    c.maxaddr = (haddr_t(1) << 62) - 1;
    c.fc_degree = H5F_CLOSE_STRONG;
    c.fapl_size = sizeof(std::shared_ptr<Backing>*);
    c.open = driver_open;
    c.close = driver_close;
    c.query = driver_query;
    c.get_eoa = driver_get_eoa;
    c.set_eoa = driver_set_eoa;
    c.get_eof = driver_get_eof;
    c.read = driver_read;
    c.write = driver_write;
    c.truncate = driver_truncate;
    constexpr H5FD_mem_t kMap[H5FD_MEM_NTYPES] = H5FD_FLMAP_DICHOTOMY;
    std::ranges::copy(kMap, c.fl_map);
    return H5FDregister(&c);
  }();
  return id;
}

// ---- the library: one caller at a time, its own error printing off
// ------------------------------------------------

class Library {
 public:
  Library() : lock_(mutex()) { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

 private:
  static std::recursive_mutex& mutex() {
    static std::recursive_mutex m;
    return m;
  }
  std::lock_guard<std::recursive_mutex> lock_;
};

// An identifier of the library, closed when it goes out of scope.
class Id {
 public:
  Id() = default;
  Id(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Id(Id&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Id& operator=(Id&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Id() { close(); }
  herr_t close() { return id_ >= 0 && close_ ? close_(std::exchange(id_, -1)) : 0; }
  operator hid_t() const { return id_; }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

// The innermost line of the library's error stack.
std::string library_error() {
  std::string text;
  const auto take = [](unsigned, const H5E_error2_t* e, void* to) -> herr_t {
    if (e->desc) *static_cast<std::string*>(to) = e->desc;
    return 1;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take, &text);
  return text.empty() ? "no reason given" : text;
}

// Throws what the driver caught, or the library's own error, if `result` tells of a failure.
template <class R>
R check(R result, const Backing& backing, const fs::path& path, std::string_view what) {
  if (backing.error) std::rethrow_exception(backing.error);
  if (result < 0)
    fail(ExitCode::kData, "H5-06", path, ": ", what, " failed: ", library_error(),
         "; mend it by making the file anew, or taking another copy");
  return result;
}

hid_t library_type(Type type) {
  switch (type) {
    case Type::kU8:
      return H5T_STD_U8LE;
    case Type::kU16:
      return H5T_STD_U16LE;
    case Type::kU32:
      return H5T_STD_U32LE;
    case Type::kU64:
      return H5T_STD_U64LE;
    case Type::kI8:
      return H5T_STD_I8LE;
    case Type::kI16:
      return H5T_STD_I16LE;
    case Type::kI32:
      return H5T_STD_I32LE;
    case Type::kI64:
      return H5T_STD_I64LE;
    case Type::kF32:
      return H5T_IEEE_F32LE;
    case Type::kF64:
      return H5T_IEEE_F64LE;
  }
  RK_CHECK(false, "unknown h5::Type ", int(type));
}

Id text_type(size_t size) {
  Id t(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(t, size);
  H5Tset_cset(t, H5T_CSET_UTF8);
  H5Tset_strpad(t, H5T_STR_NULLPAD);
  return t;
}

// Text of `size` bytes without its padding.
std::string trimmed(const char* data, size_t size, bool spaces) {
  std::string_view text(data, size);
  text = text.substr(0, text.find('\0'));
  while (spaces && text.ends_with(' ')) text.remove_suffix(1);
  return std::string(text);
}

// Whether the box at `offset` of `extent` lies in an array of this shape.
bool inside(const Shape& shape, const Shape& offset, const Shape& extent) {
  bool fits = offset.size() == shape.size() && extent.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i)
    fits = offset[i] <= shape[i] && extent[i] <= shape[i] - offset[i];
  return fits;
}

std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += str(i ? ", " : "", shape[i]);
  return text + "]";
}

}  // namespace

size_t size_of(Type type) {
  if (type == Type::kF32) return 4;
  if (type == Type::kF64) return 8;
  return size_t(1) << (int(type) % 4);
}

std::string to_string(Type type) { return std::string(kTypeNames[size_t(type)]); }

std::optional<Type> type_named(std::string_view name) {
  const auto it = std::ranges::find(kTypeNames, name);
  return it == kTypeNames.end() ? std::nullopt : std::optional(Type(it - kTypeNames.begin()));
}

// ---- Writer
// -------------------------------------------------------------------------------------------------------

struct Writer::State {
  struct Open {
    Id id;
    Type type;
    Shape shape;
    hsize_t numel, done = 0;
  };

  fs::path final_path, path;
  std::string point;
  std::shared_ptr<Backing> backing = std::make_shared<Backing>();
  Id file, group_properties, dataset_properties;
  std::set<std::string> groups = {"/"};
  std::map<std::string, Open> datasets;
  bool closed = false;

  ~State() {
    if (closed) return;
    const Library library;
    backing->abandoned = true;
    datasets.clear();
    file.close();
    std::error_code ec;
    fs::remove(path, ec);
  }

  template <class R>
  R check(R result, std::string_view what) const {
    return h5::check(result, *backing, path, what);
  }

  // The groups on the way to `name`. Made here rather than by the library, which would stamp them with the
  // time.
  void make_parents(const std::string& name) {
    RK_CHECK(name.size() > 1 && name[0] == '/' && name.back() != '/', "bad HDF5 name '", name, "'");
    for (size_t slash = name.find('/', 1); slash != std::string::npos; slash = name.find('/', slash + 1))
      make_group(name.substr(0, slash));
  }

  void make_group(const std::string& name) {
    if (!groups.insert(name).second) return;
    const Id g(
        check(H5Gcreate2(file, name.c_str(), H5P_DEFAULT, group_properties, H5P_DEFAULT), "making a group"),
        H5Gclose);
  }

  Id make_dataset(const std::string& name, hid_t type, const Shape& shape) {
    make_parents(name);
    const Id space(check(H5Screate_simple(int(shape.size()), dims(shape).data(), nullptr), "making a space"),
                   H5Sclose);
    return {check(H5Dcreate2(file, name.c_str(), type, space, H5P_DEFAULT, dataset_properties, H5P_DEFAULT),
                  "making a data set"),
            H5Dclose};
  }

  void write_attribute(const std::string& object, const std::string& name, hid_t type, hid_t space,
                       const void* data) {
    const Id target(check(H5Oopen(file, object.c_str(), H5P_DEFAULT), "opening an object"), H5Oclose);
    const Id a(
        check(H5Acreate2(target, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), "making an attribute"),
        H5Aclose);
    check(H5Awrite(a, type, data), "writing an attribute");
  }
};

Writer::Writer(const fs::path& path, std::string_view point, Place place) : state_(new State) {
  const Library library;
  State& s = *state_;
  s.final_path = path;
  s.point = point;
  s.closed = true;  // nothing to remove until the file is ours
  s.path = place == Place::kTemporary ? io::temporary_beside(path) : path;
  s.backing->out.emplace(s.path, point);
  s.closed = false;

  const Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose), creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  const std::shared_ptr<Backing>* const backing = &s.backing;
  H5Pset_driver(access, driver(), &backing);
  H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);  // superblock 3: checksummed metadata
  H5Pset_alignment(access, 1, 8);                                  // so that readers can map the data
  H5Pset_obj_track_times(creation, false);
  s.group_properties = Id(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
  H5Pset_obj_track_times(s.group_properties, false);
  s.dataset_properties = Id(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(s.dataset_properties, false);
  H5Pset_layout(s.dataset_properties, H5D_CONTIGUOUS);
  H5Pset_alloc_time(s.dataset_properties, H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(s.dataset_properties, H5D_FILL_TIME_NEVER);
  s.file =
      Id(s.check(H5Fcreate(s.path.c_str(), H5F_ACC_TRUNC, creation, access), "creating the file"), H5Fclose);
}
Writer::Writer(Writer&&) noexcept = default;
Writer& Writer::operator=(Writer&&) noexcept = default;
Writer::~Writer() = default;

void Writer::group(const std::string& name) {
  const Library library;
  state_->make_parents(name);
  state_->make_group(name);
}

void Writer::dataset(const std::string& name, Type type, const Shape& shape) {
  const Library library;
  const auto numel = numel_of(shape);
  RK_CHECK(numel && product(*numel, size_of(type)), name, ": its size ", shape_text(shape), " overflows");
  state_->datasets[name] = {state_->make_dataset(name, library_type(type), shape), type, shape, *numel};
}

void Writer::append(const std::string& name, std::span<const std::byte> bytes) {
  const Library library;
  const auto it = state_->datasets.find(name);
  RK_CHECK(it != state_->datasets.end() && it->second.shape.size() == 1, name, ": is not open for appending");
  State::Open& open = it->second;
  const hsize_t count = bytes.size() / size_of(open.type);
  RK_CHECK(bytes.size() % size_of(open.type) == 0 && count <= open.numel - open.done, name, ": appending ",
           count, " elements to ", open.done, " of ", open.numel);
  if (count == 0) return;
  const Id there(H5Dget_space(open.id), H5Sclose), here(H5Screate_simple(1, &count, nullptr), H5Sclose);
  H5Sselect_hyperslab(there, H5S_SELECT_SET, &open.done, nullptr, &count, nullptr);
  const hid_t type = library_type(open.type);
  state_->check(H5Dwrite(open.id, type, here, there, H5P_DEFAULT, bytes.data()), str("writing ", name));
  open.done += count;
}

void Writer::dataset(const std::string& name, Type type, const Shape& shape,
                     std::span<const std::byte> bytes) {
  const Library library;
  const auto numel = numel_of(shape);
  RK_CHECK(numel && product(*numel, size_of(type)) == bytes.size(), name, ": ", bytes.size(), " bytes for ",
           shape_text(shape), " of ", type);
  Id id = state_->make_dataset(name, library_type(type), shape);
  if (*numel > 0)
    state_->check(H5Dwrite(id, library_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()),
                  str("writing ", name));
  state_->check(id.close(), str("closing ", name));
}

void Writer::strings(const std::string& name, std::span<const std::string> values) {
  const Library library;
  size_t width = 1;
  for (const std::string& v : values) width = std::max(width, v.size());
  std::vector<char> padded(width * values.size());
  for (size_t i = 0; i < values.size(); ++i) std::ranges::copy(values[i], padded.begin() + long(i * width));
  const Id type = text_type(width);
  Id id = state_->make_dataset(name, type, {values.size()});
  if (!values.empty())
    state_->check(H5Dwrite(id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, padded.data()), str("writing ", name));
  state_->check(id.close(), str("closing ", name));
}

void Writer::attribute(const std::string& object, const std::string& name, uint32_t value) {
  const Library library;
  const Id space(H5Screate(H5S_SCALAR), H5Sclose);
  state_->write_attribute(object, name, H5T_STD_U32LE, space, &value);
}

void Writer::attribute(const std::string& object, const std::string& name, uint64_t value) {
  const Library library;
  const Id space(H5Screate(H5S_SCALAR), H5Sclose);
  state_->write_attribute(object, name, H5T_STD_U64LE, space, &value);
}

void Writer::attribute(const std::string& object, const std::string& name, std::string_view value) {
  const Library library;
  const Id space(H5Screate(H5S_SCALAR), H5Sclose), type = text_type(std::max<size_t>(1, value.size()));
  state_->write_attribute(object, name, type, space, value.empty() ? "" : value.data());
}

void Writer::attribute(const std::string& object, const std::string& name, std::span<const uint64_t> values) {
  const Library library;
  const hsize_t count = values.size();
  const Id space(H5Screate_simple(1, &count, nullptr), H5Sclose);
  const uint64_t none = 0;
  state_->write_attribute(object, name, H5T_STD_U64LE, space, values.empty() ? &none : values.data());
}

void Writer::close() {
  const Library library;
  State& s = *state_;
  for (auto& [name, open] : s.datasets) {
    RK_CHECK(open.done == open.numel, name, ": holds ", open.done, " of ", open.numel, " elements at close");
    s.check(open.id.close(), str("closing ", name));
  }
  s.check(s.file.close(), "closing the file");
  s.backing->out->sync();
  s.backing->out->close();
  if (s.path != s.final_path) io::rename(s.path, s.final_path, s.point);
  s.closed = true;
}

// ---- Reader
// -------------------------------------------------------------------------------------------------------

struct Reader::State {
  fs::path path;
  Limits limits;
  std::shared_ptr<Backing> backing = std::make_shared<Backing>();
  Id file;
  std::map<std::string, DatasetInfo> datasets;
  std::vector<std::string> groups;
  std::map<std::string, Id> open;  // data sets in use; each keeps the library's cache of its chunks
  std::set<haddr_t> seen_groups;
  uint64_t objects = 0;

  ~State() {
    const Library library;
    open.clear();
    file.close();
  }

  template <class R>
  R check(R result, std::string_view what) const {
    return h5::check(result, *backing, path, what);
  }

  // Reasons that need no library: wrong magic, a size that cannot be right, a writer that never finished.
  void check_superblock() const {
    constexpr unsigned char kMagic[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    std::array<std::byte, 48> head{};
    const auto there = std::min<uint64_t>(head.size(), backing->eof);
    backing->in->read_at(0, std::span(head).first(there));
    if (std::memcmp(head.data(), kMagic, 8) != 0)
      fail(ExitCode::kData, "H5-01", path, ": is not an HDF5 file (", backing->eof,
           " bytes, without the signature at its start); mend it by naming an HDF5 file");
    const auto truncated = [&](uint64_t expected) {
      fail(ExitCode::kData, "H5-02", path, ": is truncated: holds ", backing->eof, " bytes, expected ",
           expected, "; mend it by copying or making it again");
    };
    if (there < head.size()) truncated(head.size());
    const int version = std::to_integer<int>(head[8]);
    if (version == 3 && head[11] != std::byte{0})
      fail(ExitCode::kData, "H5-03", path,
           ": is marked as open for writing: its writer is still at work or died; mend it by waiting for the "
           "writer, or by making the file anew");
    uint64_t expected;
    std::memcpy(&expected, head.data() + 28, 8);
    // Of older versions, and of other widths of addresses, the library checks the size.
    if (version >= 2 && head[9] == std::byte{8} && expected > backing->eof) truncated(expected);
  }

  struct Link {
    std::string name;
    H5L_type_t type;
  };

  struct Listing {
    std::vector<Link> links;
    uint64_t limit;
  };

  // Never throws: the library stands between it and the caller.
  static herr_t take_link(hid_t, const char* name, const H5L_info_t* info, void* to) noexcept {
    auto& listing = *static_cast<Listing*>(to);
    listing.links.push_back({name, info->type});
    return listing.links.size() > listing.limit ? 1 : 0;
  }

  void count_object(const std::string& name, int depth) {
    if (++objects > limits.objects)
      fail(ExitCode::kData, "H5-05", path, ": holds more than ", limits.objects, " objects");
    if (depth > limits.depth)
      fail(ExitCode::kData, "H5-05", path, ": '", name, "' is nested deeper than ", limits.depth, " groups");
  }

  void walk(hid_t group, const std::string& name, int depth) {
    groups.push_back(name.empty() ? "/" : name);
    Listing listing{{}, limits.objects - objects};
    check(H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, take_link, &listing),
          str("listing ", groups.back()));
    std::ranges::sort(listing.links, {}, &Link::name);
    for (const Link& link : listing.links) {
      const std::string child = name + "/" + link.name;
      count_object(child, depth);
      if (link.type != H5L_TYPE_HARD)
        fail(ExitCode::kData, "H5-04", path, ": '", child, "' is ",
             link.type == H5L_TYPE_SOFT       ? "a soft"
             : link.type == H5L_TYPE_EXTERNAL ? "an external"
                                              : "a user-defined",
             " link, expected none; mend it by copying the data into the file (h5repack)");
      const Id id(check(H5Oopen(group, link.name.c_str(), H5P_DEFAULT), str("opening ", child)), H5Oclose);
      H5O_info_t object;
      check(H5Oget_info2(id, &object, H5O_INFO_BASIC), str("opening ", child));
      if (object.type == H5O_TYPE_GROUP) {
        if (!seen_groups.insert(object.addr).second)
          fail(ExitCode::kData, "H5-04", path, ": group '", child, "' is linked twice, expected a tree");
        walk(id, child, depth + 1);
      } else if (object.type == H5O_TYPE_DATASET) {
        datasets.emplace(child, describe(id, child));
      }
    }
  }

  DatasetInfo describe(hid_t id, const std::string& name) const {
    DatasetInfo d;
    const std::string what = str("describing ", name);
    const Id space(check(H5Dget_space(id), what), H5Sclose), type(check(H5Dget_type(id), what), H5Tclose),
        plist(check(H5Dget_create_plist(id), what), H5Pclose);
    d.problem = describe_type(type, d);
    const auto refuse = [&](const std::string& why) {
      if (d.problem.empty()) d.problem = why;
    };

    if (H5Sget_simple_extent_type(space) == H5S_NULL) refuse("has no elements and no shape");
    std::array<hsize_t, H5S_MAX_RANK> extent{};
    const int rank = check(H5Sget_simple_extent_dims(space, extent.data(), nullptr), what);
    d.shape.assign(extent.begin(), extent.begin() + rank);
    const auto numel = numel_of(d.shape);
    const auto bytes = numel ? product(*numel, check_size(H5Tget_size(type), what)) : std::nullopt;
    if (!bytes) {
      refuse(str("declares the impossible size ", shape_text(d.shape)));
      return d;
    }
    d.numel = *numel;

    if (check(H5Pget_external_count(plist), what) > 0) refuse("keeps its data in external files");
    for (int i = 0; i < check(H5Pget_nfilters(plist), what); ++i) {
      unsigned flags = 0, config = 0;
      size_t values = 0;
      const H5Z_filter_t filter =
          check(H5Pget_filter2(plist, unsigned(i), &flags, &values, nullptr, 0, nullptr, &config), what);
      if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE && filter != H5Z_FILTER_FLETCHER32)
        refuse(str("uses filter ", filter, ", expected deflate, shuffle or fletcher32"));
    }
    describe_storage(id, plist, *bytes, d, refuse);
    return d;
  }

  size_t check_size(size_t size, const std::string& what) const {
    check(size == 0 ? -1 : 0, what);
    return size;
  }

  // Fills in the kind of element; returns what is wrong with it.
  static std::string describe_type(hid_t type, DatasetInfo& d) {
    const H5T_class_t kind = H5Tget_class(type);
    if (kind == H5T_STRING && H5Tis_variable_str(type) == 0) {
      d.is_text = true;
      return "";
    }
    // Variable-length elements are left alone: their reading follows addresses and lengths of the file.
    if (kind != H5T_INTEGER && kind != H5T_FLOAT) return "holds neither numbers nor strings of fixed size";
    for (size_t i = 0; i < kTypeNames.size(); ++i)
      if (H5Tequal(type, library_type(Type(i))) > 0) {
        d.type = Type(i);
        return "";
      }
    if (H5Tget_order(type) == H5T_ORDER_BE) return "holds big-endian numbers, expected little-endian";
    return "holds numbers of an unusual format, expected u8 .. u64, i8 .. i64, f32 or f64";
  }

  template <class Refuse>
  void describe_storage(hid_t id, hid_t plist, uint64_t bytes, DatasetInfo& d, Refuse refuse) const {
    if (bytes == 0) return;
    const uint64_t stored = H5Dget_storage_size(id);
    switch (H5Pget_layout(plist)) {
      case H5D_COMPACT:
        if (stored < bytes) refuse("is damaged: holds less than it declares");
        return;
      case H5D_CONTIGUOUS: {
        const haddr_t offset = H5Dget_offset(id);
        if (offset == HADDR_UNDEF)
          refuse("was never written");
        else if (offset > backing->eof || bytes > backing->eof - offset)
          refuse(str("declares ", bytes, " bytes at ", offset, ", but the file ends at ", backing->eof));
        else
          d.offset = offset;
        return;
      }
      case H5D_CHUNKED: {
        std::array<hsize_t, H5S_MAX_RANK> chunk{};
        const int rank = H5Pget_chunk(plist, int(chunk.size()), chunk.data());
        const auto n = rank > 0 ? numel_of({chunk.begin(), chunk.begin() + rank}) : std::nullopt;
        const auto chunk_bytes = n ? product(*n, bytes / d.numel) : std::nullopt;
        if (!chunk_bytes || *chunk_bytes > kMaxChunkBytes)
          refuse("has chunks of more than 256 MiB");
        else if (stored > backing->eof || stored < bytes / kMaxDeflateRatio || stored == 0)
          refuse(str("declares ", bytes, " bytes, which its ", stored, " stored bytes cannot hold"));
        return;
      }
      default:
        refuse("keeps its data in other data sets");
    }
  }

  hid_t opened(const std::string& name) {
    Id& id = open[name];
    if (id < 0) id = Id(check(H5Dopen2(file, name.c_str(), H5P_DEFAULT), str("opening ", name)), H5Dclose);
    return id;
  }

  struct Attribute {
    Id id, type, space;
    hssize_t count;
  };

  Attribute attribute(const std::string& object, const std::string& name) const {
    const std::string what = str("attribute '", name, "' of '", object, "'");
    if (check(H5Aexists_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT), what) == 0)
      fail(ExitCode::kData, "H5-11", path, ": ", what, " is missing");
    Attribute a;
    a.id = Id(check(H5Aopen_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT), what),
              H5Aclose);
    a.type = Id(check(H5Aget_type(a.id), what), H5Tclose);
    a.space = Id(check(H5Aget_space(a.id), what), H5Sclose);
    a.count = check(H5Sget_simple_extent_npoints(a.space), what);
    const auto bytes = product(uint64_t(a.count), H5Tget_size(a.type));
    if (!bytes || *bytes > std::min(kMaxAttributeBytes, backing->eof))
      fail(ExitCode::kData, "H5-11", path, ": ", what, " declares a size that it cannot have");
    return a;
  }
};

Reader::Reader(const fs::path& path) : Reader(path, Limits{}) {}

Reader::Reader(const fs::path& path, const Limits& limits) : state_(new State) {
  const Library library;
  State& s = *state_;
  s.path = path;
  s.limits = limits;
  s.backing->in.emplace(path);
  s.backing->eof = s.backing->in->size();
  s.check_superblock();
  s.backing->metadata_budget = product(s.backing->eof, 8).value_or(UINT64_MAX / 2) + (16u << 20);

  const Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  const std::shared_ptr<Backing>* const backing = &s.backing;
  H5Pset_driver(access, driver(), &backing);
  s.file = Id(s.check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), "opening it as HDF5"), H5Fclose);
  const Id root(s.check(H5Oopen(s.file, "/", H5P_DEFAULT), "opening /"), H5Oclose);
  H5O_info_t info;
  s.check(H5Oget_info2(root, &info, H5O_INFO_BASIC), "opening /");
  s.seen_groups.insert(info.addr);
  s.walk(root, "", 1);
  s.backing->metadata_budget = UINT64_MAX;  // from here on, large data sets may read their chunk index often
}
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;
Reader::~Reader() = default;

const fs::path& Reader::path() const { return state_->path; }
const std::map<std::string, DatasetInfo>& Reader::datasets() const { return state_->datasets; }
const std::vector<std::string>& Reader::groups() const { return state_->groups; }
bool Reader::has_dataset(const std::string& name) const { return state_->datasets.count(name) > 0; }

const DatasetInfo& Reader::info(const std::string& name) const {
  const auto it = state_->datasets.find(name);
  if (it == state_->datasets.end()) {
    std::string there;
    for (const auto& [other, d] : state_->datasets)
      if (there.size() < 200) there += str(there.empty() ? "" : ", ", other);
    fail(ExitCode::kData, "H5-07", path(), ": has no data set '", name, "'; found ",
         there.empty() ? "none" : there);
  }
  if (!it->second.problem.empty())
    fail(ExitCode::kData, "H5-08", path(), ": data set '", name, "' ", it->second.problem,
         "; mend it by making the file anew");
  return it->second;
}

void Reader::read(const std::string& name, const Shape& offset, const Shape& extent,
                  std::span<std::byte> out) const {
  read(name, offset, extent, out, extent, Shape(extent.size(), 0));
}

void Reader::read(const std::string& name, const Shape& offset, const Shape& extent, std::span<std::byte> out,
                  const Shape& out_shape, const Shape& out_offset) const {
  const Library library;
  const DatasetInfo& d = info(name);
  if (d.is_text || !inside(d.shape, offset, extent))
    fail(ExitCode::kData, "H5-10", path(), ": data set '", name, "' has shape ", shape_text(d.shape),
         ", expected numbers at ", shape_text(offset), " of extent ", shape_text(extent));
  RK_CHECK(inside(out_shape, out_offset, extent) && out.size() == *numel_of(out_shape) * size_of(d.type),
           name, ": ", out.size(), " bytes for ", shape_text(out_shape), " of ", d.type);
  if (*numel_of(extent) == 0) return;
  Id there(H5S_ALL, nullptr), here(H5S_ALL, nullptr);
  const hid_t id = state_->opened(name);
  if (!extent.empty()) {
    const std::vector<hsize_t> count = dims(extent);
    there = Id(H5Dget_space(id), H5Sclose);
    H5Sselect_hyperslab(there, H5S_SELECT_SET, dims(offset).data(), nullptr, count.data(), nullptr);
    here = Id(H5Screate_simple(int(count.size()), dims(out_shape).data(), nullptr), H5Sclose);
    H5Sselect_hyperslab(here, H5S_SELECT_SET, dims(out_offset).data(), nullptr, count.data(), nullptr);
  }
  state_->check(H5Dread(id, library_type(d.type), here, there, H5P_DEFAULT, out.data()),
                str("reading ", name));
}

uint64_t Reader::checked_length(const std::string& name, Type type, uint64_t limit) const {
  const DatasetInfo& d = info(name);
  if (d.is_text || d.type != type || d.shape.size() != 1)
    fail(ExitCode::kData, "H5-09", path(), ": data set '", name, "' holds ",
         d.is_text ? "text" : to_string(d.type), " of shape ", shape_text(d.shape), ", expected ", type,
         " with one axis");
  if (d.numel > limit)
    fail(ExitCode::kData, "H5-09", path(), ": data set '", name, "' holds ", d.numel,
         " elements, expected at most ", limit);
  return d.numel;
}

std::vector<std::string> Reader::strings(const std::string& name, uint64_t limit) const {
  const Library library;
  const DatasetInfo& d = info(name);
  if (!d.is_text || d.shape.size() != 1 || d.numel > limit)
    fail(ExitCode::kData, "H5-09", path(), ": data set '", name, "' holds ",
         d.is_text ? "text" : to_string(d.type), " of shape ", shape_text(d.shape), ", expected at most ",
         limit, " strings with one axis");
  std::vector<std::string> values(d.numel);
  if (values.empty()) return values;
  const hid_t id = state_->opened(name);
  const Id type(state_->check(H5Dget_type(id), name), H5Tclose);
  const size_t width = H5Tget_size(type);
  std::vector<char> padded(width * values.size());
  state_->check(H5Dread(id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, padded.data()), str("reading ", name));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = trimmed(padded.data() + i * width, width, H5Tget_strpad(type) == H5T_STR_SPACEPAD);
  return values;
}

bool Reader::has_attribute(const std::string& object, const std::string& name) const {
  const Library library;
  return state_->check(H5Aexists_by_name(state_->file, object.c_str(), name.c_str(), H5P_DEFAULT),
                       str("looking for attribute '", name, "' of '", object, "'")) > 0;
}

std::vector<uint64_t> Reader::numbers(const std::string& object, const std::string& name) const {
  const Library library;
  const State::Attribute a = state_->attribute(object, name);
  if (H5Tget_class(a.type) != H5T_INTEGER || H5Tget_sign(a.type) != H5T_SGN_NONE || H5Tget_size(a.type) > 8)
    fail(ExitCode::kData, "H5-11", path(), ": attribute '", name, "' of '", object,
         "', expected unsigned integers");
  std::vector<uint64_t> values(size_t(a.count), 0);
  if (!values.empty())
    state_->check(H5Aread(a.id, H5T_NATIVE_UINT64, values.data()),
                  str("reading attribute '", name, "' of '", object, "'"));
  return values;
}

uint64_t Reader::number(const std::string& object, const std::string& name) const {
  const std::vector<uint64_t> values = numbers(object, name);
  if (values.size() != 1)
    fail(ExitCode::kData, "H5-11", path(), ": attribute '", name, "' of '", object, "' holds ", values.size(),
         " numbers, expected one");
  return values[0];
}

std::string Reader::text(const std::string& object, const std::string& name) const {
  const Library library;
  const State::Attribute a = state_->attribute(object, name);
  if (H5Tget_class(a.type) != H5T_STRING || H5Tis_variable_str(a.type) != 0 || a.count != 1)
    fail(ExitCode::kData, "H5-11", path(), ": attribute '", name, "' of '", object,
         "', expected a string of fixed size");
  std::vector<char> padded(H5Tget_size(a.type));
  state_->check(H5Aread(a.id, a.type, padded.data()),
                str("reading attribute '", name, "' of '", object, "'"));
  return trimmed(padded.data(), padded.size(), H5Tget_strpad(a.type) == H5T_STR_SPACEPAD);
}

}  // namespace rookery::data::h5
