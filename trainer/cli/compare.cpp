// compare.cpp: `rookery compare`: trained runs side by side, several seeds of one kind as one row. Reads what
// runs leave: config.resolved.yaml and metrics.jsonl.
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "kernels/base/io.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/terminal.h"
#include "trainer/loop/metrics.h"
#include "trainer/loop/plot.h"
#include "trainer/models/registry.h"
#include "trainer/plan/count.h"

namespace rookery::cli {
namespace {

namespace fs = std::filesystem;
using loop::fixed;

constexpr uint64_t kMostConfigBytes = 1 << 20;

// At each evaluation of a run, the mean over its validation sets.
struct Curve {
  std::vector<double> tokens, loss, accuracy;
};

struct Group {
  std::string name;
  std::vector<Curve> runs;  // one for each seed
  int64_t parameters = 0, embedding = 0;
};

Curve read_curve(const fs::path& run) {
  std::map<int64_t, std::vector<std::pair<double, double>>> by_tokens;  // loss and accuracy of each set
  for (const nlohmann::json& record : loop::read_metrics(run / "metrics.jsonl")) {
    if (record.at("event") != "eval") continue;
    const nlohmann::json tokens = record.value("tokens", nlohmann::json());
    if (!tokens.is_number_integer())
      fail(ExitCode::kData, "COMPARE-05", printable((run / "metrics.jsonl").string()),
           ": the evaluation of step ", record.at("step").dump(), " has tokens ", tokens.dump(),
           ", expected a number; the file is not as the run wrote it");
    const auto number = [&](const char* key) {  // null: not known, or not finite
      const nlohmann::json value = record.value(key, nlohmann::json());
      return value.is_number() ? value.get<double>() : loop::kUnknown;
    };
    by_tokens[tokens.get<int64_t>()].emplace_back(number("loss"), number("accuracy"));
  }
  if (by_tokens.empty())
    fail(ExitCode::kData, "COMPARE-01", printable(run.string()),
         ": found no evaluation, expected a run with data.val and eval.every_steps");
  Curve curve;
  for (const auto& [tokens, sets] : by_tokens) {
    double loss = 0, accuracy = 0;
    for (const auto& [l, a] : sets) {
      loss += l;
      accuracy += a;
    }
    curve.tokens.push_back(static_cast<double>(tokens));
    curve.loss.push_back(loss / static_cast<double>(sets.size()));
    curve.accuracy.push_back(accuracy / static_cast<double>(sets.size()));
  }
  return curve;
}

// Groups in the order of their first run. Each argument: NAME=RUN.
std::vector<Group> read_groups(const std::vector<std::string>& arguments) {
  std::vector<Group> groups;
  for (const std::string& argument : arguments) {
    const size_t equals = argument.find('=');
    if (equals == 0 || equals == std::string::npos || equals + 1 == argument.size())
      fail(ExitCode::kUsage, "COMPARE-02", "'", printable(argument),
           "': expected NAME=RUN, a name for the table and the folder of a run");
    const std::string name = argument.substr(0, equals);
    const fs::path run = argument.substr(equals + 1);
    auto group = std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return g.name == name; });
    if (group == groups.end()) group = groups.insert(group, Group{name, {}, 0, 0});
    const fs::path file = run / "config.resolved.yaml";
    const auto config = config::parse_run(io::read_file(file, kMostConfigBytes), printable(file.string()));
    const auto model = make_model(*config.model);
    const int64_t parameters = plan::num_parameters(*model);
    const int64_t embedding = model->embedding().global.numel();
    if (!group->runs.empty() && parameters != group->parameters)
      fail(ExitCode::kData, "COMPARE-03", printable(run.string()), ": has ", parameters,
           " parameters, expected ", group->parameters, " as the other runs named ", name);
    group->parameters = parameters;
    group->embedding = embedding;
    group->runs.push_back(read_curve(run));
  }
  return groups;
}

