// hdf5_test.cpp: the HDF5 wrapper: what it writes it reads back, a failing disk leaves nothing, and files of
// every bad kind are refused by name.
#define H5_USE_110_API
#include "data/hdf5/hdf5.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <numeric>

#include "kernels/base/error.h"
#include "kernels/base/io.h"
#include "tests/support/process.h"

// HDF5 itself forgets to free what it had read of a damaged file; the leak check of the asan preset is told
// so.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace rookery::data::h5 {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// The message of the Error that `f` throws; checks its exit code.
std::string refusal(ExitCode code, const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "nothing was thrown";
}

#define EXPECT_HAS(text, part) EXPECT_PRED2(contains, text, part)

const std::vector<uint16_t> kTokens = [] {
  std::vector<uint16_t> t(5000);
  std::iota(t.begin(), t.end(), uint16_t(60000));
  return t;
}();
const std::vector<float> kMatrix = {1.5f, -2, 3, 4, 5, 6};

void write_sample(const fs::path& path, Writer::Place place = Writer::Place::kTemporary) {
  Writer w(path, "test", place);
  w.attribute("/", "format", "sample");
  w.attribute("/", "empty", "");
  w.attribute("/", "version", uint32_t{1});
  w.attribute("/", "step", uint64_t{1} << 40);
  w.dataset("/tokens", Type::kU16, {kTokens.size()});
  const auto bytes = std::as_bytes(std::span(kTokens));
  w.append("/tokens", bytes.first(2000));
  w.append("/tokens", bytes.subspan(2000));
  w.dataset("/param/a/weight/0", Type::kF32, {2, 3}, std::as_bytes(std::span(kMatrix)));
  const std::vector<uint64_t> box = {7, 8, 9};
  w.attribute("/param/a/weight", "global_shape", std::span<const uint64_t>(box));
  w.attribute("/param/a/weight/0", "offset", std::span<const uint64_t>());
  w.dataset("/counts", std::span<const uint64_t>(box));
  w.dataset("/none", std::span<const uint32_t>());
  w.strings("/names", std::vector<std::string>{"größe", "", "日本語"});
  w.group("/bare/group");
  w.close();
}

TEST(Hdf5Test, ReadsBackWhatItWrote) {
  const test::TempDir dir;
  const fs::path file = dir.path() / "sample.h5";
  write_sample(file);
  const Reader r(file);
  EXPECT_EQ(r.text("/", "format"), "sample");
  EXPECT_EQ(r.text("/", "empty"), "");
  EXPECT_EQ(r.number("/", "version"), 1u);
  EXPECT_EQ(r.number("/", "step"), uint64_t{1} << 40);
  EXPECT_EQ(r.read_vector<uint16_t>("/tokens", 5000), kTokens);
  EXPECT_EQ(r.read_vector<uint64_t>("/counts", 3), (std::vector<uint64_t>{7, 8, 9}));
  EXPECT_TRUE(r.read_vector<uint32_t>("/none", 3).empty());
  EXPECT_EQ(r.strings("/names", 3), (std::vector<std::string>{"größe", "", "日本語"}));
  EXPECT_EQ(r.numbers("/param/a/weight", "global_shape"), (std::vector<uint64_t>{7, 8, 9}));
  EXPECT_TRUE(r.numbers("/param/a/weight/0", "offset").empty());
  EXPECT_TRUE(r.has_attribute("/", "step"));
  EXPECT_FALSE(r.has_attribute("/", "steps"));
  EXPECT_EQ(r.groups(),
            (std::vector<std::string>{"/", "/bare", "/bare/group", "/param", "/param/a", "/param/a/weight"}));
  EXPECT_EQ(r.datasets().size(), 5u);

  float column[2];
  r.read("/param/a/weight/0", {0, 1}, {2, 1}, std::as_writable_bytes(std::span(column)));
  EXPECT_EQ(column[0], kMatrix[1]);
  EXPECT_EQ(column[1], kMatrix[4]);

  const DatasetInfo& tokens = r.info("/tokens");  // what a reader that maps the file does
  ASSERT_TRUE(tokens.offset.has_value());
  EXPECT_EQ(*tokens.offset % 8, 0u);
  const io::MappedFile map(file);
  EXPECT_EQ(std::memcmp(map.bytes().data() + *tokens.offset, kTokens.data(), tokens.numel * 2), 0);
}

