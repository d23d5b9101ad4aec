// ckpt_convert.cpp: `rookery ckpt convert`: weights from any form to any other, with a look at the logits of
// what was written. The work: trainer/checkpoint/foreign/convert.h.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <iostream>

#include "trainer/checkpoint/foreign/convert.h"
#include "trainer/checkpoint/foreign/values.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/terminal.h"
#include "trainer/loop/session.h"

namespace rookery::cli {
namespace {

namespace fs = std::filesystem;
using foreign::Target;
using foreign::Type;

struct TargetName {
  const char* name;
  Target target;
};
constexpr std::array kTargets = {TargetName{"checkpoint", Target::kCheckpoint},
                                 TargetName{"pth", Target::kTorch},
                                 TargetName{"safetensors", Target::kSafetensors},
                                 TargetName{"hf", Target::kFolder}, TargetName{"fla", Target::kFolder}};

std::string target_name(const Arguments& a) {
  if (a.given("to")) {
    std::vector<std::string> names;
    for (const TargetName& t : kTargets) names.push_back(t.name);
    return a.one_of("to", names);
  }
  const fs::path extension = a.path("out").extension();
  if (extension == ".pth" || extension == ".pt") return "pth";
  return extension == ".safetensors" ? "safetensors" : "checkpoint";
}

std::optional<Type> type_of(const Arguments& a) {
  const std::string name = a.one_of("dtype", {"keep", "fp64", "fp32", "fp16", "bf16"});
  if (name == "keep") return std::nullopt;
  return name == "fp64"   ? Type::kF64
         : name == "fp32" ? Type::kF32
         : name == "fp16" ? Type::kF16
                          : Type::kBf16;
}

// Of a few fixed tokens, in fp32 (fp64 where the weights are).
std::vector<double> probe_logits(const foreign::ModelFile& weights, int64_t threads) {
  constexpr int64_t kTokens = 24;
  const bool wide = std::ranges::any_of(weights.tensors->tensors(),
                                        [](const foreign::TensorInfo& t) { return t.type == Type::kF64; });
  config::RunConfig config = foreign::run_config_of(weights.model);
  config.precision = wide ? "fp64" : "fp32";
  config.threads = threads;
  loop::Session session = loop::make_session(std::move(config));
  std::vector<std::span<std::byte>> into;
  for (const Parameter* p : session.store->parameters()) into.push_back({p->master.raw(), p->master.bytes()});
  foreign::load_values(*weights.tensors, wide ? Type::kF64 : Type::kF32, into);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < kTokens; ++i)
    ids.push_back(static_cast<int32_t>((i * i * 31 + i * 7) % session.model->vocab_size()));
  nn::SeqContext seq;
  nn::Context cx{nullptr, seq};
  const Tensor x = tensor_from(std::span<const int32_t>(ids), {1, kTokens}, DType::kI32, *session.device);
  return to_doubles(session.model->logits(cx, x).value());
}

// |a - b|_2 / |a|_2.
double relative_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += a[i] * a[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

int run(const Arguments& a) {
  const fs::path in = a.positional()[0], out = a.path("out");
  const foreign::ModelFile from = foreign::open_weights(in, a.overrides());
  for (const std::string& note : from.notes) std::cerr << "note: " << printable(note) << "\n";
  if (a.flag("verify")) from.tensors->verify();

  foreign::ConvertOptions options;
  const std::string target = target_name(a);
  options.target = std::ranges::find(kTargets, target, &TargetName::name)->target;
  options.form = target;
  options.type = type_of(a);
  options.saturate = a.flag("saturate");
  options.allow_nan = a.flag("allow-nan");
  options.replace = a.flag("force");
  options.shard_bytes = static_cast<uint64_t>(a.integer("shard-size", 1));
  if (const auto vocab = a.maybe("vocab")) options.tokenizer = *vocab;
  std::string logits = "not compared";
  if (!a.flag("no-check") && !options.allow_nan) {
    const int64_t threads = a.integer("threads", 0, kMaxThreads);
    options.check = [&, threads](const foreign::ModelFile& written) {
      const std::vector<double> before = probe_logits(from, threads);
      const double difference = relative_difference(before, probe_logits(written, threads));
      // Rounding of the weights alone: 2^-9 each in bf16, 2^-12 in fp16; what mixes up tensors is far above.
      const double allowed = options.type == Type::kBf16 ? 0.1 : options.type == Type::kF16 ? 0.02 : 1e-6;
      if (!(difference <= allowed))
        fail(ExitCode::kData, "WTS-13", out, ": the logits of what was written differ by ", difference,
             " (relative), expected at most ", allowed, "; nothing was kept");
      logits = difference == 0 ? "equal" : str("differ by ", difference, " (relative, from the rounding)");
    };
  }
  const foreign::ConvertReport report = foreign::convert(from, out, options);
  std::cout << printable(out.string()) << ": " << from.model.name() << ", " << report.tensors
            << " tensors; read back and compared; logits " << logits << "\n";
  if (report.saturated > 0) std::cout << "  " << report.saturated << " elements were saturated\n";
  if (report.not_finite > 0) std::cout << "  " << report.not_finite << " elements are NaN or infinity\n";
  return 0;
}

}  // namespace

Command ckpt_convert_command() {
  Command c;
  c.name = "convert";
  c.summary = "weights to and from .pth, safetensors and Hugging Face folders";
  c.details =
      "IN is a run, a checkpoint folder, a .pth file, a .safetensors file or a Hugging Face folder. "
      "Architecture and sizes are read from the names and shapes of the tensors and from config.json; "
      "model.KEY=VALUE sets what neither tells. A .pth file is read as data: nothing in it is executed.\n\n"
      "The output appears only when it is complete: it is read back and compared tensor by tensor, and the "
      "logits of a few tokens are computed from both (which takes the memory of the model; --no-check leaves "
      "this out). The conversion itself takes the memory of a few tensors. A checkpoint made here has no "
      "optimizer state: train from it with init.from.";
  c.positional = "IN [model.KEY=VALUE...]";
  c.least_positional = c.most_positional = 1;
  c.takes_overrides = true;
  c.options = {{"out", "PATH", "file or folder to write"},
               {"to", "FORM",
                "checkpoint, pth, safetensors, hf or fla (folders); by default by the ending of --out, else "
                "checkpoint"},
               {"dtype", "TYPE", "keep, fp32, bf16, fp16 or fp64; checkpoints hold fp32 or fp64", "keep"},
               {"vocab", "FILE", "tokenizer to hand on in place of the input's own"},
               {"force", "", "replace the output"},
               {"saturate", "", "what is too large for fp16 becomes its largest number"},
               {"allow-nan", "", "take over NaN and infinity"},
               {"verify", "", "first compare the checksums that a .pth carries"},
               {"no-check", "", "do not compare logits"},
               {"shard-size", "N", "bytes of a file of a folder, at most", "5G"},
               {"threads", "N", "threads of the comparison; 0: all cores", "0"}};
  c.examples = {
      {"rookery ckpt convert RWKV-x060-World-1B6.pth --out runs/world-1b6", "to train or evaluate"},
      {"rookery ckpt convert runs/quickstart --out quickstart.pth --dtype bf16", "for RWKV's programs"},
      {"rookery ckpt convert runs/quickstart --out quickstart-hf --to hf", "for transformers"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput, ExitCode::kCannotCreate};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