struct Spread {
  double mean = 0, deviation = 0;  // of the sample; 0 for one value
};
Spread spread(const std::vector<double>& values) {
  Spread s;
  for (const double v : values) s.mean += v / static_cast<double>(values.size());
  for (const double v : values) s.deviation += (v - s.mean) * (v - s.mean);
  s.deviation = values.size() > 1 ? std::sqrt(s.deviation / static_cast<double>(values.size() - 1)) : 0;
  return s;
}

std::string cell(const Spread& s, int digits) {
  if (!std::isfinite(s.mean)) return "n/a";
  return s.deviation > 0 ? str(fixed(s.mean, digits), " ± ", fixed(s.deviation, digits))
                         : fixed(s.mean, digits);
}

std::string table(const std::vector<Group>& groups) {
  bool accuracy = false;
  for (const Group& g : groups) accuracy = accuracy || std::isfinite(g.runs[0].accuracy.back());
  std::string text =
      str("| model | parameters | without embedding | seeds | tokens | validation loss |",
          accuracy ? " accuracy |" : "", "\n|---|--:|--:|--:|--:|--:|", accuracy ? "--:|" : "", "\n");
  for (const Group& g : groups) {
    std::vector<double> loss, right, tokens;
    for (const Curve& run : g.runs) {
      loss.push_back(run.loss.back());
      right.push_back(run.accuracy.back());
      tokens.push_back(run.tokens.back());
    }
    text += str("| ", printable(g.name), " | ", g.parameters, " | ", g.parameters - g.embedding, " | ",
                g.runs.size(), " | ", loop::human_count(spread(tokens).mean), " | ", cell(spread(loss), 4),
                " |", accuracy ? str(" ", cell(spread(right), 4), " |") : "", "\n");
  }
  return text;
}

// One curve for each group: the mean over its seeds where all of them have been evaluated.
loop::Chart chart_of(const std::vector<Group>& groups, const std::string& title) {
  loop::Chart chart;
  chart.title = title;
  chart.x_label = "tokens";
  chart.y_label = "validation loss (nats per token)";
  for (const Group& g : groups) {
    std::map<double, std::vector<double>> at;
    for (const Curve& run : g.runs)
      for (size_t i = 0; i < run.tokens.size(); ++i) at[run.tokens[i]].push_back(run.loss[i]);
    loop::Series series;
    series.name = g.name;
    series.color = static_cast<int>(chart.series.size());
    series.look = loop::Series::Look::kDottedLine;
    for (const auto& [tokens, losses] : at) {
      if (losses.size() != g.runs.size()) continue;
      series.x.push_back(tokens);
      series.y.push_back(spread(losses).mean);
    }
    chart.series.push_back(std::move(series));
  }
  return chart;
}

void write_new(const Arguments& a, const char* option, const std::string& content) {
  if (!a.given(option)) return;
  const fs::path out = a.path(option);
  if (fs::exists(out) && !a.flag("force"))
    fail(ExitCode::kCannotCreate, "COMPARE-04", printable(out.string()),
         ": exists already; name another file, or replace it with --force");
  io::write_file_atomic(out, content, "compare.out");
}

int run(const Arguments& a) {
  const std::vector<Group> groups = read_groups(a.positional());
  const std::string rows = table(groups);
  write_new(a, "out", rows);
  write_new(a, "svg", loop::svg_chart(chart_of(groups, a.maybe("title").value_or("Validation loss"))));
  std::fputs(rows.c_str(), stdout);
  return 0;
}

}  // namespace

Command compare_command() {
  Command c;
  c.name = "compare";
  c.summary = "trained runs side by side, as a table and a picture";
  c.details =
      "Runs of one NAME are seeds of the same set-up: the table shows the mean of their last validation "
      "losses "
      "(each the mean over the run's sets) and its deviation. The table is Markdown.";
  c.positional = "NAME=RUN...";
  c.least_positional = 1;
  c.most_positional = Command::kAny;
  c.options = {{"out", "FILE.md", "write the table"},
               {"svg", "FILE.svg", "draw the validation loss over tokens"},
               {"title", "TEXT", "of the picture"},
               {"force", "", "replace existing files"}};
  c.examples = {{"rookery compare finch=runs/f1 finch=runs/f2 llama=runs/l1 --svg loss.svg"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput, ExitCode::kCannotCreate};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