TEST(Hdf5Test, TheSameCallsGiveTheSameBytes) {
  const test::TempDir dir;
  write_sample(dir.path() / "a.h5");
  write_sample(dir.path() / "b.h5", Writer::Place::kFinal);
  EXPECT_EQ(io::sha256_file(dir.path() / "a.h5"), io::sha256_file(dir.path() / "b.h5"));
}

TEST(Hdf5Test, WhatIsNotClosedIsRemoved) {
  const test::TempDir dir;
  for (const auto place : {Writer::Place::kTemporary, Writer::Place::kFinal}) {
    {
      Writer w(dir.path() / "a.h5", "test", place);
      w.dataset("/x", std::span<const uint16_t>(kTokens));
    }
    EXPECT_TRUE(fs::is_empty(dir.path()));
  }
  Writer half(dir.path() / "a.h5", "test");
  half.dataset("/x", Type::kU16, {4});
  EXPECT_EQ(refusal(ExitCode::kInternal, [&] { half.close(); }).find("/x: holds 0 of 4"), 0u);
}

// The write that the test after it repeats with faults.
TEST(Hdf5Test, WritesIntoAGivenFolder) {
  const test::TempDir own;
  const char* given = std::getenv("ROOKERY_TEST_FOLDER");
  const fs::path folder = given ? given : own.path();
  write_sample(folder / "sample.h5");
  EXPECT_EQ(Reader(folder / "sample.h5").datasets().size(), 5u);
}

// Writes the sample in another process with a fault; what stands under the final name must be whole.
test::Outcome write_with_fault(const test::TempDir& dir, const std::string& fault) {
  const auto outcome =
      test::run_test_again("Hdf5Test.WritesIntoAGivenFolder",
                           {{"ROOKERY_FAULT", fault}, {"ROOKERY_TEST_FOLDER", dir.path().string()}});
  const fs::path file = dir.path() / "sample.h5";
  EXPECT_TRUE(!fs::exists(file) || Reader(file).datasets().size() == 5) << fault;
  EXPECT_TRUE(outcome.exit_code != 0 || fs::exists(file)) << fault;
  return outcome;
}

TEST(Hdf5Test, AKillAtAnyPointLeavesNothingHalf) {
  for (long k = 1;; ++k) {
    const test::TempDir dir(test::TempDir::Place::kMemory);
    const auto outcome = write_with_fault(dir, str("*@", k, ":kill"));
    if (outcome.exit_code == 0) {
      EXPECT_GT(k, 10);
      break;
    }
    ASSERT_EQ(outcome.signal, SIGKILL);
  }
}

TEST(Hdf5Test, AFailingDiskLeavesNoTemporary) {
  for (long k = 1;; ++k) {
    const test::TempDir dir(test::TempDir::Place::kMemory);
    const auto outcome = write_with_fault(dir, str("*@", k, ":enospc"));
    if (outcome.exit_code == 0) break;
    ASSERT_EQ(outcome.exit_code, 1);
    for (const auto& entry : fs::directory_iterator(dir.path()))
      EXPECT_EQ(entry.path().filename(), "sample.h5");
  }
  const test::TempDir dir;
  EXPECT_EQ(write_with_fault(dir, "test.write:short").exit_code, 0);
}

TEST(Hdf5Test, NamesWhatIsMissingOrOfAnotherKind) {
  const test::TempDir dir;
  const fs::path file = dir.path() / "sample.h5";
  write_sample(file);
  const Reader r(file);
  EXPECT_HAS(refusal(ExitCode::kNoInput, [&] { Reader absent(dir.path() / "absent"); }), "No such file");
  EXPECT_HAS(refusal(ExitCode::kData, [&] { r.info("/token"); }), "'/token'; found /counts, /names");
  EXPECT_HAS(refusal(ExitCode::kData, [&] { r.read_vector<uint32_t>("/tokens", 5000); }), "holds u16");
  EXPECT_HAS(refusal(ExitCode::kData, [&] { r.read_vector<float>("/param/a/weight/0", 9); }),
             "expected f32 with one axis");
  EXPECT_HAS(refusal(ExitCode::kData, [&] { r.read_vector<uint16_t>("/tokens", 4999); }), "at most 4999");
  EXPECT_HAS(refusal(ExitCode::kData, [&] { r.strings("/tokens", 5000); }), "holds u16");
  EXPECT_HAS(refusal(ExitCode::kData, [&] { r.number("/", "format"); }), "expected unsigned integers");
  EXPECT_HAS(refusal(ExitCode::kData, [&] { r.text("/", "step"); }), "expected a string");
  EXPECT_HAS(refusal(ExitCode::kData, [&] { r.text("/", "stepp"); }), "'stepp' of '/' is missing");
  EXPECT_HAS(refusal(ExitCode::kData, [&] { r.number("/param/a/weight", "global_shape"); }),
             "holds 3 numbers");
  std::byte out[4];
  EXPECT_HAS(refusal(ExitCode::kData, [&] { r.read("/tokens", {4999}, {2}, out); }), "has shape [5000]");
  EXPECT_HAS(refusal(ExitCode::kData, [&] { r.read("/tokens", {UINT64_MAX}, {2}, out); }),
             "has shape [5000]");
}

