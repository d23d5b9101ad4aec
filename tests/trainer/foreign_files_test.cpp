// foreign_files_test.cpp: weights of other programs: every file of golden/foreign that must load or must be
// refused (the manifest says what of each), what our writers write, and files built here byte by byte that
// break one rule each.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/base/crc32.h"
#include "tests/data/support.h"
#include "tests/support/golden.h"
#include "tests/support/process.h"
#include "tests/support/shared.h"
#include "trainer/checkpoint/foreign/hf_folder.h"
#include "trainer/checkpoint/foreign/pickle.h"
#include "trainer/checkpoint/foreign/safetensors.h"
#include "trainer/checkpoint/foreign/torch_file.h"
#include "trainer/checkpoint/foreign/zip_file.h"

namespace rookery::foreign {
namespace {

using nlohmann::json;
using test::append;
using test::expect_error;
using test::write_text;

// ---- the files of golden/foreign

fs::path golden(const json& entry) {
  return test::golden_folder() / "foreign" / entry["file"].get<std::string>();
}

std::vector<json> manifest(std::string_view expect) {
  std::vector<json> entries;
  const fs::path path = test::golden_folder() / "foreign/manifest.json";
  const json files = json::parse(test::read_text(path))["files"];
  for (const json& entry : files)
    if (entry["expect"] == expect && !entry["format"].get<std::string>().starts_with("Megatron"))
      entries.push_back(entry);
  return entries;
}

std::unique_ptr<TensorFile> open_any(const fs::path& path) {
  return fs::is_directory(path) ? open_hf_folder(path).tensors : open_tensor_file(path);
}

std::string hex_of(uint32_t value) {
  char text[9];
  std::snprintf(text, sizeof text, "%08x", value);
  return text;
}

std::vector<std::byte> content(const TensorFile& file, size_t i) {
  std::vector<std::byte> bytes(file.tensors()[i].bytes());
  file.read(i, 0, bytes);
  return bytes;
}

TEST(ForeignManifest, FilesOfOtherProgramsLoad) {
  RK_NEEDS_SHARED(test::golden_folder() / "foreign/manifest.json");
  const std::vector<json> entries = manifest("load");
  EXPECT_GE(entries.size(), 12u);
  for (const json& entry : entries) {
    SCOPED_TRACE(entry["file"]);
    const auto file = open_any(golden(entry));
    file->verify();
    EXPECT_EQ(file->tensors().size(), entry["tensors"].size());
    for (size_t i = 0; i < file->tensors().size(); ++i) {
      const TensorInfo& t = file->tensors()[i];
      SCOPED_TRACE(t.name);
      ASSERT_TRUE(entry["tensors"].contains(t.name));
      const json& expected = entry["tensors"][t.name];
      EXPECT_EQ(to_string(t.type), expected["dtype"]);
      EXPECT_EQ(t.shape, expected["shape"].get<Dims>());
      const std::vector<std::byte> bytes = content(*file, i);
      EXPECT_EQ(hex_of(io::crc32(bytes)), expected["crc32"]);
      std::string first;
      for (size_t k = 0; k < std::min<size_t>(bytes.size(), 16); ++k)
        first += hex_of(uint32_t(bytes[k])).substr(6);
      EXPECT_EQ(first, expected["first_hex"]);
      // Any range of the content is what it is of the whole.
      const uint64_t item = size_of(t.type), numel = bytes.size() / item;
      for (uint64_t begin = 0; begin < numel; begin += 5) {
        std::vector<std::byte> part(std::min<uint64_t>(7, numel - begin) * item);
        file->read(i, begin * item, part);
        EXPECT_TRUE(std::equal(part.begin(), part.end(), bytes.begin() + long(begin * item))) << begin;
      }
    }
    if (entry.contains("metadata")) {
      const auto& metadata = dynamic_cast<const SafetensorsFile&>(*file).metadata();
      EXPECT_EQ(json(metadata), entry["metadata"]);
    }
  }
}

TEST(ForeignManifest, HostileAndDamagedFilesAreRefused) {
  RK_NEEDS_SHARED(test::golden_folder() / "foreign/manifest.json");
  const std::vector<json> entries = manifest("reject");
  EXPECT_GE(entries.size(), 35u);
  for (const json& entry : entries) {
    SCOPED_TRACE(entry["file"]);
    std::vector<std::string> words{entry.value("must_name", std::string())};
    if (entry.contains("opcode_offset"))
      words.push_back(str("byte ", entry["opcode_offset"].get<int>(), ":"));
    if (entry["file"] == "hostile/lfs_pointer.pth") words.push_back("git lfs pull");
    if (entry["file"] == "hostile/not_a_checkpoint.pth") words.push_back("HTML");
    if (entry["file"] == "hostile/zip_truncated.pth") words.push_back("cut short");
    if (entry["file"] == "legacy.pth") words.push_back("saving it again with torch.save");
    const fs::path path = golden(entry);
    expect_error([&] { open_any(path); }, ExitCode::kData, "", words);
  }
}

// ---- pickles

std::string text_op(const std::string& text) {
  std::string op = "X";
  append<uint32_t>(op, uint32_t(text.size()));
  return op + text;
}
std::string global_op(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
std::string int_op(int32_t value) {
  std::string op = "J";
  append(op, value);
  return op;
}
std::string tuple_op(const std::vector<int32_t>& values) {
  std::string op = "(";
  for (const int32_t v : values) op += int_op(v);
  return op + "t";
}
// _rebuild_tensor_v2 over storage "0" of `numel` floats.
std::string tensor_op(int32_t numel, int32_t offset, const std::vector<int32_t>& size,
                      const std::vector<int32_t>& stride) {
  return global_op("torch._utils", "_rebuild_tensor_v2") + "((" + text_op("storage") +
         global_op("torch", "FloatStorage") + text_op("0") + text_op("cpu") + int_op(numel) + "tQ" +
         int_op(offset) + tuple_op(size) + tuple_op(stride) + "\x89" +
         global_op("collections", "OrderedDict") + ")RtR";
}
std::string pickle(const std::string& body) { return "\x80\x02" + body + "."; }
std::string pickle_of(const std::string& tensor) { return pickle("}" + text_op("a") + tensor + "s"); }

TEST(Pickle, WriterGivesTheGoldenBytes) {
  const TensorInfo emb{"emb.weight", Type::kBf16, {3, 2}};
  std::string hex;
  for (const char c : pickle_tensors(std::span(&emb, 1))) hex += hex_of(uint8_t(c)).substr(6);
  EXPECT_EQ(
      hex,
      "80027d7100580a000000656d622e776569676874710163746f7263682e5f7574696c730a5f72656275696c645f74656e736f72"
      "5f76320a71022828580700000073746f72616765710363746f7263680a42466c6f6174313653746f726167650a710458010000"
      "00307105580300000063707571064b06747107514b004b034b028671084b024b018671098963636f6c6c656374696f6e730a4f"
      "726465726564446963740a710a2952710b74710c52710d732e");
}

TEST(Pickle, WhatIsWrittenReadsBack) {
  const std::vector<TensorInfo> tensors = {{"scalar", Type::kF32, {}},
                                           {"empty", Type::kF64, {0, 3}},
                                           {"four", Type::kI64, {2, 3, 4, 5}},
                                           {"wide", Type::kF16, {300, 70000}},
                                           {"long", Type::kU8, {uint64_t{3} << 30}},
                                           {"sign", Type::kU8, {uint64_t{0x80} << 56 >> 1}}};
  const std::string bytes = pickle_tensors(tensors);
  const Unpickled out = unpickle(bytes, "test");
  const PickleItems& map = out.collections[out.root.index];
  ASSERT_EQ(map.size(), 2 * tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(map[2 * i].text, tensors[i].name);
    const PickledTensor& t = out.tensors[map[2 * i + 1].index];
    EXPECT_EQ(Dims(t.size.begin(), t.size.end()), tensors[i].shape);
    EXPECT_EQ(t.storage.type, tensors[i].type);
    EXPECT_EQ(t.storage.key, std::to_string(i));
    EXPECT_EQ(uint64_t(t.storage.numel), *numel_of(tensors[i].shape));
  }
}

TEST(Pickle, HostileOnesAreRefusedAndNothingRuns) {
  const auto refused = [](const std::string& bytes, const std::vector<std::string>& words) {
    expect_error([&] { unpickle(bytes, "test"); }, ExitCode::kData, "WTS-03", words);
  };
  for (const auto& [module, name] : {std::pair{"os", "system"},
                                     {"posix", "system"},
                                     {"nt", "system"},
                                     {"builtins", "eval"},
                                     {"builtins", "getattr"},
                                     {"torch", "load"},
                                     {"torch._utils", "_rebuild_tensor_v3"},
                                     {"collections", "OrderedDict2"},
                                     {"torch FloatStorage\nx", "y"}})
    refused(pickle(global_op(module, name) + text_op("true") + "\x85R"), {"byte 2:", "global"});
  refused("\x80\x04}.", {"protocol 4"});
  refused("", {"byte 0:", "needs 1 bytes"});
  refused("\x80\x02}", {"needs 1 bytes"});  // no STOP
  refused(pickle("}") + "}", {"after the end"});
  refused(pickle("}}"), {"ends with 2 values"});
  refused(pickle("("), {"ends with 1 values"});
  refused(pickle(""), {"ends with 0 values"});
  refused(pickle("R"), {"too few values"});
  refused(pickle("(R"), {"too few values"});  // not through a mark
  refused(pickle("(}s"), {"too few values"});
  refused(pickle("t"), {"no mark"});
  refused(pickle("]}a}u"), {"no mark"});
  refused(pickle("}(" + text_op("a") + "u"), {"without a value"});
  refused(pickle("]" + text_op("a") + text_op("b") + "s"), {"expected a dictionary"});
  refused(pickle("}" + text_op("a") + "a"), {"expected a list"});
  refused(pickle(")}b"), {"expected a dictionary"});
  refused(pickle("\x8a\x09" + std::string(9, '\1')), {"9 bytes"});
  refused(pickle("Xabcd"), {"a text of"});
  refused(pickle(text_op("\xff\xfe")), {"not UTF-8"});
  refused(pickle("j\xff\xff\xff\xff"), {"memo entry 4294967295 was never put"});
  refused(pickle("cos"), {"without an end"});
  refused(pickle(std::string(65, '(')), {"levels"});
  refused(pickle(text_op("0") + "Q"), {"persistent id"});
  refused(pickle("(" + text_op("storage") + global_op("collections", "OrderedDict") + text_op("0") +
                 text_op("cpu") + int_op(1) + "tQ"),
          {"no type of storage"});
  refused(pickle(global_op("torch.nn.parameter", "Parameter") + ")\x81"), {"Parameter"});
  refused(pickle(global_op("collections", "OrderedDict") + text_op("a") + "\x85R"), {"OrderedDict"});
  refused(pickle(global_op("torch._utils", "_rebuild_tensor") + ")R"), {"storage, offset"});
  for (const int op : {0x00, 0x8c, 0x94, 0x95, 0x93, 0x69, 0x6f, 0x82, 0x49, 0x56, 0xff})
    refused(pickle(std::string(1, char(op))), {"byte 2:", "opcode"});
}

// Depth costs no stack and memory stays in proportion to the pickle.
TEST(Pickle, DeepAndSharedValuesAreBounded) {
  const Unpickled deep = unpickle(pickle(")" + std::string(1'000'000, '\x85')), "test");
  EXPECT_EQ(deep.collections.size(), 1'000'001u);
  std::string laughs = ")q" + std::string(1, '\0');  // each level holds the one before three times
  for (int level = 0; level < 60; ++level)
    laughs += "h" + std::string(1, char(level)) + "h" + std::string(1, char(level)) + "h" +
              std::string(1, char(level)) + "\x87q" + std::string(1, char(level + 1)) + "0";
  expect_error([&] { unpickle(pickle(laughs), "test"); }, ExitCode::kData, "WTS-03", {"opcode 0x30"});  // POP
  std::string far = "}";
  for (uint32_t slot = 0; slot < 1000; ++slot) {
    far += "r";
    append<uint32_t>(far, slot * 4'000'000);
  }
  EXPECT_EQ(unpickle(pickle(far), "test").collections.size(), 1u);
  expect_error([&] { unpickle(pickle(std::string(4'000'001, 'N')), "test"); }, ExitCode::kData, "WTS-03",
               {"more than 4000000 values"});
}

// ---- archives

// A .pth of this pickle and one storage of four floats.
struct Archive {
  test::TempDir dir{test::TempDir::Place::kMemory};
  fs::path path = dir.path() / "file.pth";
  std::string bytes;
  explicit Archive(const std::string& data_pkl = pickle_of(tensor_op(4, 0, {2, 2}, {2, 1})),
                   const std::vector<std::pair<std::string, std::string>>& more = {},
                   const std::string& prefix = "m/") {
    ZipWriter zip(path);
    zip.add(prefix + "data.pkl", data_pkl);
    zip.add(prefix + "data/0", std::string(16, '\1'));
    for (const auto& [name, content] : more) zip.add(name, content);
    zip.finish();
    bytes = test::read_text(path);
  }
  size_t directory() const { return load_u32(bytes.size() - 6); }
  uint32_t load_u32(size_t at) const {
    uint32_t v;
    std::memcpy(&v, bytes.data() + at, 4);
    return v;
  }
  void set(size_t at, uint64_t value, size_t width) { std::memcpy(bytes.data() + at, &value, width); }
  void refused(const std::vector<std::string>& words, const std::string& id = "WTS-02") const {
    const fs::path changed = dir.path() / "changed.pth";
    write_text(changed, bytes);
    expect_error([&] { open_tensor_file(changed); }, ExitCode::kData, id, words);
  }
};

TEST(TorchFile, ArchivesThatLieAreRefused) {
  EXPECT_EQ(open_tensor_file(Archive().path)->tensors().size(), 1u);
  const auto changed = [](const auto& change, const std::vector<std::string>& words) {
    Archive a;
    change(a);
    a.refused(words);
  };
  // Offsets in the central directory: 8 flags, 10 method, 16 CRC, 20 and 24 sizes, 28 name, 34 disk, 42
  // place.
  changed([](Archive& a) { a.set(a.directory() + 8, 1, 2); }, {"encrypted"});
  changed([](Archive& a) { a.set(a.directory() + 10, 8, 2); }, {"m/data.pkl", "method 8"});
  changed([](Archive& a) { a.set(a.directory() + 20, 7, 4); }, {"sizes are 7"});
  changed([](Archive& a) { a.set(a.directory() + 20, 0x7ffffff07ffffff0, 8); },
          {"beyond the central directory"});
  changed([](Archive& a) { a.set(a.directory() + 20, ~uint64_t{0}, 8); }, {"beyond"});
  changed([](Archive& a) { a.set(a.directory() + 34, 1, 2); }, {"another disk"});
  changed([](Archive& a) { a.set(a.directory() + 42, 5, 4); }, {"no local header"});
  changed([](Archive& a) { a.set(a.directory() + 42, 0xfffffff0, 4); }, {"beyond"});
  changed([](Archive& a) { a.set(a.directory(), 0, 4); }, {"damaged"});
  changed([](Archive& a) { a.bytes[30] = 'x'; }, {"another name"});  // of the local header
  changed([](Archive& a) { a.set(8, 8, 2); }, {"another name or method"});
  changed([](Archive& a) { a.set(a.bytes.size() - 12, 9, 2); }, {"disks"});  // count of entries
  changed([](Archive& a) { a.set(a.bytes.size() - 10, 3, 4); }, {"central directory"});
  changed([](Archive& a) { a.set(a.bytes.size() - 6, 0xfffffff0, 4); }, {"central directory"});
  changed([](Archive& a) { a.bytes += "x"; }, {"cut short, or something was appended"});
  changed([](Archive& a) { a.bytes.pop_back(); }, {"cut short"});
  changed(
      [](Archive& a) {
        a.set(a.bytes.size() - 2, 1, 2);
        a.bytes += "x";
      },
      {"cut short, or something was appended"});  // a comment
  changed([](Archive& a) { a.bytes.resize(10); }, {"cut short"});
  changed([](Archive& a) { a.bytes = "PK"; }, {"cut short"});
  // The second entry claims the place of the first.
  changed(
      [](Archive& a) {
        const size_t second = a.directory() + 46 + 10;
        a.bytes.replace(second + 46, 8, "m/data.p");
        a.set(second + 42, 0, 4);
      },
      {"another name"});
  for (const char* name : {"../m/x", "/m/x", "m/../../x", "m\\x", "m/.."})
    Archive(pickle("}"), {{name, "x"}}).refused({"leaves the archive's folder"});
  Archive(pickle("}"), {{"m/data/0", "x"}}).refused({"two entries", "m/data/0"});
  Archive(pickle("}"), {{"n/data.pkl", "x"}}).refused({"m/data.pkl", "n/data.pkl"});
  Archive(pickle("}"), {{"m/byteorder", "big"}}).refused({"byteorder", "big"});
  Archive(pickle("}"), {{"m/constants.pkl", ""}}).refused({"TorchScript"}, "WTS-01");
}

// An entry whose header and content lie within the content of another one.
TEST(TorchFile, EntriesThatOverlapAreRefused) {
  std::string inner("PK\3\4", 4);
  inner += std::string(22, '\0');
  append<uint16_t>(inner, 3);
  append<uint16_t>(inner, 0);
  inner += "m/x";
  Archive a(pickle("}"), {{"m/outer", inner + "abcd"}, {"m/x", "abcd"}});
  EXPECT_NO_THROW(open_tensor_file(a.path));
  a.set(a.bytes.rfind("m/x") - 46 + 42, a.bytes.find(inner), 4);
  a.refused({"m/outer", "m/x", "overlap"});
}

TEST(TorchFile, TensorsThatTheirStorageDoesNotHoldAreNamed) {
  const auto refused = [](const std::string& tensor, const std::vector<std::string>& words) {
    std::vector<std::string> all = words;
    all.push_back("tensor a (byte ");
    Archive(pickle_of(tensor)).refused(all, "WTS-04");
  };
  refused(tensor_op(5, 0, {4}, {1}), {"5 elements", "16 bytes"});
  refused(tensor_op(-4, 0, {4}, {1}), {"below 0"});
  refused(tensor_op(4, -1, {2}, {1}), {"below 0"});
  refused(tensor_op(4, 0, {-2}, {1}), {"below 0"});
  refused(tensor_op(4, 3, {2}, {-1}), {"stride -1"});
  refused(tensor_op(4, 1, {4}, {1}), {"reach element 4"});
  refused(tensor_op(4, 0, {2, 2}, {3, 1}), {"reach element 4"});
  refused(tensor_op(4, 0, {2, 2}, {1}), {"2 sizes and 1 strides"});
  refused(tensor_op(4, 0, {2147483647, 2147483647, 2147483647}, {0, 0, 0}), {"asks for more"});
  refused(tensor_op(4, 0, {1000000}, {0}), {"asks for more"});  // 4 MB out of 16 bytes
  refused(tensor_op(4, 0, {2, 2}, {2147483647, 2147483647}), {"reach element"});
  EXPECT_NO_THROW(open_tensor_file(Archive(pickle_of(tensor_op(4, 0, {0, 9}, {9, 1}))).path));
  EXPECT_NO_THROW(open_tensor_file(Archive(pickle_of(tensor_op(4, 3, {1, 1}, {77, 5}))).path));
  Archive(pickle(int_op(1))).refused({"no map"}, "WTS-04");
  Archive(pickle("}(" + text_op("a") + tensor_op(4, 0, {4}, {1}) + text_op("a") + tensor_op(4, 0, {4}, {1}) +
                 "u"))
      .refused({"tensor a stands there twice"}, "WTS-04");
  Archive(pickle("}(" + text_op("model") + "}" + text_op("module") + "}u"))
      .refused({"more than one"}, "WTS-04");
  Archive(pickle("}" + int_op(1) + tensor_op(4, 0, {4}, {1}) + "s")).refused({"is no text"}, "WTS-04");
}

TEST(TorchFile, VerifyFindsAChangedByte) {
  Archive a;
  const size_t at = a.bytes.find(std::string(16, '\1'));
  ASSERT_NE(at, std::string::npos);
  EXPECT_EQ(at % 64, 0u) << "storages start at multiples of 64 bytes";
  a.bytes[at + 3] = '\2';
  write_text(a.path, a.bytes);
  const auto file = open_tensor_file(a.path);
  expect_error([&] { file->verify(); }, ExitCode::kData, "WTS-02", {"m/data/0", "CRC-32"});
}

TEST(TorchFile, EntriesBeyondFourGigabytesAreReachable) {
  const test::TempDir dir;
  const fs::path path = dir.path() / "large.pth";
  constexpr uint64_t kLarge = (uint64_t{1} << 32) + 4096;
  const std::vector<TensorInfo> tensors = {{"large", Type::kU8, {kLarge}}, {"after", Type::kU8, {5}}};
  ZipWriter zip(path);
  zip.add("a/data.pkl", pickle_tensors(tensors));
  zip.add_zeros("a/data/0", kLarge);
  zip.add("a/data/1", "after");
  zip.finish();
  const auto file = open_tensor_file(path);
  ASSERT_EQ(file->tensors().size(), 2u);
  EXPECT_EQ(file->tensors()[0].shape, Dims{kLarge});
  std::string text(5, '\0');
  file->read(1, 0, std::as_writable_bytes(std::span(text)));
  EXPECT_EQ(text, "after");
  file->read(0, kLarge - 5, std::as_writable_bytes(std::span(text)));
  EXPECT_EQ(text, std::string(5, '\0'));

  // Its two sizes in the zip64 field of the directory, now near 2^64.
  std::fstream bytes(path, std::ios::binary | std::ios::in | std::ios::out);
  std::string tail(400, '\0'), size;
  bytes.seekg(-400, std::ios::end);
  bytes.read(tail.data(), 400);
  append(size, kLarge);
  const size_t at = tail.find(size + size);
  ASSERT_NE(at, std::string::npos);
  bytes.seekp(static_cast<std::streamoff>(at) - 400, std::ios::end);
  size.clear();
  append(size, ~uint64_t{7});
  bytes << size << size << std::flush;
  expect_error([&] { open_tensor_file(path); }, ExitCode::kData, "WTS-02",
               {"a/data/0 claims 18446744073709551608 bytes", "beyond"});
}

// ---- safetensors

std::string safetensors(const std::string& header, uint64_t data_bytes) {
  std::string file;
  append<uint64_t>(file, header.size());
  return file + header + std::string(data_bytes, '\0');
}

TEST(Safetensors, EachRuleOfTheHeaderHasItsMessage) {
  const test::TempDir dir(test::TempDir::Place::kMemory);
  const fs::path path = dir.path() / "file.safetensors";
  const auto refused = [&](const std::string& bytes, const std::vector<std::string>& words) {
    write_text(path, bytes);
    expect_error([&] { open_tensor_file(path); }, ExitCode::kData, "", words);
  };
  const auto one = [](const std::string& entry, uint64_t bytes) {
    return safetensors("{\"a\":" + entry + "}", bytes);
  };
  refused("", {"empty"});
  refused("1234567", {"only 7 bytes"});
  refused(safetensors("[]", 0), {"does not begin with '{'"});
  refused(safetensors("{\"a\":{}}", 0), {"a: expected dtype, shape and data_offsets"});
  refused(safetensors("{\"a\":1}", 0), {"tensor a"});
  refused(safetensors("{\"__metadata__\":{\"k\":1}}", 0), {"value of 'k' is no string"});
  refused(safetensors("{\"__metadata__\":[]}", 0), {"__metadata__"});
  refused(one(R"({"dtype":"F32","shape":[1.5],"data_offsets":[0,4]})", 4), {"a: shape holds 1.5"});
  refused(one(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]})", 4), {"shape holds"});
  refused(one(R"({"dtype":"F32","shape":["1"],"data_offsets":[0,4]})", 4), {"shape holds"});
  refused(one(R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})", 4), {"shape is no list"});
  refused(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0]})", 4), {"data_offsets"});
  refused(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})", 4), {"end before they begin"});
  refused(one(R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})", 4), {"data_offsets holds -4"});
  refused(one(R"({"dtype":"F4","shape":[2],"data_offsets":[0,1]})", 1), {"unsupported dtype F4", "a"});
  refused(one(R"({"dtype":7,"shape":[2],"data_offsets":[0,1]})", 1), {"dtype is no string"});
  refused(one(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0})", 1), {"expected dtype"});
  refused(safetensors("{}", 1), {"1 bytes after the end"});
  refused(safetensors(std::string(40, '{'), 0), {"is not JSON"});
  std::string deep = "{\"a\":";
  for (int i = 0; i < 40; ++i) deep += "[";
  refused(safetensors(deep, 0), {"nested deeper"});
  refused(safetensors(R"({"a":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}})", 1),
          {"'dtype' stands twice"});
}

