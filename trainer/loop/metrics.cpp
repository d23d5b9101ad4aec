// metrics.cpp: see metrics.h. Order: records and lines, throughput, the log itself, reading back.
#include "trainer/loop/metrics.h"

#include <unistd.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/base/error.h"
#include "trainer/loop/human.h"

namespace rookery::loop {
namespace {

constexpr int64_t kSchema = 1;

// One JSON object on one line, fields in the order of the calls.
class Record {
 public:
  Record& add(std::string_view key, int64_t value) { return raw(key, str(value)); }
  Record& add(std::string_view key, double value) {
    return raw(key, std::isfinite(value) ? str(value) : "null");
  }
  Record& add(std::string_view key, std::string_view text) {
    return raw(key, nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  Record& add(std::string_view key, const Record& record) { return raw(key, record.done()); }
  std::string done() const { return str("{", body_, "}"); }

 private:
  Record& raw(std::string_view key, std::string_view value) {
    body_ += str(body_.empty() ? "" : ",", "\"", key, "\":", value);
    return *this;
  }
  std::string body_;
};

// What TensorBoard can hold of a value; metrics.jsonl holds the same.
double as_float(double value) { return static_cast<double>(static_cast<float>(value)); }

std::string or_na(double value, const std::string& text) { return std::isfinite(value) ? text : "n/a"; }

// How large the change is beside what it changes; not known where there is nothing.
double update_ratio(const NormMetrics::Part& p) { return p.param > 0 ? p.change / p.param : kUnknown; }

std::string header_record(const std::string& run_id) {
  return Record()
             .add("event", "start")
             .add("schema", kSchema)
             .add("run_id", run_id)
             .add("time", unix_now())
             .done() +
         "\n";
}

std::string line_prefix(int rank) {
  char host[256] = {};
  if (gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
  const std::string number = str(1000 + rank);
  return str(" r", number.substr(1), " ", printable(host), " ");
}

[[noreturn]] void fail_line(const io::fs::path& path, int64_t line, std::string_view what) {
  fail(ExitCode::kData, "METRICS-02", printable(path.string()), ":", line, ": ", what,
       ", expected one JSON object with \"event\" and \"step\"; remove the line, or start the run in a new "
       "folder");
}

// Checks the first line of a metrics.jsonl.
void check_header(const io::fs::path& path, const nlohmann::json& header) {
  if (!header.is_object() || header.value("event", nlohmann::json()) != "start")
    fail(ExitCode::kData, "METRICS-01", printable(path.string()),
         ":1: found no start record, expected a metrics.jsonl of rookery; move the file away");
  if (header.value("schema", nlohmann::json()) != kSchema)
    fail(ExitCode::kData, "METRICS-01", printable(path.string()), ":1: found schema ",
         header.value("schema", nlohmann::json()).dump(), ", expected ", kSchema,
         "; read it with the version of rookery that wrote it");
}

constexpr size_t kLongestLine = 1 << 20;

// Reads the whole lines of a file, one at a time; a last line without '\n' is not one of them.
class LineReader {
 public:
  explicit LineReader(const io::fs::path& path) : path_(path), in_(path, std::ios::binary) {
    if (!io::fs::is_regular_file(path) || !in_)
      fail(ExitCode::kNoInput, "METRICS-03", printable(path.string()),
           ": cannot be read as a file, expected the metrics.jsonl of a run");
  }
  bool next(std::string& line) {
    line.clear();
    for (int c; (c = in_.get()) != std::ifstream::traits_type::eof();) {
      ++read_;
      if (c == '\n') {
        ++number_;
        whole_ = read_;
        return true;
      }
      if (line.size() == kLongestLine)
        fail_line(path_, number_ + 1, str("found more than ", kLongestLine, " bytes"));
      line += static_cast<char>(c);
    }
    return false;
  }
  int64_t number() const { return number_; }       // of the line last given
  uint64_t whole_bytes() const { return whole_; }  // up to the end of that line

 private:
  io::fs::path path_;
  std::ifstream in_;
  int64_t number_ = 0;
  uint64_t read_ = 0, whole_ = 0;
};

nlohmann::json parse(const std::string& line) { return nlohmann::json::parse(line, nullptr, false); }

// Makes an existing metrics.jsonl fit for appending: checks its schema and cuts the end off that a killed
// process tore. True if it holds records.
bool prepare_existing(const io::fs::path& path) {
  if (!io::fs::exists(path)) return false;
  LineReader reader(path);
  std::string line;
  if (reader.next(line)) check_header(path, parse(line));
  while (reader.next(line)) {
  }
  const uint64_t whole = reader.whole_bytes();
  io::OutputFile file(path, "log.metrics", io::OutputFile::Mode::kAppend);
  if (file.size() > whole) file.truncate(whole);
  file.close();
  return whole > 0;
}

}  // namespace

std::string step_line(const StepMetrics& m, const Rates& r) {
  const double data = m.step_time_s > 0 ? m.data_wait_s / m.step_time_s : kUnknown;
  return str("step=", m.step, "/", m.total_steps,                                                 //
             " tokens=", human_count(m.tokens), "/", human_count(m.total_tokens),                 //
             " loss=", fixed(as_float(m.loss), 4), " loss_max=", fixed(as_float(m.loss_max), 2),  //
             " ppl=", fixed(std::exp(m.loss), 1), " lr=", scientific(m.lr, 2),                    //
             " gnorm=", fixed(m.grad_norm, 2), " tok/s=", human_count(r.tok_per_s),               //
             " tflops=", or_na(r.tflops, fixed(r.tflops, 2)),                                     //
             " mfu=", or_na(r.mfu, fixed(100 * r.mfu, 1) + "%"),
             " hfu=", or_na(r.hfu, fixed(100 * r.hfu, 1) + "%"),                   //
             " mem=", gib(m.memory_bytes), "/", gib(m.memory_total_bytes), "GiB",  //
             " data=", or_na(data, fixed(100 * data, 1) + "%"),                    //
             " eta=", human_duration(r.eta_s), " skipped=", m.skipped);
}

std::string step_record(const StepMetrics& m, const Rates& r, double time) {
  Record record;
  record.add("event", "step")
      .add("step", m.step)
      .add("tokens", m.tokens)
      .add("loss", as_float(m.loss))
      .add("loss_max", as_float(m.loss_max))
      .add("lr", m.lr)
      .add("weight_decay", m.weight_decay)
      .add("grad_norm", m.grad_norm)
      .add("clip_coef", m.clip_coef)
      .add("skipped", m.skipped)
      .add("step_time_s", m.step_time_s)
      .add("data_wait_s", m.data_wait_s)
      .add("forward_s", m.forward_s)
      .add("backward_s", m.backward_s)
      .add("optim_s", m.optim_s)
      .add("tok_per_s", r.tok_per_s)
      .add("tok_per_s_wall", r.tok_per_s_wall)
      .add("tflops", r.tflops)
      .add("mfu", r.mfu)
      .add("hfu", r.hfu)
      .add("memory_bytes", m.memory_bytes);
  if (!m.phases.empty()) {
    Record ranks;
    for (const PhaseSpread& p : m.phases)
      ranks.add(p.name, Record()
                            .add("min", p.min)
                            .add("median", p.median)
                            .add("max", p.max)
                            .add("slowest", p.slowest)
                            .add("host", p.host));
    record.add("ranks", ranks);
  }
  return record.add("time", time).done();
}

std::string eval_record(const EvalMetrics& m, double time) {
  return Record()
      .add("event", "eval")
      .add("step", m.step)
      .add("tokens", m.tokens)
      .add("set", m.set)
      .add("loss", as_float(m.loss))
      .add("ppl", std::exp(m.loss))
      .add("bits_per_byte", m.bits_per_byte)
      .add("accuracy", m.accuracy)
      .add("seconds", m.seconds)
      .add("time", time)
      .done();
}

std::string norm_record(const NormMetrics& m, double time) {
  Record parts;
  for (const NormMetrics::Part& p : m.parts)
    parts.add(
        p.name,
        Record().add("param_norm", p.param).add("grad_norm", p.grad).add("update_ratio", update_ratio(p)));
  return Record()
      .add("event", "norms")
      .add("step", m.step)
      .add("tokens", m.tokens)
      .add("parts", parts)
      .add("time", time)
      .done();
}

void Throughput::step(int64_t tokens, double seconds, double data_wait_s) {
  if (warmup_ > 0) {
    --warmup_;
    return;
  }
  constexpr double kKeep = 0.98;  // a step counts for half as much after 34 more
  tokens_ = kKeep * tokens_ + static_cast<double>(tokens);
  seconds_ = kKeep * seconds_ + seconds;
  data_ = kKeep * data_ + data_wait_s;
  all_tokens_ += static_cast<double>(tokens);
  all_seconds_ += seconds;
}

void Throughput::pause(double seconds) {
  if (all_tokens_ > 0) all_seconds_ += seconds;
}

double Throughput::tokens_per_second() const { return seconds_ > 0 ? tokens_ / seconds_ : kUnknown; }
double Throughput::tokens_per_second_wall() const {
  return all_tokens_ > 0 ? all_tokens_ / all_seconds_ : kUnknown;
}
double Throughput::data_share() const { return seconds_ > 0 ? data_ / seconds_ : kUnknown; }

MetricsLog::MetricsLog(Options options, Console& console)
    : options_(std::move(options)), console_(console), prefix_(line_prefix(options_.rank)) {
  const io::fs::path text = options_.rank == 0 ? io::fs::path("train.log")
                                               : io::fs::path("logs") / str("rank-", options_.rank, ".log");
  text_ = std::make_unique<AppendLog>(
      options_.run_dir / text, "log.text", [] { return std::string(); },
      [this](const std::string& what) { console_.warning(what); });
  if (options_.rank > 0) return;
  const AppendLog::Warn warn = [this](const std::string& what) { warning(what); };

  const io::fs::path path = options_.run_dir / "metrics.jsonl";
  const bool existing = prepare_existing(path);
  records_ = std::make_unique<AppendLog>(
      path, "log.metrics", [id = options_.run_id] { return header_record(id); }, warn);
  if (existing)
    records_->append(
        Record().add("event", "resume").add("step", options_.first_step).add("time", unix_now()).done() +
        "\n");

  if (!options_.tensorboard) return;
  const io::fs::path folder = options_.run_dir / "tb", by_tokens = folder / "by_tokens";
  io::create_directories(by_tokens);
  const bool restart = existing || options_.first_step > 1;
  TensorBoard::Options settings;
  settings.warn = warn;
  if (restart) settings.restart_step = options_.first_step;
  tensorboard_ = std::make_unique<TensorBoard>(folder, settings);
  // The same curves over millions of tokens. Their own folder, hence their own run in TensorBoard, because a
  // restart discards by x and these x are not steps.
  if (restart) settings.restart_step = options_.first_tokens / 1'000'000 + 1;
  tensorboard_by_tokens_ = std::make_unique<TensorBoard>(by_tokens, settings);
}

MetricsLog::~MetricsLog() { report_repeats(); }

Rates MetricsLog::rates(const StepMetrics& m) const {
  Rates r;
  r.tok_per_s = throughput_.tokens_per_second();
  r.tok_per_s_wall = throughput_.tokens_per_second_wall();
  r.data_share = throughput_.data_share();
  if (options_.flops_per_token > 0) r.tflops = r.tok_per_s * options_.flops_per_token / 1e12;
  if (options_.peak_tflops > 0) {
    r.mfu = r.tflops / options_.peak_tflops;
    r.hfu = r.mfu * (1 + options_.recomputed_flops_per_token / options_.flops_per_token);
  }
  r.eta_s = static_cast<double>(m.total_tokens - m.tokens) / r.tok_per_s_wall;
  return r;
}

void MetricsLog::step(const StepMetrics& m) {
  if (!records_) return;
  throughput_.step(m.step_tokens, m.step_time_s, m.data_wait_s);
  const Rates r = rates(m);
  smooth_loss_ = std::isfinite(smooth_loss_) ? 0.9 * smooth_loss_ + 0.1 * m.loss : m.loss;
  // A function of the step alone, so that an interrupted run logs the same steps as an uninterrupted one.
  const bool logged = m.step == 1 || m.step == m.total_steps || m.step % options_.every_steps == 0;
  if (logged) {
    const std::string line = step_line(m, r);
    records_->append(step_record(m, r, unix_now()) + "\n");
    log_text('I', line);
    if (!console_.style().terminal) console_.line(line);
    if (tensorboard_) {
      const auto f = [](double value) { return static_cast<float>(value); };
      std::vector<Scalar> scalars = {{"train/loss", f(m.loss)},
                                     {"train/loss_max", f(m.loss_max)},
                                     {"train/ppl", f(std::exp(m.loss))},
                                     {"train/lr", f(m.lr)},
                                     {"train/weight_decay", f(m.weight_decay)},
                                     {"train/grad_norm", f(m.grad_norm)},
                                     {"train/clip_coef", f(m.clip_coef)},
                                     {"train/tokens", f(m.tokens)},
                                     {"perf/step_time_s", f(m.step_time_s)}};
      const auto known = [&](const char* tag, double value) {
        if (std::isfinite(value)) scalars.push_back({tag, f(value)});
      };
      known("perf/tok_per_s", r.tok_per_s);
      known("perf/tok_per_s_wall", r.tok_per_s_wall);
      known("perf/tflops", r.tflops);
      known("perf/mfu", r.mfu);
      known("perf/hfu", r.hfu);
      known("perf/data_wait_pct", 100 * r.data_share);
      known("mem/peak_gib", static_cast<double>(m.memory_bytes) / (1 << 30));
      tensorboard_->scalars(m.step, scalars);
      const Scalar by_tokens[] = {{"train/loss_by_tokens", f(m.loss)},
                                  {"train/ppl_by_tokens", f(std::exp(m.loss))}};
      tensorboard_by_tokens_->scalars(m.tokens / 1'000'000, by_tokens);
    }
    if (r.data_share > 0.02 && !data_hint_given_) {
      data_hint_given_ = true;
      warning(str("the steps wait for data ", fixed(100 * r.data_share, 1), "% of the time",
                  options_.slowest_source ? ", most of it for " + options_.slowest_source() : "",
                  ": faster storage would help"));
    }
  }
  if (console_.style().terminal) {
    const double share =
        m.total_steps > 0 ? static_cast<double>(m.step) / static_cast<double>(m.total_steps) : 0;
    console_.bar(share, str(m.step, "/", m.total_steps, " loss ", fixed(smooth_loss_, 4), " ",
                            human_count(r.tok_per_s), " tok/s eta ", human_duration(r.eta_s)));
    if (m.step == m.total_steps) console_.end_bar();
  }
  check_console();
}

void MetricsLog::evaluation(const EvalMetrics& m) {
  if (!records_) return;
  throughput_.pause(m.seconds);
  records_->append(eval_record(m, unix_now()) + "\n");
  std::string line = str("eval step=", m.step, " set=", printable(m.set),
                         " loss=", fixed(as_float(m.loss), 4), " ppl=", fixed(std::exp(m.loss), 2));
  if (std::isfinite(m.bits_per_byte)) line += str(" bpb=", fixed(m.bits_per_byte, 3));
  if (std::isfinite(m.accuracy)) line += str(" acc=", fixed(m.accuracy, 4));
  info(str(line, " time=", fixed(m.seconds, 1), "s"));
  if (!tensorboard_) return;
  const auto f = [](double value) { return static_cast<float>(value); };
  std::vector<Scalar> scalars = {{str("val/", m.set, "/loss"), f(m.loss)},
                                 {str("val/", m.set, "/ppl"), f(std::exp(m.loss))}};
  if (std::isfinite(m.bits_per_byte))
    scalars.push_back({str("val/", m.set, "/bits_per_byte"), f(m.bits_per_byte)});
  if (std::isfinite(m.accuracy)) scalars.push_back({str("val/", m.set, "/accuracy"), f(m.accuracy)});
  tensorboard_->scalars(m.step, scalars);
  for (Scalar& s : scalars) s.tag += "_by_tokens";
  tensorboard_by_tokens_->scalars(m.tokens / 1'000'000, scalars);
}

void MetricsLog::norms(const NormMetrics& m) {
  if (!records_) return;
  records_->append(norm_record(m, unix_now()) + "\n");
  if (!tensorboard_) return;
  std::vector<Scalar> scalars;
  for (const NormMetrics::Part& p : m.parts)
    for (const auto& [kind, value] : {std::pair<const char*, double>{"param", p.param},
                                      {"grad", p.grad},
                                      {"update_ratio", update_ratio(p)}})
      if (std::isfinite(value))
        scalars.push_back({str("norms/", kind, "/", p.name), static_cast<float>(value)});
  tensorboard_->scalars(m.step, scalars);
}

void MetricsLog::checkpoint(int64_t step, double seconds, const std::string& where, double write_s) {
  if (!records_) return;
  throughput_.pause(seconds);
  Record record;
  record.add("event", "checkpoint").add("step", step).add("seconds", seconds);
  if (std::isfinite(write_s)) record.add("write_s", write_s);
  records_->append(record.add("time", unix_now()).done() + "\n");
  info(str("saved ", printable(where), " in ", fixed(seconds, 1), "s",
           std::isfinite(write_s) ? str(" beside ", fixed(write_s, 1), "s of writing") : ""));
}

void MetricsLog::text(int64_t step, std::string_view name, std::string_view markdown) {
  if (tensorboard_) tensorboard_->text(step, name, markdown);
}

void MetricsLog::sync() {
  if (!records_) return;
  records_->sync();
  if (!tensorboard_) return;
  tensorboard_->sync();
  tensorboard_by_tokens_->sync();
}

void MetricsLog::message(char level, std::string_view text) {
  if (!records_ && level == 'I') return;  // rank 0 says it
  if (text == last_message_) {
    ++repeated_;
    return;
  }
  report_repeats();
  last_message_ = text;
  log_text(level, text);
  if (level == 'W') {
    console_.warning(str("warning: ", printable(text)));
  } else {
    console_.line(printable(text));
  }
  check_console();
}

void MetricsLog::report_repeats() {
  if (repeated_ > 0) log_text('I', str("the message before was repeated ", repeated_, " times"));
  repeated_ = 0;
}

void MetricsLog::log_text(char level, std::string_view text) {
  text_->append(str("[", utc_time(unix_now()), prefix_, level, "] ", printable(text), "\n"));
}

void MetricsLog::check_console() {
  if (console_.working() || console_reported_) return;
  console_reported_ = true;
  log_text('W', "the terminal or pipe that shows progress is closed; the run goes on and logs here");
}

std::vector<nlohmann::json> read_metrics(const io::fs::path& path) {
  LineReader reader(path);
  std::vector<nlohmann::json> records;
  std::string line;
  while (reader.next(line)) {
    nlohmann::json record = parse(line);
    if (reader.number() == 1) {
      check_header(path, record);
      continue;
    }
    const auto field = [&](const char* key) {
      return record.is_object() ? record.value(key, nlohmann::json()) : nlohmann::json();
    };
    const nlohmann::json event = field("event"), step = field("step");
    if (!event.is_string()) fail_line(path, reader.number(), "found no \"event\"");
    if (!step.is_number_integer()) fail_line(path, reader.number(), "found no \"step\"");
    if (event == "resume") {
      const auto first = step.get<int64_t>();
      std::erase_if(records, [&](const nlohmann::json& old) { return old["step"].get<int64_t>() >= first; });
    } else {
      records.push_back(std::move(record));
    }
  }
  return records;
}

}  // namespace rookery::loop
