// checkpoint_test.cpp: checkpoints: round trip, any cut into any other, every kind of damage, retention,
// lock.
#include "trainer/checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <fstream>

#include "data/hdf5/hdf5.h"
#include "kernels/base/error.h"
#include "kernels/base/io.h"
#include "tests/support/process.h"
#include "tests/support/sample_checkpoint.h"
#include "trainer/checkpoint/run_lock.h"

// HDF5 itself forgets to free what it had read of a damaged file; the leak check of the asan preset is told
// so.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace rookery::checkpoint {
namespace {

using test::Pieces;
using test::sample_pieces;
using test::save_sample;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}
#define EXPECT_HAS(text, part) EXPECT_PRED2(contains, text, part)

std::string refusal(ExitCode code, const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "nothing was thrown";
}

std::string content(const fs::path& path) { return io::read_file(path, 1 << 26); }
void replace(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// Collects warnings as one text.
struct Warnings {
  std::string text;
  operator Warn() {
    return [this](const std::string& line) { text += line + "\n"; };
  }
};

TEST(CheckpointTest, ReadsBackWhatItSaved) {
  const test::TempDir run;
  Pieces saved = sample_pieces(120);
  SaveRequest request = test::request_of(saved, 120);
  request.metric = 2.5;
  const SaveReport report = save(run.path(), request);
  EXPECT_EQ(report.folder, run.path() / "checkpoints" / "step-00000120");
  EXPECT_EQ(report.bytes, fs::file_size(report.folder / "rank-00000.h5"));
  EXPECT_EQ(content(run.path() / "checkpoints" / "latest"), "step-00000120\n");

  Warnings warnings;
  const auto newest = Checkpoint::open_newest(run.path(), warnings);
  ASSERT_TRUE(newest.has_value());
  EXPECT_EQ(warnings.text, "");
  const Manifest& m = newest->manifest();
  EXPECT_EQ(m.step, 120);
  EXPECT_EQ(m.run_id, "run-1");
  EXPECT_EQ(m.world, 1);
  EXPECT_EQ(m.metric, 2.5);
  EXPECT_EQ(m.config, request.config);
  EXPECT_EQ(m.state, request.state);
  EXPECT_EQ(m.tensors.size(), 9u);
  Pieces loaded = sample_pieces();
  newest->read(loaded.list);
  EXPECT_EQ(loaded.memory, saved.memory);
  for (size_t i = 0; i < saved.list.size(); ++i) EXPECT_EQ(loaded.list[i].segments, saved.list[i].segments);
  EXPECT_TRUE(verify(report.folder).empty());
}

TEST(CheckpointTest, TheFileHoldsWhatTheFormatSays) {
  const test::TempDir run;
  const data::h5::Reader file(save_sample(run.path(), 7).folder / "rank-00000.h5");
  EXPECT_EQ(file.text("/", "format"), "rookery-checkpoint");
  EXPECT_EQ(file.text("/", "run_id"), "run-1");
  EXPECT_EQ(file.number("/", "step"), 7u);
  const std::string tensor = "/opt/m/blocks/0/att/key/weight", box = tensor + "/0";
  EXPECT_EQ(file.numbers(tensor, "global_shape"), (std::vector<uint64_t>{16, 24}));
  EXPECT_EQ(file.numbers(tensor, "segments"), (std::vector<uint64_t>{0, 0, 10, 7, 0, 10, 16, 3}));
  EXPECT_EQ(file.numbers(box, "offset"), (std::vector<uint64_t>{0, 0}));
  EXPECT_EQ(file.numbers(box, "extent"), (std::vector<uint64_t>{16, 24}));
  EXPECT_EQ(file.text(box, "dtype"), "f32");
  std::vector<std::byte> bytes(16 * 24 * 4);
  file.read(box, {0, 0}, {16, 24}, bytes);
  EXPECT_EQ(file.number(box, "crc32c"), io::crc32c(bytes));
  EXPECT_TRUE(file.info(box).offset.has_value());
}

// Cuts a [40, 16] matrix and a vector into the boxes of `world` ranks: by rows, by columns, or as flat
// slices.
enum class Cut { kRows, kColumns, kFlat };

std::vector<Pieces> cut_pieces(Cut cut, uint64_t world) {
  constexpr uint64_t R = 40, C = 16;
  std::vector<Pieces> ranks(world);
  for (uint64_t r = 0; r < world; ++r) {
    Pieces& p = ranks[r];
    const auto bound = [&](uint64_t n, uint64_t k) { return n * k / world; };
    const auto add = [&](uint64_t r0, uint64_t r1, uint64_t c0, uint64_t c1) {
      if (r0 < r1 && c0 < c1) p.add("param", "emb.weight", {R, C}, {r0, c0}, {r1 - r0, c1 - c0});
    };
    if (cut == Cut::kRows) add(bound(R, r), bound(R, r + 1), 0, C);
    if (cut == Cut::kColumns) add(0, R, bound(C, r), bound(C, r + 1));
    if (cut == Cut::kFlat) {  // [a, b) of the flat matrix: the end of a row, whole rows, the start of a row
      const uint64_t a = bound(R * C - 3, r), b = r + 1 == world ? R * C : bound(R * C - 3, r + 1);
      if (a / C == (b - 1) / C) {
        add(a / C, a / C + 1, a % C, (b - 1) % C + 1);
      } else {
        const uint64_t first = (a + C - 1) / C, last = b / C;
        add(a / C, a / C + 1, a % C, a % C ? C : a % C);
        add(first, last, 0, C);
        add(last, last + 1, 0, b % C);
      }
    }
    if (r == 0) p.add_whole("param", "bias", {5});
  }
  return ranks;
}

TEST(CheckpointTest, AnyCutIsLoadedIntoAnyOther) {
  const std::pair<Cut, uint64_t> cuts[] = {{Cut::kRows, 1},    {Cut::kRows, 3}, {Cut::kColumns, 4},
                                           {Cut::kColumns, 5}, {Cut::kFlat, 2}, {Cut::kFlat, 7}};
  for (const auto& [from, from_world] : cuts) {
    const test::TempDir run;
    std::vector<Pieces> saved = cut_pieces(from, from_world);
    SaveRequest request = test::request_of(saved[0], 5);
    request.world = int(from_world);
    const fs::path temporary = begin_save(run.path(), 5);
    std::vector<nlohmann::json> shards;
    for (uint64_t r = 0; r < from_world; ++r) {
      saved[r].set(5);
      request.rank = int(r);
      request.pieces = saved[r].list;
      shards.push_back(write_shard(temporary, request));
    }
    const auto checkpoint = Checkpoint::open(finish_save(run.path(), request, shards).folder);
    EXPECT_EQ(checkpoint.manifest().files.size(), from_world);
    for (const auto& [to, to_world] : cuts)
      for (Pieces& wanted : cut_pieces(to, to_world)) {
        checkpoint.read(wanted.list, false);
        EXPECT_EQ(wanted.count_wrong(5), 0u) << int(from) << from_world << " -> " << int(to) << to_world;
      }
  }
}

TEST(CheckpointTest, DoublePrecisionAndScalarsAndEmptyTensors) {
  const test::TempDir run;
  std::vector<double> matrix = {1, -2, 3e-300, 4}, scalar = {0.1};
  const auto pieces_of = [](std::vector<double>& a, std::vector<double>& b) {
    return std::vector<Piece>{
        {"param", "w", "f64", {2, 2}, {0, 0}, {2, 2}, std::as_writable_bytes(std::span(a)), {}},
        {"param", "s", "f64", {}, {}, {}, std::as_writable_bytes(std::span(b)), {}},
        {"param", "none", "f64", {0, 4}, {0, 0}, {0, 4}, {}, {}}};
  };
  SaveRequest request;
  const std::vector<Piece> saved = pieces_of(matrix, scalar);
  request.pieces = saved;
  const fs::path folder = save(run.path(), request).folder;
  std::vector<double> matrix2(4), scalar2(1);
  std::vector<Piece> loaded = pieces_of(matrix2, scalar2);
  Checkpoint::open(folder).read(loaded);
  EXPECT_EQ(matrix2, matrix);
  EXPECT_EQ(scalar2, scalar);
}

TEST(CheckpointTest, ListsEveryTensorThatDiffers) {
  const test::TempDir run;
  save_sample(run.path(), 1);
  const auto checkpoint = Checkpoint::open_newest(run.path());
  Pieces wanted;
  wanted.add_whole("param", "emb.weight", {41, 16});
  wanted.add_whole("param", "blocks.0.att.key.weight", {16, 24});
  wanted.add_whole("param", "blocks.1.new", {3});
  wanted.list[1].dtype = "f64";
  const std::string message = refusal(ExitCode::kData, [&] { checkpoint->read(wanted.list); });
  EXPECT_HAS(message, "4 tensors differ");
  EXPECT_HAS(message, "param/emb.weight: found f32 [40, 16], expected f32 [41, 16]");
  EXPECT_HAS(message, "param/blocks.0.att.key.weight: found f32 [16, 24], expected f64 [16, 24]");
  EXPECT_HAS(message, "param/blocks.1.new: missing, expected f32 [3]");
  EXPECT_HAS(message, "param/blocks.0.ln1.bias: unexpected");
  for (const float x : wanted.memory[0]) EXPECT_EQ(x, -1.0f);  // nothing was filled
}

TEST(CheckpointTest, NamesAParameterThatIsNotFinite) {
  const test::TempDir run;
  Pieces pieces = sample_pieces(1);
  pieces.memory[2][3] = NAN;
  save(run.path(), test::request_of(pieces, 1));
  Pieces loaded = sample_pieces();
  EXPECT_HAS(refusal(ExitCode::kData, [&] { Checkpoint::open_newest(run.path())->read(loaded.list); }),
             "parameter blocks.0.ln1.bias holds NaN");
}

TEST(CheckpointTest, SavingTheSameStepAgainReplacesIt) {
  const test::TempDir run;
  save_sample(run.path(), 3);
  replace(folder_of(run.path(), 3) / "rank-00000.h5", "spoilt");
  save_sample(run.path(), 3);
  EXPECT_EQ(test::newest_sound_step(run.path()), 3);
  EXPECT_FALSE(fs::exists(run.path() / "checkpoints" / "step-00000003.tmp"));
}

// Damages one of two checkpoints in the way of `damage`; the older one must be used, with a warning that has
// `reason`.
void expect_fallback(const std::string& reason, const std::function<void(const fs::path&)>& damage) {
  const test::TempDir run;
  save_sample(run.path(), 1);
  save_sample(run.path(), 2);
  damage(folder_of(run.path(), 2));
  Warnings warnings;
  EXPECT_EQ(test::newest_sound_step(run.path(), warnings), 1) << reason;
  EXPECT_HAS(warnings.text, reason);
  EXPECT_HAS(warnings.text, "step-00000002");
  EXPECT_HAS(warnings.text, "Falling back to step-00000001");
  EXPECT_FALSE(verify(folder_of(run.path(), 2)).empty()) << reason;
  fs::remove_all(folder_of(run.path(), 1));
  EXPECT_HAS(refusal(ExitCode::kData, [&] { Checkpoint::open_newest(run.path()); }), reason);
}

TEST(CheckpointTest, FallsBackFromADamagedCheckpoint) {
  const auto shard = [](const fs::path& f) { return f / "rank-00000.h5"; };
  const auto edit = [](const fs::path& file, const std::function<void(std::string&)>& change) {
    std::string bytes = content(file);
    change(bytes);
    replace(file, bytes);
  };
  expect_fallback("bytes, expected",
                  [&](const fs::path& f) { fs::resize_file(shard(f), fs::file_size(shard(f)) - 1); });
  expect_fallback("holds 0 bytes", [&](const fs::path& f) { fs::resize_file(shard(f), 0); });
  expect_fallback("is missing", [&](const fs::path& f) { fs::remove(shard(f)); });
  expect_fallback("has no manifest.json", [&](const fs::path& f) { fs::remove(f / "manifest.json"); });
  expect_fallback("not the JSON of a checkpoint",
                  [&](const fs::path& f) { replace(f / "manifest.json", "{}"); });
  expect_fallback("not the JSON of a checkpoint",
                  [&](const fs::path& f) { fs::resize_file(f / "manifest.json", 1000); });
  expect_fallback("its checksum does not match", [&](const fs::path& f) {
    edit(f / "manifest.json", [](std::string& text) { text[text.find("rwkv6")] = 'x'; });
  });
  expect_fallback("checksum mismatch at bytes 0-", [&](const fs::path& f) {
    edit(shard(f), [](std::string& bytes) { bytes[bytes.size() / 2] = char(bytes[bytes.size() / 2] ^ 4); });
  });
}

TEST(CheckpointTest, RefusesFilesOfAnotherCheckpointWithTheSameSize) {
  const test::TempDir run, other;
  save_sample(run.path(), 1);
  save_sample(other.path(), 2);
  const fs::path mine = folder_of(run.path(), 1), theirs = folder_of(other.path(), 2);
  ASSERT_EQ(fs::file_size(mine / "rank-00000.h5"), fs::file_size(theirs / "rank-00000.h5"));
  fs::copy_file(theirs / "rank-00000.h5", mine / "rank-00000.h5", fs::copy_options::overwrite_existing);
  EXPECT_HAS(refusal(ExitCode::kData, [&] { Checkpoint::open(mine); }), "checksum mismatch");
  bool named = false;  // verify looks into the file, too
  for (const std::string& problem : verify(mine)) named |= contains(problem, "its step is 2, expected 1");
  EXPECT_TRUE(named);
}

// Rewrites a field of the manifest and its last line, as another version of the program would.
void change_manifest(const fs::path& folder, const std::string& from, const std::string& to) {
  std::string text = content(folder / "manifest.json");
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos);
  text.replace(at, from.size(), to);
  text.resize(text.rfind("\"crc32c\""));
  const uint32_t sum = io::crc32c(std::as_bytes(std::span(text)));
  char line[64];
  std::snprintf(line, sizeof line, "\"crc32c\": \"%08x\"\n}\n", sum);
  replace(folder / "manifest.json", text + line);
}