TEST(Safetensors, WriterFollowsThePublishedLayout) {
  const test::TempDir dir(test::TempDir::Place::kMemory);
  const fs::path path = dir.path() / "file.safetensors";
  const auto writer = write_safetensors(
      path, {{"b", Type::kBf16, {2}}, {"c", Type::kF32, {}}, {"a", Type::kF32, {1, 2}}}, {{"k", "v"}});
  std::string order;
  for (const TensorInfo& t : writer->tensors()) {
    order += t.name;
    writer->write(std::vector<std::byte>(t.bytes(), std::byte(t.name[0])));
  }
  writer->finish();
  EXPECT_EQ(order, "acb");
  const std::string bytes = test::read_text(path);
  uint64_t header;
  std::memcpy(&header, bytes.data(), 8);
  EXPECT_EQ(header % 8, 0u);
  EXPECT_EQ(bytes.substr(8 + header), "aaaaaaaaccccbbbb");
  const json parsed = json::parse(bytes.substr(8, header));
  EXPECT_EQ(parsed["__metadata__"], (json{{"format", "pt"}, {"k", "v"}}));
  EXPECT_EQ(parsed["a"], (json{{"dtype", "F32"}, {"shape", {1, 2}}, {"data_offsets", {0, 8}}}));
  EXPECT_EQ(open_tensor_file(path)->tensors().size(), 3u);
}

