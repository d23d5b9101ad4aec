// config.cpp: `rookery config`: looks at configurations without running them. What the keys are:
// trainer/config/run_config.cpp.
#include <iostream>

#include "trainer/cli/commands.h"
#include "trainer/config/run_config.h"

namespace rookery::cli {

namespace {

std::vector<std::filesystem::path> files_of(const Arguments& arguments) {
  std::vector<std::filesystem::path> files(arguments.positional().begin(), arguments.positional().end());
  for (const std::string& file : arguments.texts("config")) files.emplace_back(file);
  if (files.empty())
    fail(ExitCode::kUsage, "CLI-01", "a configuration file is missing; see '", arguments.command(),
         " --help'");
  return files;
}

config::LoadedRun load(const Arguments& arguments) {
  return config::load_run(files_of(arguments), arguments.overrides(), arguments.integer("world", 1, 1 << 24));
}

int show(const Arguments& arguments) {
  config::LoadedRun run = load(arguments);
  std::cout << config::resolved_yaml(run.config, arguments.flag("origin") ? &run.origins : nullptr);
  return 0;
}

int check(const Arguments& arguments) {
  const config::RunConfig c = load(arguments).config;
  const int64_t world = arguments.integer("world");
  std::cout << str(c.name, ": ", c.total_steps(), " steps of ", c.recipe->global_batch_size, " x ",
                   c.data.seq_len, " = ", c.tokens_per_step(), " tokens, ",
                   c.total_steps() * c.tokens_per_step(), " in all; micro_batch_size ",
                   c.recipe->micro_batch_size, " x ", c.grad_accum_steps(world), " accumulation steps x ",
                   world, world == 1 ? " rank\n" : " ranks\n");
  return 0;
}

int diff(const Arguments& arguments) {
  config::RunConfig left = config::load_run({arguments.positional()[0]}, {}).config;
  config::RunConfig right = config::load_run({arguments.positional()[1]}, {}).config;
  auto shown = [](const std::string& text) { return text.empty() ? "(not there)" : text; };
  auto print = [&](const std::vector<config::Difference>& list, std::string_view meaning) {
    for (const config::Difference& d : list) {
      std::cout << str(d.path, ": ", shown(d.left), " -> ", shown(d.right), meaning, "\n");
    }
  };
  config::ResumeChanges changes = config::resume_changes(left, right);
  print(changes.stop, "   (another run: a resume stops)");
  print(changes.note, "");
  print(changes.free, "   (where and how often things are written)");
  return 0;
}

int schema(const Arguments&) {
  config::RunConfig c;
  std::cout << config::json_schema(*config::make_member(c), "rookery run configuration");
  return 0;
}

int reference(const Arguments&) {
  config::RunConfig c;
  std::cout << "# Configuration\n\n"
               "Made from the field lists in the code by `rookery config reference`. Several files merge "
               "from left to right: sections merge, "
               "lists and\nsingle values replace. `include: FILE` (or a list, at the top of a file) reads "
               "other files first, relative to this "
               "one. On the command\nline `optim.lr=3e-4`, `--optim.lr 3e-4`, `data.sources[0].weight=2` and "
               "`~optim.lr` (back to the "
               "default) change single values; the last\none wins. `rookery config show --origin` tells "
               "where each value comes from.\n\n"
               "Counts may be written as `2048`, `1_000`, `1e6`, `300M`, `1.5B`, `2Ti`; sizes as `64MiB`, "
               "`5GB`; durations as `30m`, `2h`, "
               "`1h30m`.\n`6e-4` is a number. Booleans are `true` and `false` only. A leading `~/` of a path "
               "is the home folder.\n"
            << config::markdown_reference(*config::make_member(c));
  return 0;
}

Command file_command(std::string name, std::string summary, std::function<int(const Arguments&)> run) {
  Command c;
  c.name = std::move(name);
  c.summary = std::move(summary);
  c.positional = "CONFIG... [key=value...]";
  c.most_positional = Command::kAny;
  c.takes_overrides = true;
  c.options = {{"world", "N", "number of ranks that the batch is split over", "1"},
               {"config", "FILE", "one more configuration file, read last", "", true, 'c'}};
  c.exit_codes = {ExitCode::kNoInput, ExitCode::kConfig};
  c.run = std::move(run);
  return c;
}

Command page_command(std::string name, std::string summary, std::string example,
                     std::function<int(const Arguments&)> run) {
  Command c;
  c.name = std::move(name);
  c.summary = std::move(summary);
  c.examples = {{std::move(example)}};
  c.run = std::move(run);
  return c;
}

}  // namespace

Command config_command() {
  Command show_command = file_command(
      "show", "the complete configuration: files merged, overrides applied, defaults filled in", show);
  show_command.options.insert(show_command.options.begin(),
                              {"origin", "", "tell beside each value where it comes from"});
  show_command.examples = {{"rookery config show configs/quickstart.yaml optim.lr=1e-3 --origin"}};
  Command check_command =
      file_command("check", "report everything that is wrong with a configuration, at once", check);
  check_command.examples = {{"rookery config check configs/quickstart.yaml"}};
  Command diff_command;
  diff_command.name = "diff";
  diff_command.summary = "the keys in which two configurations differ, and what that means for a resume";
  diff_command.positional = "CONFIG CONFIG";
  diff_command.least_positional = diff_command.most_positional = 2;
  diff_command.examples = {{"rookery config diff runs/a/config.resolved.yaml runs/b/config.resolved.yaml"}};
  diff_command.exit_codes = {ExitCode::kNoInput, ExitCode::kConfig};
  diff_command.run = diff;

  Command c;
  c.name = "config";
  c.summary = "show, check, compare configurations; schema and reference";
  c.examples = {{"rookery config check configs/quickstart.yaml"}};
  c.children = {std::move(show_command), std::move(check_command), std::move(diff_command),
                page_command("schema", "JSON Schema of a configuration, for editors",
                             "rookery config schema > rookery.schema.json", schema),
                page_command("reference", "every key with type, default and meaning, as Markdown",
                             "rookery config reference > docs/configuration.md", reference)};
  return c;
}

}  // namespace rookery::cli