std::string content(const fs::path& path) { return io::read_file(path, 1 << 24); }

void replace(const fs::path& path, std::string_view text) { io::write_file_atomic(path, text, "test"); }

TEST(Hdf5Test, RefusesATruncatedFileAtEveryLength) {
  const test::TempDir dir;
  const fs::path file = dir.path() / "sample.h5";
  write_sample(file);
  const std::string whole = content(file);
  for (size_t n = 0; n < whole.size(); n += n < 64 || n + 64 > whole.size() ? 1 : 97) {
    replace(file, std::string_view(whole).substr(0, n));
    const std::string message = refusal(ExitCode::kData, [&] { Reader r(file); });
    if (n < 8) {
      EXPECT_HAS(message, "is not an HDF5 file");
    } else {
      EXPECT_HAS(message, "is truncated: holds");
    }
    EXPECT_HAS(message, file.string());
  }
}

TEST(Hdf5Test, RefusesAFileThatIsStillOpenForWriting) {
  const test::TempDir dir;
  const fs::path file = dir.path() / "sample.h5";
  write_sample(file);
  std::string bytes = content(file);
  ASSERT_EQ(bytes[8], 3);  // superblock version 3
  ASSERT_EQ(bytes[11], 0);
  bytes[11] = 1;
  replace(file, bytes);
  EXPECT_HAS(refusal(ExitCode::kData, [&] { Reader r(file); }), "marked as open for writing");
}

TEST(Hdf5Test, SurvivesAnyChangedByte) {
  const test::TempDir dir;
  const fs::path file = dir.path() / "sample.h5";
  write_sample(file);
  const std::string whole = content(file);
  const uint64_t data = *Reader(file).info("/tokens").offset;
  int refused = 0, changed = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    if (i >= data && i < data + kTokens.size() * 2) continue;
    std::string bytes = whole;
    bytes[i] = char(bytes[i] ^ (1 << (i % 8)));
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
    ++changed;
    try {
      const Reader r(file);
      for (const auto& [name, info] : r.datasets())
        if (info.problem.empty() && info.numel > 0 && !info.is_text) {
          std::vector<std::byte> out(info.numel * size_of(info.type));
          r.read(name, Shape(info.shape.size(), 0), info.shape, out);
        }
      r.text("/", "format");
    } catch (const Error& e) {
      EXPECT_TRUE(e.code() == ExitCode::kData || e.code() == ExitCode::kIo) << i << ": " << e.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, changed / 3);  // the rest is padding and small data
}

// Files that only the library itself can make.
struct Foreign {
  explicit Foreign(const fs::path& path)
      : file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT)) {}
  ~Foreign() { H5Fclose(file); }
  void dataset(const std::string& name, hid_t type, const std::vector<hsize_t>& shape,
               hid_t properties = H5P_DEFAULT) {
    const hid_t space = H5Screate_simple(int(shape.size()), shape.data(), nullptr);
    H5Dclose(H5Dcreate2(file, name.c_str(), type, space, H5P_DEFAULT, properties, H5P_DEFAULT));
    H5Sclose(space);
  }
  hid_t file;
};