TEST(CheckpointTest, ANewerVersionOrAnotherByteOrderIsNotPassedOver) {
  for (const auto& [from, to, reason] :
       {std::tuple{"\"format_version\": 1", "\"format_version\": 9", "version 9"},
        std::tuple{"\"little\"", "\"big\"", "big-endian"}}) {
    const test::TempDir run;
    save_sample(run.path(), 1);
    save_sample(run.path(), 2);
    change_manifest(folder_of(run.path(), 2), from, to);
    EXPECT_HAS(refusal(ExitCode::kConfig, [&] { Checkpoint::open_newest(run.path()); }), reason);
  }
}

TEST(CheckpointTest, AManifestThatLiesIsRefused) {
  for (const auto& [from, to] : {std::pair{"\"name\": \"rank-00000.h5\"", "\"name\": \"../rank-0.h5\""},
                                 {"\"file\": 0", "\"file\": 7"},
                                 {"\"run_id\": \"run-1\"", "\"run_id\": 7"},
                                 {"\"block_bytes\": 4194304", "\"block_bytes\": 1"},
                                 {"\"world\": 1", "\"word\": 1"}}) {
    const test::TempDir run;
    save_sample(run.path(), 1);
    change_manifest(folder_of(run.path(), 1), from, to);
    EXPECT_HAS(refusal(ExitCode::kData, [&] { Checkpoint::open(folder_of(run.path(), 1)); }),
               "manifest is damaged");
  }
}

