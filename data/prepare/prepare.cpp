// prepare.cpp: workers parse and tokenise chunks; one thread puts the documents in order into the stages and
// keeps the journal. The journal tells up to which place of the input everything lies on disk; a restart cuts
// the stages back to it.
#include "data/prepare/prepare.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "data/prepare/ordered.h"
#include "kernels/base/error.h"
#include "kernels/base/io.h"

namespace rookery::data {

namespace {

using Json = nlohmann::json;
constexpr const char* kPoint = "data.prepare";

// The first half of a document's SHA-256: equal documents for all purposes.
using Digest = std::array<char, 16>;
struct DigestHash {
  size_t operator()(const Digest& d) const {
    size_t h;
    std::memcpy(&h, d.data(), sizeof h);
    return h;
  }
};
Digest digest_of(std::string_view text) {
  const std::string hex = io::sha256(text);
  Digest digest;
  for (size_t i = 0; i < digest.size(); ++i)
    digest[i] = static_cast<char>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  return digest;
}

// A document is held out by what it says, so that two equal ones never stand on both sides.
bool is_validation(std::string_view text, uint64_t seed, double fraction) {
  uint64_t x = seed * 0x9e3779b97f4a7c15 + io::crc32c(std::as_bytes(std::span(text)));
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;  // splitmix64's finish
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  x ^= x >> 31;
  return static_cast<double>(x >> 11) * 0x1p-53 < fraction;
}

struct Document {
  size_t begin = 0, end = 0;  // tokens in the result, the end token included
  int64_t text_bytes = 0;
  bool validation = false;
  Digest digest{};
};

struct ChunkResult {
  TextPlace begin, end;
  std::vector<int32_t> tokens;
  std::vector<Document> documents;
  TextCounts counts;
};

// Holds a folder against a second process, until the process ends.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder)
      : fd_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (fd_ < 0 || ::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      if (fd_ >= 0) ::close(fd_);
      fail(ExitCode::kCannotCreate, "DATA-19", folder.native(),
           ": is in use by another process, expected one at a time");
    }
  }
  ~FolderLock() { ::close(fd_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_;
};

class Preparation {
 public:
  Preparation(const PrepareOptions& options, const Tokenizer& tokenizer,
              const std::function<void(const PrepareProgress&)>& progress)
      : options_(options),
        tokenizer_(tokenizer),
        progress_(progress),
        start_(std::chrono::steady_clock::now()) {}

  PrepareReport run() {
    check_options();
    TextInputs inputs = collect_inputs(options_.inputs);
    files_ = std::move(inputs.files);
    report_.warnings = std::move(inputs.warnings);
    outputs_.push_back(token_set_files(options_.out, options_.format));
    if (options_.val_fraction > 0)
      outputs_.push_back(token_set_files(validation_path(options_.out), options_.format));
    for (const auto& file : files_) report_.input_bytes += static_cast<int64_t>(file.size);
    folder_ = outputs_[0][0].native() + ".partial";
    const bool existed = fs::exists(folder_);
    if (!existed) check_outputs_free();
    io::create_directories(folder_);
    const FolderLock lock(folder_);
    const Json journal = begin();  // after the lock: another process may have been at work
    if (existed && !finished_in(journal)) {
      try {
        check_outputs_free();
      } catch (const Error&) {
        if (journal.is_null()) retire();
        throw;
      }
    }
    try {
      if (!journal.is_null()) restore(journal);
      open_stages(journal);
      if (!finished_) tokenize();
      publish();
    } catch (const Error& e) {
      // Bad input must change, and then the work is void. After a full disk it is worth going on.
      if (e.code() == ExitCode::kData || e.code() == ExitCode::kNoInput) retire();
      throw;
    }
    retire();
    report_.seconds = seconds();
    return std::move(report_);
  }

 private:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  void check_options() const {
    if (!(options_.val_fraction >= 0 && options_.val_fraction < 1))
      fail(ExitCode::kUsage, "CLI-01", "--val-fraction is ", options_.val_fraction,
           ", expected at least 0 and below 1");
    if (options_.format == TokenSetFormat::kBinIdx && tokenizer_.eot_id() != 0)
      fail(ExitCode::kUsage, "CLI-01", "--format binidx: its readers take 0 for the end token, that of ",
           tokenizer_.name(), " is ", tokenizer_.eot_id(), "; use --format hdf5, which tells it");
    RK_CHECK(options_.workers >= 1, "[prepare] ", options_.workers, " workers");
  }

  // What the outcome depends on; the work of another command must not be gone on with.
  std::string fingerprint() const {
    const TextOptions& t = options_.text;
    Json j = {{"tokenizer", tokenizer_.sha256()},
              {"format", options_.format},
              {"field", t.field},
              {"separated", t.separated},
              {"separator", Json::binary({t.separator.begin(), t.separator.end()})},
              {"on_bad_record", t.on_bad_record},
              {"on_bad_text", t.on_bad_text},
              {"max_record_bytes", t.max_record_bytes},
              {"chunk_bytes", t.chunk_bytes},
              {"val_fraction", options_.val_fraction},
              {"seed", options_.seed},
              {"dedup", options_.dedup},
              {"min_tokens", options_.min_tokens}};
    for (const auto& file : files_)
      j["files"].push_back(
          {Json::binary({file.path.native().begin(), file.path.native().end()}), file.size, file.mtime_ns});
    const std::string text = j.dump();
    return io::sha256(text);
  }

  // Unfinished work that had begun to publish has a right to what it finds under the final names.
  static bool finished_in(const Json& journal) {
    return !journal.is_null() && journal.value("finished", false);
  }

  void check_outputs_free() const {
    std::vector<fs::path> all, inputs;
    for (const auto& set : outputs_) all.insert(all.end(), set.begin(), set.end());
    for (const auto& file : files_) inputs.push_back(file.path);
    check_outputs(all, inputs, options_.force);
  }

  fs::path journal_path() const { return folder_ / "journal.json"; }

  // Removes the folder of the work, the journal first: what is left without one is worth nothing.
  void retire() const {
    if (fs::exists(journal_path())) io::remove(journal_path(), kPoint);
    io::remove_all(folder_, kPoint);
  }

  // The journal of unfinished work of this command, or null and an empty folder.
  Json begin() const {
    if (options_.force || !fs::exists(journal_path())) {
      for (const auto& entry : fs::directory_iterator(folder_)) io::remove_all(entry.path(), kPoint);
      return {};
    }
    Json found = Json::parse(io::read_file(journal_path(), 1 << 24), nullptr, false);
    if (!found.is_object() || found.value("fingerprint", "") != fingerprint())
      fail(ExitCode::kCannotCreate, "DATA-19", folder_.native(),
           ": holds unfinished work of another command, or its input has changed: repeat that command, or "
           "use --force to begin anew");
    return found;
  }

  void restore(const Json& journal) {
    place_ = {journal["place"][0], journal["place"][1], journal["place"][2]};
    finished_ = journal["finished"];
    report_.skipped.bad = journal["bad"].get<std::array<int64_t, 8>>();
    report_.skipped.empty = journal["empty"];
    report_.skipped.replaced = journal["replaced"];
    report_.skipped.locations = journal["locations"].get<std::vector<std::string>>();
    report_.duplicates = journal["duplicates"];
    report_.too_short = journal["too_short"];
    done_bytes_ = report_.resumed_bytes = journal["done_bytes"];
  }

  void open_stages(const Json& journal) {
    const bool wide = tokenizer_.vocab_size() > 65536;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      StagePosition at;
      if (!journal.is_null()) {
        const Json& p = journal["stages"][i];
        at = {p[0], p[1], p[2]};
      }
      stages_.push_back(std::make_unique<TokenSetStage>(folder_, i == 0 ? "train" : "val", wide, at));
    }
    if (!options_.dedup) return;
    const fs::path path = folder_ / "digests";
    const uint64_t known = journal.is_null() ? 0 : journal["digests"].get<uint64_t>();
    digests_ = std::make_unique<io::OutputFile>(path, kPoint, io::OutputFile::Mode::kAppend);
    digests_->truncate(known * sizeof(Digest));
    const InputFile file(path);
    FileArray<Digest>(file, 0, static_cast<int64_t>(known))
        .for_each_block(
            [&](int64_t, std::span<const Digest> block) { seen_.insert(block.begin(), block.end()); });
  }

  void save_journal() {
    for (auto& stage : stages_) stage->sync();
    if (digests_) {
      digests_->write(std::as_bytes(std::span(new_digests_)));
      new_digests_.clear();
      digests_->sync();
    }
    const TextCounts& s = report_.skipped;
    Json j = {{"fingerprint", fingerprint_},
              {"finished", finished_},
              {"place", {place_.file, place_.offset, place_.line}},
              {"bad", s.bad},
              {"empty", s.empty},
              {"replaced", s.replaced},
              {"locations", s.locations},
              {"duplicates", report_.duplicates},
              {"too_short", report_.too_short},
              {"done_bytes", done_bytes_},
              {"digests", seen_.size()}};
    for (const auto& stage : stages_) {
      const auto p = stage->position();
      j["stages"].push_back({p.docs, p.tokens, p.text_bytes});
    }
    io::write_file_atomic(journal_path(), j.dump(), kPoint);
    committed_bytes_ = done_bytes_;
  }

  void tokenize() {
    fingerprint_ = fingerprint();
    committed_bytes_ = done_bytes_;
    TextChunkReader reader(files_, options_.text, place_);
    run_ordered<TextChunk, ChunkResult>(
        options_.workers,
        [&]() -> std::optional<TextChunk> {
          TextChunk chunk;
          return reader.next(chunk) ? std::optional(std::move(chunk)) : std::nullopt;
        },
        [&](TextChunk chunk) { return encode(chunk); }, [&](ChunkResult result) { take(result); });
    finished_ = true;
    for (size_t i = 0; i < stages_.size(); ++i)
      if (stages_[i]->position().docs == 0) fail_empty(i);
    save_journal();
  }

  [[noreturn]] void fail_empty(size_t set) const {
    const TextCounts& s = report_.skipped;
    if (set == 0 && stages_.size() > 1 && stages_[1]->position().docs > 0)
      fail(ExitCode::kData, "DATA-15", "all ", stages_[1]->position().docs,
           " documents fell into the validation set, expected at least one to train on: lower --val-fraction "
           "(now ",
           options_.val_fraction, "), or cut the text into documents with --separator");
    if (set == 0)
      fail(ExitCode::kData, "DATA-15", options_.inputs[0], options_.inputs.size() > 1 ? " and others" : "",
           ": no documents (empty: ", s.empty, ", bad records: ", s.bad_records(),
           ", too short: ", report_.too_short, "), expected at least one");
    fail(ExitCode::kData, "DATA-15", "none of ", stages_[0]->position().docs,
         " documents fell into the validation set, expected at least one: raise --val-fraction (now ",
         options_.val_fraction, ")");
  }

  bool has_bos() const { return tokenizer_.bos_id() != tokenizer_.eot_id(); }

  // In a worker.
  ChunkResult encode(const TextChunk& chunk) const {
    ChunkResult result;
    result.begin = chunk.begin;
    result.end = chunk.end;
    parse_documents(files_, options_.text, chunk, result.counts, [&](std::string_view text) {
      Document doc;
      doc.begin = result.tokens.size();
      if (has_bos()) result.tokens.push_back(tokenizer_.bos_id());
      const std::vector<int32_t> ids = tokenizer_.encode(text);
      result.tokens.insert(result.tokens.end(), ids.begin(), ids.end());
      result.tokens.push_back(tokenizer_.eot_id());
      doc.end = result.tokens.size();
      doc.text_bytes = static_cast<int64_t>(text.size());
      doc.validation = options_.val_fraction > 0 && is_validation(text, options_.seed, options_.val_fraction);
      if (options_.dedup) doc.digest = digest_of(text);
      result.documents.push_back(doc);
    });
    return result;
  }

  void take(const ChunkResult& result) {
    report_.skipped.add(result.counts);
    for (const Document& doc : result.documents) {
      const int64_t length = static_cast<int64_t>(doc.end - doc.begin);
      if (length - 1 - has_bos() < options_.min_tokens) {
        ++report_.too_short;
      } else if (options_.dedup && !seen_.insert(doc.digest).second) {
        ++report_.duplicates;
      } else {
        if (options_.dedup) new_digests_.push_back(doc.digest);
        stages_[doc.validation]->add(std::span(result.tokens).subspan(doc.begin, doc.end - doc.begin),
                                     doc.text_bytes);
      }
    }
    done_bytes_ += static_cast<int64_t>(result.end.offset - result.begin.offset);
    place_ = result.end;
    if (static_cast<uint64_t>(done_bytes_ - committed_bytes_) >= options_.commit_bytes) save_journal();
    if (!progress_) return;
    PrepareProgress p{done_bytes_, report_.input_bytes, 0, 0, seconds()};
    for (const auto& stage : stages_) {
      p.tokens += stage->position().tokens;
      p.docs += stage->position().docs;
    }
    progress_(p);
  }

  void publish() {
    TokenSetMeta meta;
    meta.tokenizer_name = tokenizer_.name();
    meta.tokenizer_sha256 = tokenizer_.sha256();
    meta.vocab_size = tokenizer_.vocab_size();
    meta.eot_id = tokenizer_.eot_id();
    if (has_bos()) meta.bos_id = tokenizer_.bos_id();
    meta.created_by = options_.created_by;
    meta.source = str(files_.size(), " files, first ", excerpt(files_[0].path.filename().native()));
    meta.wide = tokenizer_.vocab_size() > 65536;
    for (size_t i = 0; i < stages_.size(); ++i) {
      stages_[i]->publish(outputs_[i], options_.format, meta);
      const auto p = stages_[i]->position();
      PreparedSet set{outputs_[i], {}, p.docs, p.tokens, p.text_bytes};
      for (const auto& file : set.files) set.sha256.push_back(io::sha256_file(file));
      report_.sets.push_back(std::move(set));
    }
  }

  const PrepareOptions& options_;
  const Tokenizer& tokenizer_;
  const std::function<void(const PrepareProgress&)>& progress_;
  std::chrono::steady_clock::time_point start_;
  PrepareReport report_;
  std::vector<TextInput> files_;
  std::vector<std::vector<fs::path>> outputs_;  // training, validation
  fs::path folder_;
  std::string fingerprint_;
  std::vector<std::unique_ptr<TokenSetStage>> stages_;
  TextPlace place_;
  bool finished_ = false;  // all input is tokenised: only publishing is left
  int64_t done_bytes_ = 0, committed_bytes_ = 0;
  std::unordered_set<Digest, DigestHash> seen_;
  std::vector<Digest> new_digests_;  // since the last journal
  std::unique_ptr<io::OutputFile> digests_;
};

}  // namespace

fs::path validation_path(const fs::path& out) {
  fs::path stem = out;
  const std::string suffix = out.extension().native();
  if (suffix != ".h5" && suffix != ".hdf5" && suffix != ".bin" && suffix != ".idx")
    return out.native() + ".val";
  stem.replace_extension();
  return stem.native() + ".val" + suffix;
}

PrepareReport prepare(const PrepareOptions& options, const Tokenizer& tokenizer,
                      const std::function<void(const PrepareProgress&)>& progress) {
  return Preparation(options, tokenizer, progress).run();
}

}  // namespace rookery::data