TEST(Hdf5Test, RefusesLinksThatLeaveTheTree) {
  const test::TempDir dir;
  const auto refusal_of = [&](const std::function<void(hid_t)>& make) {
    const fs::path file = dir.path() / "foreign.h5";
    {
      Foreign f(file);
      H5Gclose(H5Gcreate2(f.file, "/group", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
      make(f.file);
    }
    return refusal(ExitCode::kData, [&] { Reader r(file); });
  };
  EXPECT_HAS(refusal_of([](hid_t f) {
               H5Lcreate_external("/etc/x.h5", "/a", f, "/away", H5P_DEFAULT, H5P_DEFAULT);
             }),
             "'/away' is an external link");
  EXPECT_HAS(
      refusal_of([](hid_t f) { H5Lcreate_soft("/group", f, "/group/soft", H5P_DEFAULT, H5P_DEFAULT); }),
      "'/group/soft' is a soft link");
  EXPECT_HAS(refusal_of([](hid_t f) { H5Lcreate_hard(f, "/", f, "/group/up", H5P_DEFAULT, H5P_DEFAULT); }),
             "'/group/up' is linked twice");
  EXPECT_HAS(refusal_of([](hid_t f) {
               hid_t g = H5Gopen2(f, "/group", H5P_DEFAULT);
               for (int i = 0; i < 40; ++i) {
                 const hid_t next = H5Gcreate2(g, "g", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
                 H5Gclose(g);
                 g = next;
               }
               H5Gclose(g);
             }),
             "nested deeper than 32");
  const fs::path many = dir.path() / "many.h5";
  {
    Foreign f(many);
    for (int i = 0; i < 20; ++i) f.dataset(std::string(size_t(i + 1), 'd'), H5T_STD_U16LE, {1});
  }
  EXPECT_HAS(refusal(ExitCode::kData,
                     [&] {
                       Reader r(many, Reader::Limits{32, 19});
                     }),
             "more than 19 objects");
  EXPECT_EQ(Reader(many, Reader::Limits{32, 20}).datasets().size(), 20u);
}

TEST(Hdf5Test, RefusesDataSetsThatItCannotReadSafely) {
  const test::TempDir dir;
  const fs::path file = dir.path() / "foreign.h5";
  {
    Foreign f(file);
    f.dataset("/big_endian", H5T_STD_U16BE, {4});
    f.dataset("/unwritten", H5T_STD_U16LE, {hsize_t(1) << 50});
    const hid_t vlen = H5Tvlen_create(H5T_STD_U16LE);
    f.dataset("/vlen", vlen, {4});
    H5Tclose(vlen);
    const hid_t chunked = H5Pcreate(H5P_DATASET_CREATE), external = H5Pcreate(H5P_DATASET_CREATE),
                scale = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk = 1000;
    H5Pset_chunk(chunked, 1, &chunk);
    f.dataset("/unwritten_chunks", H5T_STD_U16LE, {hsize_t(1) << 60}, chunked);
    H5Pset_external(external, "/etc/passwd", 0, 8);
    f.dataset("/external", H5T_STD_U16LE, {4}, external);
    H5Pset_chunk(scale, 1, &chunk);
    H5Pset_scaleoffset(scale, H5Z_SO_INT, 4);
    f.dataset("/filter", H5T_STD_U16LE, {chunk}, scale);
    const hsize_t huge_chunk = 300u << 20;
    H5Pset_chunk(chunked, 1, &huge_chunk);
    f.dataset("/huge_chunks", H5T_STD_U16LE, {huge_chunk}, chunked);
    for (const hid_t p : {chunked, external, scale}) H5Pclose(p);
  }
  const Reader r(file);
  const std::pair<const char*, const char*> cases[] = {
      {"/big_endian", "big-endian"},
      {"/unwritten", "was never written"},
      {"/vlen", "neither numbers nor strings of fixed size"},
      {"/unwritten_chunks", "stored bytes cannot hold"},
      {"/external", "external files"},
      {"/filter", "uses filter 6"},
      {"/huge_chunks", "chunks of more than 256 MiB"},
  };
  EXPECT_EQ(r.datasets().size(), std::size(cases));
  for (const auto& [name, reason] : cases) {
    EXPECT_HAS(refusal(ExitCode::kData, [&] { r.info(name); }), reason);
    EXPECT_HAS(refusal(ExitCode::kData, [&] { r.read_vector<uint16_t>(name, 4); }), name);
  }
}

TEST(Hdf5Test, ReadsForeignChunkedAndCompressedData) {
  const test::TempDir dir;
  const fs::path file = dir.path() / "foreign.h5";
  const std::vector<int32_t> values(100'000, 7);
  {
    Foreign f(file);
    const hid_t p = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk = 4096;
    H5Pset_chunk(p, 1, &chunk);
    H5Pset_shuffle(p);
    H5Pset_deflate(p, 6);
    H5Pset_fletcher32(p);
    f.dataset("/input_ids", H5T_STD_I32LE, {values.size()}, p);
    H5Pclose(p);
    const hid_t d = H5Dopen2(f.file, "/input_ids", H5P_DEFAULT);
    H5Dwrite(d, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
    H5Dclose(d);
  }
  EXPECT_LT(fs::file_size(file), 20'000u);
  EXPECT_EQ(Reader(file).read_vector<int32_t>("/input_ids", values.size()), values);
}

}  // namespace
}  // namespace rookery::data::h5
