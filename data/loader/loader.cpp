// loader.cpp: rows from windows, and the thread that reads ahead.
#include "data/loader/loader.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "kernels/base/error.h"

namespace rookery::data {

using Clock = std::chrono::steady_clock;

// One plan at a time: `rows` rows from sample `first` on, batch after batch. A new plan raises the
// generation, so that a batch of the old one that is just being read is thrown away.
struct Loader::Ahead {
  struct Item {
    Batch batch;
    std::exception_ptr error;
  };

  explicit Ahead(const Loader& loader) : loader(loader), thread([this] { run(); }) {}
  ~Ahead() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    changed.notify_all();
    thread.join();
  }

  void run() {
    std::unique_lock lock(mutex);
    const size_t limit = static_cast<size_t>(std::max<int64_t>(1, loader.options_.prefetch));
    while (true) {
      changed.wait(lock, [&] { return stopping || (rows > 0 && queue.size() < limit); });
      if (stopping) return;
      const int64_t first = plan, count = rows;
      const uint64_t mine = generation;
      lock.unlock();
      Item item;
      try {
        item.batch = loader.read(first, count);
      } catch (...) {
        item.error = std::current_exception();
      }
      lock.lock();
      if (mine != generation) continue;
      if (item.error) rows = 0;  // nothing sensible lies behind an error
      plan += count * loader.options_.world;
      queue.push_back(std::move(item));
      changed.notify_all();
    }
  }

  const Loader& loader;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Item> queue;
  int64_t plan = 0, rows = 0;       // what the thread reads next; rows = 0: nothing
  int64_t expected = -1, size = 0;  // the call of next() that the queue answers
  uint64_t generation = 0;
  double waited = 0;
  bool stopping = false;
  std::thread thread;  // last: it uses all of the above
};

namespace {

std::vector<double> weights_of(const std::vector<LoaderSource>& sources) {
  std::vector<double> weights;
  for (const auto& source : sources) weights.push_back(source.weight);
  return weights;
}

std::vector<std::string> names_of(const std::vector<LoaderSource>& sources) {
  std::vector<std::string> names;
  for (const auto& source : sources)
    names.push_back(source.name.empty() ? source.set->path().native() : source.name);
  return names;
}

}  // namespace

void check_ids(const TokenSet& set, int64_t start, std::span<const int32_t> tokens, int64_t vocab_size) {
  auto bad = std::find_if(tokens.begin(), tokens.end(), [&](int32_t id) { return id >= vocab_size; });
  if (bad == tokens.end()) return;
  const int64_t position = start + (bad - tokens.begin());
  fail(ExitCode::kData, "DATA-06", set.path().native(), ": token ", position,
       describe_position(set, position), " is ", *bad, ", expected below model.vocab_size = ", vocab_size,
       ": the set was made with a larger vocabulary");
}

void check_tokenizer(const TokenSet& set, std::string_view sha256) {
  if (set.tokenizer_sha256().empty() || set.tokenizer_sha256() == sha256) return;
  fail(ExitCode::kData, "DATA-11", set.path().native(), ": was made with tokenizer ",
       set.info().tokenizer_name, " (sha256 ", set.tokenizer_sha256(), "), expected sha256 ", sha256,
       ": prepare the data again, or name its tokenizer");
}

Batch part_of(const Batch& whole, int64_t part, int64_t parts) {
  RK_CHECK(whole.seq_len % parts == 0, "[part_of] ", whole.seq_len, " tokens in ", parts, " parts");
  const int64_t T = whole.seq_len / parts, begin = part * T;
  Batch batch{whole.rows, T, {}, {}, {}, whole.samples, {}};
  for (int64_t b = 0; b < whole.rows; ++b) {
    const int64_t row = b * whole.seq_len, from = row + begin;
    batch.x.insert(batch.x.end(), whole.x.begin() + from, whole.x.begin() + from + T);
    batch.y.insert(batch.y.end(), whole.y.begin() + from, whole.y.begin() + from + T);
    batch.doc_start.insert(batch.doc_start.end(), whole.doc_start.begin() + from,
                           whole.doc_start.begin() + from + T);
    int64_t document = begin > 0 ? begin - 1 : 0;
    while (document > 0 && whole.doc_start[static_cast<size_t>(row + document)] == 0) --document;
    if (begin > 0) batch.document.push_back(static_cast<int32_t>(document));
  }
  return batch;
}

Loader::Loader(std::vector<LoaderSource> sources, LoaderOptions options)
    : sources_(std::move(sources)),
      options_(options),
      mixture_(weights_of(sources_), names_of(sources_)),
      read_ns_(sources_.size()) {
  RK_CHECK(options_.world >= 1 && options_.rank >= 0 && options_.rank < options_.world, "[Loader] rank ",
           options_.rank, " of ", options_.world);
  check_sources();
  for (size_t k = 0; k < sources_.size(); ++k) {
    SamplerOptions own = options_.sampling;
    own.seed += k;
    try {
      samplers_.push_back(make_sampler(sources_[k].set->num_tokens(), own));
    } catch (const Error& e) {
      fail(e.code(), e.id(), sources_[k].set->path().native(), ": ", e.what());
    }
  }
  ahead_ = std::make_unique<Ahead>(*this);
}

Loader::~Loader() = default;