TEST(CheckpointTest, ExtraFilesAndAStalePointerOnlyWarn) {
  const test::TempDir run;
  save_sample(run.path(), 1);
  replace(folder_of(run.path(), 1) / "notes.txt", "mine");
  replace(run.path() / "checkpoints" / "latest", "step-00000077\n");
  Warnings warnings;
  EXPECT_EQ(test::newest_sound_step(run.path(), warnings), 1);
  EXPECT_HAS(warnings.text, "notes.txt: is no part of the checkpoint");
  EXPECT_HAS(warnings.text, "names step-00000077, which is not there");
}

TEST(CheckpointTest, AFolderThatCannotBeReadIsNoInput) {
  const test::TempDir run;
  fs::create_symlink(run.path() / "nowhere", run.path() / "link");
  EXPECT_HAS(refusal(ExitCode::kNoInput, [&] { Checkpoint::open(run.path() / "link"); }),
             "a link to nowhere");
  EXPECT_HAS(refusal(ExitCode::kNoInput, [&] { Checkpoint::open(run.path() / "absent"); }),
             "no readable folder");
  EXPECT_FALSE(Checkpoint::open_newest(run.path() / "absent").has_value());
}

TEST(CheckpointTest, AFlippedBitAnywhereIsDetected) {
  const test::TempDir run;
  const fs::path folder = save_sample(run.path(), 1).folder;
  uint32_t x = 7;
  for (const char* name : {"rank-00000.h5", "manifest.json"}) {
    const std::string whole = content(folder / name);
    for (int i = 0; i < 200; ++i) {
      x = x * 1664525 + 1013904223;
      std::string bytes = whole;
      const size_t at = i < 100 ? (x >> 4) % whole.size()
                        : i % 2 ? size_t(i - 100)
                                : whole.size() - size_t(i - 99);
      bytes[at] = char(bytes[at] ^ (1 << (x >> 29)));
      replace(folder / name, bytes);
      EXPECT_THROW(Checkpoint::open(folder), Error) << name << " at " << at;
    }
    for (const size_t n : {size_t(0), size_t(1), whole.size() / 2, whole.size() - 1}) {
      replace(folder / name, whole.substr(0, n));
      EXPECT_THROW(Checkpoint::open(folder), Error) << name << " cut to " << n;
    }
    replace(folder / name, whole + '\n');
    EXPECT_THROW(Checkpoint::open(folder), Error) << name << " grown";
    replace(folder / name, whole);
  }
  EXPECT_EQ(test::newest_sound_step(run.path()), 1);
}

