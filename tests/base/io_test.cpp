// io_test.cpp: the I/O layer: writing with injected faults, atomicity under SIGKILL at each point, checksums.
#include "kernels/base/io.h"
#include "kernels/base/crc32.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <set>

#include "kernels/base/error.h"
#include "kernels/base/fault.h"
#include "tests/support/process.h"

namespace rookery {
namespace {

using test::fs::path;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Runs `f`, which must throw an Error, and returns it.
template <class F>
Error thrown_by(F f) {
  try {
    f();
  } catch (const Error& e) {
    return e;
  }
  return Error(ExitCode::kOk, "", "nothing was thrown");
}

size_t count_temporaries(const path& folder) {
  size_t n = 0;
  for (const auto& entry : test::fs::directory_iterator(folder)) n += io::is_temporary(entry.path());
  return n;
}

const std::string kOld = "old content", kNew(100'000, 'n');

// The write that the fault tests below repeat in other processes, in the folder that they name.
TEST(IoTest, AtomicWriteReplacesTheOldContent) {
  const test::TempDir own;
  const char* given = std::getenv("ROOKERY_TEST_FOLDER");
  const path file = path(given ? given : own.path()) / "file.txt";
  if (!given) io::write_file_atomic(file, kOld, "test");
  io::write_file_atomic(file, kNew, "test");
  EXPECT_EQ(io::read_file(file, 1 << 20), kNew);
  EXPECT_EQ(count_temporaries(file.parent_path()), 0u);
}

struct Attempt {
  test::Outcome outcome;
  std::string content;
  size_t temporaries;
};

Attempt replace_with_fault(const std::string& fault) {
  const test::TempDir dir;
  io::write_file_atomic(dir.path() / "file.txt", kOld, "test");
  const auto outcome =
      test::run_test_again("IoTest.AtomicWriteReplacesTheOldContent",
                           {{"ROOKERY_FAULT", fault}, {"ROOKERY_TEST_FOLDER", dir.path().string()}});
  return {outcome, io::read_file(dir.path() / "file.txt", 1 << 20), count_temporaries(dir.path())};
}

TEST(IoTest, KilledAtAnyPointLeavesOldOrNewContent) {
  int killed = 0;
  for (;; ++killed) {
    const Attempt a = replace_with_fault(str("*@", killed + 1, ":kill"));
    EXPECT_TRUE(a.content == kOld || a.content == kNew) << "killed at point " << killed + 1;
    EXPECT_LE(a.temporaries, 1u);
    if (a.outcome.signal != SIGKILL) {
      EXPECT_EQ(a.outcome.exit_code, 0);
      EXPECT_EQ(a.content, kNew);
      break;
    }
  }
  EXPECT_EQ(killed, 7);  // open, write, fsync, close, rename, renamed, syncdir
}

TEST(IoTest, AFailingDiskLeavesTheOldContentAndNoTemporary) {
  for (const char* fault : {"test.open:enospc", "test.write:enospc", "test.write:eio", "test.fsync:eio",
                            "test.close:eio", "test.rename:eio", "test.write:throw"}) {
    const Attempt a = replace_with_fault(fault);
    EXPECT_EQ(a.outcome.exit_code, 1) << fault;
    EXPECT_EQ(a.content, kOld) << fault;
    EXPECT_EQ(a.temporaries, 0u) << fault;
  }
}

TEST(IoTest, AShortWriteIsContinuedAndABitFlipIsWritten) {
  EXPECT_EQ(replace_with_fault("test.write:short").content, kNew);
  const std::string flipped = replace_with_fault("test.write:flip").content;
  ASSERT_EQ(flipped.size(), kNew.size());
  EXPECT_EQ(std::mismatch(flipped.begin(), flipped.end(), kNew.begin()).first - flipped.begin(),
            long(kNew.size() / 2));
}

TEST(IoTest, AWrongFaultSpecificationIsAUsageError) {
  for (const char* fault : {"test.write", "test.write@0:kill", "test.write@x:kill", "test.write:explode",
                            "a:delay=", "test.open:kill,,"}) {
    EXPECT_EQ(replace_with_fault(fault).outcome.exit_code, 1) << fault;
    EXPECT_EQ(replace_with_fault(fault).content, kOld) << fault;
  }
}

TEST(IoTest, ErrorsNameThePathAndTheReason) {
  const test::TempDir dir;
  const path file = dir.path() / "a";
  io::OutputFile out(file, "test");
  out.write("text");
  out.close();

  const Error exists = thrown_by([&] { io::OutputFile again(file, "test"); });
  EXPECT_EQ(exists.code(), ExitCode::kCannotCreate);
  EXPECT_NE(std::string(exists.what()).find(file.string()), std::string::npos);
  EXPECT_NE(std::string(exists.what()).find("File exists"), std::string::npos);
  EXPECT_EQ(thrown_by([&] { io::OutputFile nowhere(dir.path() / "no" / "file", "test"); }).code(),
            ExitCode::kCannotCreate);
  EXPECT_EQ(thrown_by([&] { io::read_file(file, 3); }).code(), ExitCode::kData);
  EXPECT_EQ(thrown_by([&] { io::read_file(dir.path() / "absent", 9); }).code(), ExitCode::kNoInput);
  EXPECT_EQ(thrown_by([&] { io::read_file(dir.path(), 9); }).code(), ExitCode::kNoInput);
  EXPECT_EQ(thrown_by([&] { io::rename(dir.path() / "absent", file, "test"); }).code(), ExitCode::kIo);
  EXPECT_EQ(thrown_by([&] { fault_point("no.such.point"); }).code(), ExitCode::kInternal);
}

TEST(IoTest, ReadingRefusesAPipeWithoutWaiting) {
  const test::TempDir dir;
  ASSERT_EQ(::mkfifo((dir.path() / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(thrown_by([&] { io::read_file(dir.path() / "pipe", 9); }).code(), ExitCode::kNoInput);
  EXPECT_EQ(thrown_by([&] { io::MappedFile map(dir.path() / "pipe"); }).code(), ExitCode::kNoInput);
}

TEST(IoTest, PositionedWritesAppendAndTruncate) {
  const test::TempDir dir;
  const path file = dir.path() / "a";
  {
    io::OutputFile out(file, "test");
    out.write("0123456789");
    out.write_at(2, bytes_of("ab"));
    out.write("X");
    std::array<std::byte, 4> back;
    out.read_at(1, back);
    EXPECT_TRUE(std::ranges::equal(back, bytes_of("1ab4")));
    EXPECT_THROW(out.read_at(9, back), Error);
    out.truncate(10);
    EXPECT_EQ(out.size(), 10u);
    out.sync();
    out.close();
  }
  io::OutputFile(file, "test", io::OutputFile::Mode::kAppend).write("end");
  EXPECT_EQ(io::read_file(file, 100), "01ab456789end");
}

TEST(IoTest, RemoveAllDoesNotFollowLinksAndExchangeSwaps) {
  const test::TempDir dir;
  const path tree = dir.path() / "tree", kept = dir.path() / "kept";
  io::create_directories(tree / "deep" / "er");
  io::create_directories(kept);
  io::write_file_atomic(kept / "file", "kept", "test");
  io::write_file_atomic(tree / "deep" / "file", "gone", "test");
  test::fs::create_directory_symlink(kept, tree / "link");
  io::exchange(tree, kept, "test");
  EXPECT_EQ(io::read_file(tree / "file", 10), "kept");
  io::exchange(tree, kept, "test");
  io::remove_all(tree, "test");
  EXPECT_FALSE(test::fs::exists(tree));
  EXPECT_EQ(io::read_file(kept / "file", 10), "kept");
  io::remove(dir.path() / "absent", "test");
}

TEST(IoTest, AMappedFileNoticesItsReplacement) {
  const test::TempDir dir;
  const path file = dir.path() / "a";
  io::write_file_atomic(file, "first", "test");
  const io::MappedFile map(file);
  EXPECT_TRUE(std::ranges::equal(map.bytes(), bytes_of("first")));
  EXPECT_FALSE(map.changed());
  io::write_file_atomic(file, "other", "test");
  EXPECT_TRUE(map.changed());
  EXPECT_TRUE(std::ranges::equal(map.bytes(), bytes_of("first")));
}

TEST(IoTest, TemporaryNamesAreRecognised) {
  EXPECT_TRUE(io::is_temporary(io::temporary_beside("folder/latest")));
  EXPECT_EQ(io::temporary_beside("folder/latest").parent_path(), "folder");
  EXPECT_NE(io::temporary_beside("a"), io::temporary_beside("a"));
  for (const char* name :
       {"latest", "step-00000001.tmp", "a.0123456789abcdeg.tmp", "0123456789abcdef.tmp", ".tmp"})
    EXPECT_FALSE(io::is_temporary(name)) << name;
}

TEST(FaultTest, EveryPointThatWasPassedIsInTheTableOnce) {
  const test::TempDir dir;
  io::write_file_atomic(dir.path() / "a", "x", "test");
  std::set<std::string_view> names;
  for (const FaultPointInfo& info : fault_point_table()) {
    EXPECT_TRUE(names.insert(info.name).second) << info.name;
    EXPECT_FALSE(info.help.empty());
  }
  const auto seen = fault_points_seen();
  ASSERT_GE(seen.size(), 7u);
  for (const FaultPointUse& use : seen) {
    EXPECT_TRUE(names.count(use.name)) << use.name;
    EXPECT_GE(use.count, 1);
  }
}

TEST(ChecksumTest, Crc32cFollowsThePublishedVectors) {
  EXPECT_EQ(io::crc32c(bytes_of("123456789")), 0xE3069283u);
  EXPECT_EQ(io::crc32c({}), 0u);
  const std::vector<std::byte> zeros(32), ones(32, std::byte{0xff});  // RFC 3720, B.4
  EXPECT_EQ(io::crc32c(zeros), 0x8A9136AAu);
  EXPECT_EQ(io::crc32c(ones), 0x62A8AB43u);
}

TEST(ChecksumTest, InstructionAndTableAgreeAtAnyLengthAndCut) {
  std::vector<std::byte> data(1000);
  uint32_t x = 1;
  for (std::byte& b : data) b = std::byte((x = x * 1664525 + 1013904223) >> 24);
  for (size_t n = 0; n < 70; ++n) {
    const std::span<const std::byte> part(data.data() + n, n);
    EXPECT_EQ(io::crc32c(part), io::crc32c_portable(part)) << n;
  }
  const std::span<const std::byte> all(data);
  for (const size_t cut : {0, 1, 7, 8, 500, 999, 1000})
    EXPECT_EQ(io::crc32c(all.subspan(cut), io::crc32c(all.first(cut))), io::crc32c_portable(all));
}

TEST(ChecksumTest, Crc32FollowsThePublishedVector) {
  EXPECT_EQ(io::crc32(bytes_of("123456789")), 0xCBF43926u);
  EXPECT_EQ(io::crc32(bytes_of("9"), io::crc32(bytes_of("12345678"))), 0xCBF43926u);
}

TEST(ChecksumTest, Sha256FollowsThePublishedVectors) {
  EXPECT_EQ(io::sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(io::sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(io::sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  const std::string million(1'000'000, 'a');
  EXPECT_EQ(io::sha256(million), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  const test::TempDir dir;
  io::write_file_atomic(dir.path() / "million", million, "test");
  EXPECT_EQ(io::sha256_file(dir.path() / "million"), io::sha256(million));
}

}  // namespace
}  // namespace rookery