void Loader::check_sources() {
  for (size_t k = 0; k < sources_.size(); ++k) {
    const TokenSet& set = *sources_[k].set;
    for (const std::string& warning : set.info().warnings) warnings_.push_back(warning);
    for (size_t j = 0; j < k; ++j)
      if (InputFile(set.info().files[0]).identity() == InputFile(sources_[j].set->info().files[0]).identity())
        warnings_.push_back(str(set.path().native(), ": is the same file as source ",
                                sources_[j].set->path().native(), ": its text counts twice"));
    if (!options_.tokenizer_sha256.empty()) check_tokenizer(set, options_.tokenizer_sha256);
    if (set.vocab_size() > options_.vocab_size)
      fail(ExitCode::kData, "DATA-06", set.path().native(), ": has a vocabulary of ", set.vocab_size(),
           ", expected at most model.vocab_size = ", options_.vocab_size);
    // A look at the begin, middle and end, so that a wrong vocabulary shows now and not hours later; each
    // batch is checked too.
    std::vector<int32_t> sample(static_cast<size_t>(std::min<int64_t>(set.num_tokens(), 1 << 16)));
    const int64_t last = set.num_tokens() - static_cast<int64_t>(sample.size());
    for (int64_t start : {int64_t{0}, last / 2, last}) {
      set.read(start, sample);
      check_ids(set, start, sample, options_.vocab_size);
    }
  }
}

namespace {

Batch empty_batch(int64_t rows, int64_t seq_len) {
  Batch batch;
  batch.rows = rows;
  batch.seq_len = seq_len;
  const size_t size = static_cast<size_t>(rows * seq_len);
  batch.x.resize(size);
  batch.y.resize(size);
  batch.doc_start.resize(size);
  batch.samples.resize(static_cast<size_t>(rows));
  return batch;
}

void read_row(const TokenSet& set, int64_t start, int64_t vocab_size, int64_t row, Batch& batch) {
  const int64_t T = batch.seq_len;
  const int64_t before =
      start > 0 ? 1 : 0;  // the token before the window tells whether a document starts with it
  std::vector<int32_t> tokens(static_cast<size_t>(before + T + 1));
  set.read(start - before, tokens);
  check_ids(set, start - before, tokens, vocab_size);
  const int32_t* window = tokens.data() + before;
  std::copy_n(window, T, batch.x.begin() + row * T);
  std::copy_n(window + 1, T, batch.y.begin() + row * T);
  auto starts = std::span(batch.doc_start).subspan(static_cast<size_t>(row * T), static_cast<size_t>(T));
  starts[0] = start == 0 || window[-1] == set.eot_id();
  for (size_t t = 1; t < starts.size(); ++t) starts[t] = window[t - 1] == set.eot_id();
  set.mark_doc_starts(start, starts);
}

}  // namespace

Batch read_windows(const TokenSet& set, std::span<const int64_t> starts, int64_t seq_len,
                   int64_t vocab_size) {
  Batch batch = empty_batch(static_cast<int64_t>(starts.size()), seq_len);
  for (int64_t row = 0; row < batch.rows; ++row) {
    read_row(set, starts[row], vocab_size, row, batch);
    batch.samples[row] = starts[row] / seq_len;
  }
  return batch;
}

std::string Loader::slowest_source() const {
  size_t slowest = 0;
  for (size_t k = 1; k < sources_.size(); ++k)
    if (read_ns_[k] > read_ns_[slowest]) slowest = k;
  return names_of(sources_)[slowest];
}

Batch Loader::read(int64_t first, int64_t rows) const {
  Batch batch = empty_batch(rows, options_.sampling.seq_len);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t sample = first + row * options_.world + options_.rank;
    const Mixture::Choice choice = mixture_.at(sample);
    const auto begin = Clock::now();
    read_row(*sources_[choice.source].set, samplers_[choice.source]->start(choice.sample),
             options_.vocab_size, row, batch);
    read_ns_[choice.source] += (Clock::now() - begin) / std::chrono::nanoseconds(1);
    batch.samples[row] = sample;
  }
  return batch;
}

Batch Loader::next(int64_t first, int64_t rows) {
  RK_CHECK(first >= 0 && rows >= 1, "[Loader] ", rows, " rows from sample ", first);
  const auto begin = Clock::now();
  std::unique_lock lock(ahead_->mutex);
  if (first != ahead_->expected || rows != ahead_->size) {
    ++ahead_->generation;
    ahead_->queue.clear();
    ahead_->plan = first;
    ahead_->rows = ahead_->size = rows;
    ahead_->changed.notify_all();
  }
  ahead_->changed.wait(lock, [&] { return !ahead_->queue.empty(); });
  Ahead::Item item = std::move(ahead_->queue.front());
  ahead_->queue.pop_front();
  ahead_->expected = item.error ? -1 : first + rows * options_.world;
  ahead_->waited += std::chrono::duration<double>(Clock::now() - begin).count();
  ahead_->changed.notify_all();
  if (item.error) std::rethrow_exception(item.error);
  return std::move(item.batch);
}

double Loader::wait_seconds() const {
  std::lock_guard lock(ahead_->mutex);
  return ahead_->waited;
}

void Loader::check_unchanged() const {
  for (const auto& source : sources_) source.set->check_unchanged();
}

}  // namespace rookery::data