TEST(CheckpointTest, RetentionKeepsTheLastTheMilestonesTheBestAndTheOneInUse) {
  const test::TempDir run;
  const double metrics[] = {9, 1, 5, 4, 6, 7, 8};
  for (int64_t step = 1; step <= 7; ++step) {
    const Pieces pieces = sample_pieces(step);
    SaveRequest request = test::request_of(pieces, step);
    request.metric = metrics[step - 1];
    save(run.path(), request);
  }
  const Retention policy{2, 3, 1};
  EXPECT_EQ(would_retire(run.path(), policy, {1}), (std::vector<int64_t>{5, 4}));
  EXPECT_EQ(retire(run.path(), policy, {1}), (std::vector<int64_t>{5, 4}));
  EXPECT_EQ(list_steps(run.path()), (std::vector<int64_t>{7, 6, 3, 2, 1}));
  EXPECT_EQ(retire(run.path(), Retention{0, 0, 0}),
            (std::vector<int64_t>{6, 3, 2, 1}));  // the newest always stays
  EXPECT_EQ(test::newest_sound_step(run.path()), 7);
}

TEST(CheckpointTest, LeftoversAreCleanedAndNothingElse) {
  const test::TempDir run;
  const fs::path folder = run.path() / "checkpoints";
  save_sample(run.path(), 1);
  save_sample(run.path(), 2);
  fs::remove(folder_of(run.path(), 2) / "manifest.json");
  fs::create_directories(folder / "step-00000003.tmp" / "deep");
  replace(folder / "latest.0123456789abcdef.tmp", "x");
  replace(folder / "mine.tmp", "x");
  fs::create_directories(folder / "step-4");
  Warnings warnings;
  clean_leftovers(run.path(), warnings);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  EXPECT_EQ(names, (std::vector<std::string>{"latest", "mine.tmp", "step-00000001", "step-4"}));
  EXPECT_EQ(std::ranges::count(warnings.text, '\n'), 3);

  // An exchange without the file system's help was cut in the middle: the old checkpoint comes back.
  fs::rename(folder_of(run.path(), 1), folder / "step-00000001.0123456789abcdef.tmp");
  clean_leftovers(run.path(), warnings);
  EXPECT_EQ(test::newest_sound_step(run.path()), 1);
}