// ---- folders

TEST(HfFolder, IndexesThatLeaveTheFolderOrLieAreRefused) {
  const test::TempDir dir(test::TempDir::Place::kMemory);
  const auto write_shard = [&](const std::string& name, const std::string& tensor) {
    const auto writer = write_safetensors(dir.path() / name, {{tensor, Type::kU8, {1}}}, {});
    writer->write(std::vector<std::byte>(1));
    writer->finish();
  };
  write_shard("one.safetensors", "a");
  const fs::path index = dir.path() / "model.safetensors.index.json";
  const auto refused = [&](const json& map, const std::vector<std::string>& words) {
    write_text(index, json{{"weight_map", map}}.dump());
    expect_error([&] { open_hf_folder(dir.path()); }, ExitCode::kData, "WTS-07", words);
  };
  for (const char* name :
       {"/etc/passwd", "../one.safetensors", "..", ".", "", "x/../one.safetensors", "a\\b"})
    refused({{"a", name}}, {"plain file name"});
  refused({{"a", 1}}, {"no string"});
  refused({{"a", "two.safetensors"}}, {"two.safetensors", "not in the folder"});
  refused({{"b", "one.safetensors"}}, {"one.safetensors holds b"});
  refused(json::array(), {"weight_map"});
  write_text(index, json{{"weight_map", {{"a", "one.safetensors"}}}}.dump());
  EXPECT_EQ(open_hf_folder(dir.path()).tensors->tensors().size(), 1u);
  fs::remove(dir.path() / "one.safetensors");
  write_shard("one.safetensors", "extra");
  refused({{"a", "one.safetensors"}}, {"holds a"});
  write_text(index, "{\"weight_map\":{\"a\":\"x\",\"a\":\"y\"}}");
  expect_error([&] { open_hf_folder(dir.path()); }, ExitCode::kData, "WTS-06", {"'a' stands twice"});
  fs::remove(index);
  expect_error([&] { open_hf_folder(dir.path()); }, ExitCode::kData, "WTS-07", {"neither"});
  write_text(dir.path() / "latest", "global_step1");
  expect_error([&] { open_hf_folder(dir.path()); }, ExitCode::kData, "WTS-07", {"DeepSpeed"});
  expect_error([&] { open_hf_folder(dir.path() / "absent"); }, ExitCode::kNoInput, "", {"absent"});
}

}  // namespace
}  // namespace rookery::foreign
