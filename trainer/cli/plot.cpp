// plot.cpp: `rookery plot`: the loss curves of runs, from their metrics.jsonl, in the terminal and as SVG.
// Drawing: trainer/loop/plot.cpp. Reading: read_metrics in trainer/loop/metrics.cpp.
#include "trainer/loop/plot.h"

#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "trainer/cli/commands.h"
#include "trainer/cli/terminal.h"
#include "trainer/loop/console.h"
#include "trainer/loop/metrics.h"

namespace rookery::cli {

namespace {

namespace fs = std::filesystem;

fs::path metrics_file(const fs::path& run) { return fs::is_directory(run) ? run / "metrics.jsonl" : run; }

// The name of a run: its folder.
std::string run_name(const fs::path& run) {
  const fs::path folder = metrics_file(fs::absolute(run).lexically_normal()).parent_path();
  return folder.filename().string();
}

double number(const nlohmann::json& record, const char* key) {
  const auto found = record.find(key);
  return found != record.end() && found->is_number() ? found->get<double>() : loop::kUnknown;
}

// Appends the curves of one run: the training loss, and one curve for each validation set. `label` precedes
// their names.
void add_run(loop::Chart& chart, const fs::path& run, const std::string& label, const std::string& x_key,
             int64_t smooth) {
  loop::Series train;
  std::map<std::string, loop::Series> validation;
  for (const nlohmann::json& record : loop::read_metrics(metrics_file(run))) {
    const bool eval = record["event"] == "eval";
    if (!eval && record["event"] != "step") continue;
    loop::Series& series =
        eval ? validation[record.value("set", nlohmann::json()).is_string() ? record["set"].get<std::string>()
                                                                            : ""]
             : train;
    series.x.push_back(number(record, x_key.c_str()));
    series.y.push_back(number(record, "loss"));
  }
  if (train.x.empty() && validation.empty())
    fail(ExitCode::kData, "PLOT-01", printable(metrics_file(run).string()),
         ": found no step, expected the records of a run; train it first");
  int color = chart.series.empty() ? 0 : chart.series.back().color + 1;
  train.color = color;
  train.name = label + "training";
  if (smooth > 0 && static_cast<int64_t>(train.x.size()) > 2 * smooth) {
    loop::Series raw = train;
    raw.name.clear();
    raw.look = loop::Series::Look::kFaintLine;
    chart.series.push_back(std::move(raw));
    train.y = loop::smoothed(train.y, smooth);
    train.name += " (smoothed)";
  }
  if (!train.x.empty()) chart.series.push_back(std::move(train));
  for (auto& [set, series] : validation) {
    series.name = str(label, "validation", set.empty() ? "" : " ", set);
    series.look = loop::Series::Look::kDottedLine;
    series.color = ++color;
    chart.series.push_back(std::move(series));
  }
}

void write_svg(const fs::path& out, const loop::Chart& chart, const Arguments& arguments) {
  for (const std::string& run : arguments.positional()) {
    std::error_code missing;  // then they are not the same file
    if (fs::equivalent(metrics_file(run), out, missing))
      fail(ExitCode::kUsage, "PLOT-02", printable(out.string()),
           ": is the input, expected another file for --out");
  }
  if (fs::exists(out) && !arguments.flag("force"))
    fail(ExitCode::kCannotCreate, "PLOT-03", printable(out.string()),
         ": exists already; name another file, or replace it with --force");
  const auto width = static_cast<int>(arguments.integer("width", 200, 10'000));
  const auto height = static_cast<int>(arguments.integer("height", 150, 10'000));
  io::write_file_atomic(out, loop::svg_chart(chart, width, height), "plot.svg");
}

int run_plot(const Arguments& arguments) {
  const std::string x = arguments.one_of("x", {"steps", "tokens"});
  const int64_t smooth = arguments.integer("smooth", 0, 1'000'000);
  const std::vector<std::string>& runs = arguments.positional();
  loop::Chart chart;
  chart.x_label = x;
  chart.y_label = "loss (nats per token)";
  chart.log_x = arguments.flag("log-x");
  chart.title = arguments.given("title") ? arguments.text("title")
                : runs.size() == 1       ? run_name(runs[0])
                                         : "";
  for (const std::string& run : runs)
    add_run(chart, run, runs.size() == 1 ? "" : run_name(run) + " ", x == "steps" ? "step" : "tokens",
            smooth);
  if (arguments.given("out")) write_svg(arguments.path("out"), chart, arguments);
  constexpr int kRows = 20;
  std::cout << loop::text_chart(chart, loop::terminal_columns(1), kRows, loop::Console::detect(1).utf8,
                                arguments.color(1));
  return 0;
}

}  // namespace

Command plot_command() {
  Command c;
  c.name = "plot";
  c.summary = "loss curves of runs, in the terminal and as a picture";
  c.details =
      "Reads metrics.jsonl of each RUN (a run folder, or the file itself) and draws the training loss and "
      "the loss on the validation sets. "
      "Steps that were done twice because the run was interrupted appear once.";
  c.positional = "RUN...";
  c.least_positional = 1;
  c.most_positional = Command::kAny;
  c.options = {
      {"out", "FILE.svg", "write a picture (SVG) too", ""},
      {"x", "AXIS", "what goes to the right: steps or tokens", "steps"},
      {"log-x", "", "logarithmic axis to the right"},
      {"smooth", "N", "mean of N logged steps on each side for the training loss; 0: as it is", "10"},
      {"title", "TEXT", "title of the picture; the run's name if there is one run", ""},
      {"width", "PIXELS", "of the picture", "960"},
      {"height", "PIXELS", "of the picture", "540"},
      {"force", "", "replace an existing FILE.svg"},
  };
  c.examples = {{"rookery plot runs/quickstart --out loss.svg", "one run"},
                {"rookery plot runs/a runs/b --x tokens --log-x", "two runs compared"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput, ExitCode::kCannotCreate};
  c.run = run_plot;
  return c;
}

}  // namespace rookery::cli