TEST(CheckpointTest, ListTellsWhichAreComplete) {
  const test::TempDir run;
  save_sample(run.path(), 1);
  save_sample(run.path(), 2);
  fs::resize_file(folder_of(run.path(), 2) / "rank-00000.h5", 10);
  const std::vector<Summary> all = list(run.path());
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].step, 2);
  EXPECT_HAS(all[0].problem, "holds 10 bytes");
  EXPECT_EQ(all[1].problem, "");
  EXPECT_EQ(all[1].world, 1);
  EXPECT_GT(all[1].bytes, 0u);
}

TEST(CheckpointTest, ChecksTheFolderBeforeTraining) {
  const test::TempDir run;
  Warnings warnings;
  check_writable(run.path(), 1, warnings);
  EXPECT_EQ(warnings.text, "");
  EXPECT_TRUE(fs::is_empty(run.path() / "checkpoints"));
  const uint64_t available = io::free_bytes(run.path());
  check_writable(run.path(), available / 10 * 8, warnings);
  EXPECT_HAS(warnings.text, "bytes are free");
  EXPECT_HAS(refusal(ExitCode::kIo, [&] { check_writable(run.path(), available * 2, warnings); }),
             "bytes are free");
  replace(run.path() / "file", "x");
  EXPECT_HAS(refusal(ExitCode::kCannotCreate, [&] { check_writable(run.path() / "file", 1, warnings); }),
             "cannot take checkpoints");
}

