// plan.cpp: `rookery plan`: what a configuration needs, found without its weights. The sizes: trainer/plan.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "trainer/cli/commands.h"
#include "trainer/config/scalar.h"
#include "trainer/loop/device.h"
#include "trainer/loop/human.h"
#include "trainer/loop/session.h"
#include "trainer/models/registry.h"
#include "trainer/plan/cache.h"
#include "trainer/plan/count.h"
#include "trainer/plan/step.h"

namespace rookery::cli {
namespace {

using loop::fixed;

constexpr int64_t kRunHere = int64_t{64}
                             << 20;  // parameters up to which the cache is also measured on the CPU
constexpr int64_t kMeasuredTokens = 1024;
constexpr int64_t kLong =
    8192;  // beyond all windows of waiting tokens: from here on each token adds the same
constexpr int64_t kMostTokens = int64_t{1} << 30;

void print(const std::string& line) { std::printf("%s\n", line.c_str()); }

std::string right(const std::string& text, size_t width) {
  return std::string(text.size() < width ? width - text.size() : 0, ' ') + text;
}
std::string left(const std::string& text, size_t width) {
  return text + std::string(text.size() < width ? width - text.size() : 1, ' ');
}

config::LoadedRun load_config(const std::string& file, const Arguments& a) {
  return config::load_run({file}, a.overrides(), config::kWorldOfMesh);
}

nlohmann::json count(const std::string& file, const Arguments& a) {
  const config::LoadedRun run = load_config(file, a);
  const auto model = make_model(*run.config.model);
  nlohmann::json modules = nlohmann::json::object();
  for (const auto& [name, parameters] : plan::parameters_by_module(*model)) modules[name] = parameters;
  nlohmann::json result{{"name", run.config.name},
                        {"arch", run.config.model->arch()},
                        {"parameters", plan::num_parameters(*model)},
                        {"modules", modules}};
  if (a.flag("json")) return result;
  print(str(run.config.name, " (", run.config.model->arch(), ")"));
  for (const auto& [name, parameters] : plan::parameters_by_module(*model))
    print(str("  ", left(name, 16), right(str(parameters), 14)));
  print(str("  ", left("parameters", 16), right(str(result["parameters"].get<int64_t>()), 14)));
  return result;
}

std::vector<int64_t> lengths(const Arguments& a) {
  std::vector<int64_t> all;
  for (const std::string& text : a.texts("tokens")) {
    std::string why;
    const auto value = config::parse_integer(text, config::Unit::kPlain, why);
    if (!value || *value < 1 || *value > kMostTokens)
      fail(ExitCode::kUsage, "PLAN-01", "--tokens ", loop::printable(text), ": expected a number from 1 to ",
           kMostTokens, "; write for example 65536 or 64Ki");
    all.push_back(*value);
  }
  return all;
}

nlohmann::json cache(const std::string& file, const Arguments& a) {
  config::LoadedRun run = load_config(file, a);
  const std::string yaml = config::resolved_yaml(run.config);
  const loop::Session meta = loop::make_session(config::parse_run(yaml, file), DeviceType::kMeta);
  const int64_t L = meta.model->num_blocks(), D = meta.model->embedding().global[1];
  const auto number = static_cast<double>(dtype_size(meta.store->dtype()));
  const auto few = plan::measure_cache(*meta.model, *meta.device, kLong);
  const auto many = plan::measure_cache(*meta.model, *meta.device, kLong + 4096);
  const double per_token = static_cast<double>(many.used - few.used) / 4096;
  const double constant = static_cast<double>(few.used) - static_cast<double>(kLong) * per_token;
  nlohmann::json result{{"name", run.config.name},
                        {"arch", run.config.model->arch()},
                        {"constant_bytes", constant},
                        {"bytes_per_token", per_token},
                        {"transformer_bytes_per_token", plan::transformer_entries(L, D) * number},
                        {"lengths", nlohmann::json::array()}};
  for (const int64_t tokens : lengths(a)) {
    const int64_t bytes =
        tokens <= kLong ? plan::measure_cache(*meta.model, *meta.device, tokens).used
                        : few.used + static_cast<int64_t>(per_token * static_cast<double>(tokens - kLong));
    result["lengths"].push_back({{"tokens", tokens}, {"bytes", bytes}});
  }
  if (plan::num_parameters(*meta.model) <= kRunHere) {
    const loop::Session cpu = loop::make_session(config::parse_run(yaml, file));
    const auto measured = plan::measure_cache(*cpu.model, *cpu.device, kMeasuredTokens);
    result["measured"] = {
        {"tokens", kMeasuredTokens}, {"used_bytes", measured.used}, {"taken_bytes", measured.taken}};
  }
  if (a.flag("json")) return result;

  print(str(run.config.name, " (", run.config.model->arch(), "), L ", L, ", D ", D, ", numbers of ",
            fixed(number, 0), " bytes, one text"));
  print(str("  constant ", fixed(constant, 0), " bytes, each token ", fixed(per_token, 0), " more"));
  if (per_token > 0)
    print(str("  keys and values of every layer (2 D L numbers a token) would be ",
              fixed(plan::transformer_entries(L, D) * number / per_token, 2), " times as much"));
  for (const auto& row : result["lengths"])
    print(str("  ", right(str(row["tokens"].get<int64_t>()), 10), " tokens ",
              right(str(row["bytes"].get<int64_t>()), 16),
              " bytes = ", loop::gib(row["bytes"].get<int64_t>()), " GiB"));
  if (result.contains("measured"))
    print(str("  measured here after ", kMeasuredTokens,
              " tokens: ", result["measured"]["used_bytes"].get<int64_t>(), " bytes used, ",
              result["measured"]["taken_bytes"].get<int64_t>(), " taken from memory"));
  print("");
  return result;
}

// A step of so many blocks on the meta device.
plan::StepMemory step_memory(const config::RunConfig& c, const std::string& recompute, DType dtype) {
  auto device = std::make_unique<Device>(DeviceType::kMeta, static_cast<int>(c.threads));
  device->plans_for = loop::device_type(c);
  const MeshDegrees degrees = c.mesh.degrees(1);
  MetaCommunicator world(0, static_cast<int>(degrees.world()));
  const Mesh mesh(degrees, world);
  const loop::Session s =
      loop::make_session(config::parse_run(config::resolved_yaml(c), c.name), std::move(device), mesh);
  s.model->recompute = recompute_from_string(recompute);
  return plan::measure_step(*s.model, *s.device, dtype, c.recipe->micro_batch_size, c.data.seq_len, mesh);
}

nlohmann::json step(const std::string& file, const Arguments& a) {
  const config::RunConfig c = load_config(file, a).config;
  const DeviceType target = loop::device_type(c);
  const DType dtype = c.precision == "fp64"                                 ? DType::kF64
                      : target != DeviceType::kCpu && c.precision == "bf16" ? DType::kBF16
                                                                            : DType::kF32;
  const auto model = make_model(*c.model);
  const int64_t L = model->num_blocks(), D = model->embedding().global[1];
  const int64_t B = c.recipe->micro_batch_size, T = c.data.seq_len;
  std::vector<std::string> twice = a.overrides();
  twice.push_back(str("model.num_layers=", 2 * L));
  const config::RunConfig deeper = config::load_run({file}, twice, config::kWorldOfMesh).config;
  nlohmann::json result{{"name", c.name},
                        {"arch", c.model->arch()},
                        {"device", str(target)},
                        {"dtype", str(dtype)},
                        {"hidden_size", D},
                        {"head_elements", model->head().global.numel()},
                        {"micro_batch_size", B},
                        {"seq_len", T},
                        {"recompute", nlohmann::json::array()}};
  for (const char* recompute : {"none", "selective", "block"}) {
    const plan::StepMemory memory = step_memory(c, recompute, dtype);
    const int64_t of_blocks = step_memory(deeper, recompute, dtype).at_once - memory.at_once;
    model->recompute = recompute_from_string(recompute);
    result["recompute"].push_back(
        {{"kind", recompute},
         {"bytes", memory.taken},
         {"bytes_at_once", memory.at_once},
         {"bytes_per_block_and_token", static_cast<double>(of_blocks) / static_cast<double>(L * B * T)},
         {"flops_per_token",
          loop::train_flops_per_token(*model, T) + loop::recomputed_flops_per_token(*model, T)}});
  }
  if (a.flag("json")) return result;

  print(str(c.name, " (", c.model->arch(), "), L ", L, ", D ", D, ": activations in ", dtype, " of ", B,
            " x ", T, " tokens, as on ", target));
  print(str("  ", left("recompute", 10), right("GiB", 9), right("at once", 10),
            right("per block and token", 28), right("FLOPs per token", 18)));
  for (const auto& row : result["recompute"]) {
    const double each = row["bytes_per_block_and_token"].get<double>();
    print(str("  ", left(row["kind"].get<std::string>(), 10),
              right(loop::gib(row["bytes"].get<int64_t>()), 9),
              right(loop::gib(row["bytes_at_once"].get<int64_t>()), 10),
              right(str(fixed(each, 0), " bytes = ", fixed(each / static_cast<double>(D), 2), " D"), 28),
              right(loop::human_count(row["flops_per_token"].get<double>()), 18)));
  }
  print("");
  return result;
}

nlohmann::json paper(const Arguments& a) {
  nlohmann::json result{{"tokens", plan::kPaperTokens},
                        {"table", nlohmann::json::array()},
                        {"ratios", nlohmann::json::array()}};
  const bool text = !a.flag("json");
  if (text) {
    print("arXiv 2407.12077: 262144 tokens, L 32, D 4096, heads of 128 channels, entries of 2 bytes");
    print(str("  ", left("", 14), left("entries/token", 15), right("printed GB", 11),
              right("formula GiB", 13)));
  }
  for (const plan::PaperRow& row : plan::paper_table()) {
    const double gib = row.entries * 2 * static_cast<double>(plan::kPaperTokens) / (1 << 30);
    result["table"].push_back({{"architecture", row.architecture},
                               {"entries", row.entries},
                               {"printed_gb", row.printed_gb},
                               {"formula_gib", gib}});
    if (text)
      print(str("  ", left(row.architecture, 14), left(row.formula, 15), right(fixed(row.printed_gb, 3), 11),
                right(fixed(gib, 3), 13)));
  }
  if (text) print("Keys and values of a transformer, 2 D L, over those of GoldFinch, D/16 + the token id:");
  for (const auto& [L, D] : {std::pair<int64_t, int64_t>{24, 2048}, {80, 8192}})
    for (const int64_t id_bytes : {4, 2}) {
      const double ratio = plan::transformer_entries(L, D) / plan::goldfinch_entries(D, id_bytes);
      result["ratios"].push_back({{"layers", L}, {"width", D}, {"id_bytes", id_bytes}, {"ratio", ratio}});
      if (text) print(str("  L ", L, ", D ", D, ", ids of ", id_bytes, " bytes: ", fixed(ratio, 2)));
    }
  return result;
}

int run(const Arguments& a) {
  const bool caches = a.flag("cache"), steps = a.flag("step");
  if (a.positional().empty() && !caches)
    fail(ExitCode::kUsage, "CLI-01", "a configuration file is missing; see '", a.command(), " --help'");
  nlohmann::json all{{"runs", nlohmann::json::array()}};
  for (const std::string& file : a.positional())
    all["runs"].push_back(steps ? step(file, a) : caches ? cache(file, a) : count(file, a));
  if (caches) all["paper"] = paper(a);
  if (a.flag("json")) print(all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  return 0;
}

}  // namespace

Command plan_command() {
  Command c;
  c.name = "plan";
  c.summary = "parameters of a model, and the memory that generation keeps or a training step takes";
  c.details =
      "Counts the parameters of each configuration from the shapes alone, so any size fits any machine. "
      "With --cache: the memory that generation keeps between two tokens, by length of the text: a "
      "constant state, or keys and values of every token. The sizes come from a run without arithmetic; a "
      "model of up to 64 million parameters is also run, and what it takes from memory is printed. After "
      "it stand the GoldFinch paper's table and ratios by their formulas. With --step: the activations of "
      "one micro-batch on one rank of the mesh for each recipe.recompute, without data: what the packed plan "
      "takes, the most that is live at once, and how much of that one block more adds per token, found by a "
      "model of twice the blocks.";
  c.positional = "CONFIG... [key=value...]";
  c.most_positional = Command::kAny;
  c.takes_overrides = true;
  c.options = {{"step", "", "activations of a training step, by recipe.recompute"},
               {"cache", "", "memory that generation keeps, by length of the text"},
               {"tokens", "N", "a length for --cache", "65536", true},
               {"json", "", "machine-readable output"}};
  c.examples = {{"rookery plan configs/quickstart.yaml", "parameters by part of the model"},
                {"rookery plan --cache configs/quickstart.yaml --tokens 4096 --tokens 1Mi"},
                {"rookery plan --step configs/quickstart.yaml recipe.micro_batch_size=32"}};
  c.exit_codes = {ExitCode::kNoInput, ExitCode::kConfig};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