// Holds the lock of the folder that the next test names, until it is killed.
TEST(RunLockTest, IsHeldByOneProcess) {
  const test::TempDir own;
  const char* given = std::getenv("ROOKERY_TEST_FOLDER");
  const fs::path run = given ? given : own.path();
  const RunLock lock(run);
  EXPECT_HAS(content(run / "lock"), str("\"pid\":", ::getpid()));
  while (given) ::pause();
}

TEST(RunLockTest, ASecondOneIsRefusedAndADeadOnesLockIsTaken) {
  const test::TempDir run;
  const pid_t owner = test::start(
      {fs::read_symlink("/proc/self/exe").string(), "--gtest_filter=RunLockTest.IsHeldByOneProcess"},
      {{"ROOKERY_TEST_FOLDER", run.path().string()}});
  const std::string mark = str("\"pid\":", owner);
  for (int i = 0;
       i < 500 && !(fs::exists(run.path() / "lock") && contains(content(run.path() / "lock"), mark)); ++i)
    ::usleep(10'000);
  Warnings warnings;
  EXPECT_HAS(refusal(ExitCode::kCannotCreate, [&] { RunLock second(run.path(), warnings); }),
             str("process ", owner, " on "));
  ::kill(owner, SIGKILL);
  EXPECT_EQ(test::wait_for(owner).signal, SIGKILL);
  EXPECT_EQ(warnings.text, "");
  {
    const RunLock next(run.path(), warnings);
    EXPECT_HAS(warnings.text, str("taking over the lock of process ", owner));
  }
  warnings.text.clear();
  const RunLock again(run.path(), warnings);  // it was given back
  EXPECT_EQ(warnings.text, "");
}

TEST(RunLockTest, AnotherHostsLockHoldsForTwoMinutes) {
  const test::TempDir run;
  const fs::path lock = run.path() / "lock";
  replace(lock, R"({"host":"elsewhere.invalid","pid":17,"since":"2026-01-01T00:00:00Z"})");
  EXPECT_HAS(refusal(ExitCode::kCannotCreate, [&] { RunLock mine(run.path()); }),
             "process 17 on elsewhere.invalid, since 2026-01-01T00:00:00Z");
  fs::last_write_time(lock, fs::last_write_time(lock) - std::chrono::seconds(121));
  Warnings warnings;
  const RunLock mine(run.path(), warnings);
  EXPECT_HAS(warnings.text, "taking over the lock of process 17");
}

}  // namespace
}  // namespace rookery::checkpoint
