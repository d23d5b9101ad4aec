#include "trainer/loop/session.h"

#include <numeric>

#include "kernels/ops/matmul/gemm.h"

#include "trainer/loop/checkpointing.h"
#include "trainer/models/registry.h"

namespace rookery::loop {

Session make_session(config::RunConfig config, DeviceType type) {
  const int threads = static_cast<int>(config.threads);
  return make_session(std::move(config), std::make_unique<Device>(type, threads));
}

Session make_session(config::RunConfig config, std::unique_ptr<Device> device, const Mesh& mesh) {
  Session s;
  s.mesh = &mesh;
  s.config = std::move(config);
  s.device = std::move(device);
  const bool bf16 = s.config.precision == "bf16", on_cpu = s.device->target() == DeviceType::kCpu;
  if (bf16 && on_cpu) {
    if (!bf16_matmul_available())
      fail(ExitCode::kUnavailable, "CPU-03",
           "precision: bf16 needs a processor with AVX512-BF16 or AMX and a build with oneDNN; use "
           "precision: fp32");
    s.device->matmul_precision = MatmulPrecision::kBf16;
  }
  s.model = make_model(*s.config.model, {mesh.index(Axis::kTensor), mesh.degree(Axis::kTensor)});
  if (s.config.recipe) s.model->recompute = recompute_from_string(s.config.recipe->recompute);
  s.stage =
      blocks_of_stage(stage_split(s.config, *s.model, mesh.degree(Axis::kPipe)), mesh.index(Axis::kPipe));
  std::vector<Parameter*> parameters = s.model->parameters.all();
  std::erase_if(parameters, [&](const Parameter* p) { return !s.stage.has(*p); });
  s.store = std::make_unique<ParamStore>(
      std::move(parameters), s.config.precision == "fp64" ? DType::kF64 : DType::kF32, *s.device, mesh,
      bf16 && !on_cpu ? ParamStore::Copies::kBf16 : ParamStore::Copies::kNone, s.config.mesh.zero);
  return s;
}

std::vector<UnitCost> unit_costs(Model& model, int64_t seq_len) {
  const int64_t L = model.num_blocks();
  std::vector<UnitCost> units(static_cast<size_t>(L) + 2);
  for (int64_t i = 0; i < L; ++i)
    units[static_cast<size_t>(i) + 1].flops = model.mixer_flops_per_token(seq_len) / static_cast<double>(L);
  for (const Parameter* p : model.parameters.all()) {
    const auto elements = static_cast<double>(p->global.numel());
    const double flops = multiplies_tokens(model, *p) ? 2 * elements : 0;
    UnitCost& unit = units.at(static_cast<size_t>(p->unit));
    unit.elements += elements;
    (p->tied ? units.back() : unit).flops += flops;
    if (p->tied) units.back().elements += elements;
  }
  return units;
}

std::vector<int64_t> stage_split(const config::RunConfig& config, Model& model, int64_t stages) {
  const std::vector<int64_t>& given = config.mesh.pipe_split;
  const bool fits = static_cast<int64_t>(given.size()) == stages &&
                    std::accumulate(given.begin(), given.end(), int64_t{0}) == model.num_blocks();
  if (fits) return given;  // else it is another mesh's
  return even_split(unit_costs(model, config.data.seq_len), stages);
}

Session load_session(const std::filesystem::path& path, int64_t threads) {
  const Weights weights(path);
  config::RunConfig config = weights.config();
  config.threads = threads;
  Session s = make_session(std::move(config));
  weights.load(*s.store);
  s.step = weights.step();
  s.checkpoint = weights.path();
  s.identity = weights.identity();
  return s;
}

bool multiplies_tokens(Model& model, const Parameter& p) {
  int wide_dims = 0;
  for (const int64_t d : p.global) wide_dims += d > 1;
  const bool looked_up = &p == &model.embedding() && &p != &model.head();
  // Vectors that are stored by head, [H, N].
  const bool by_head =
      p.name.ends_with(".time_faaaa") || p.name.ends_with(".time_decay") || p.name.ends_with(".r_k");
  return wide_dims >= 2 && !looked_up && !by_head && !model.is_unused(p);
}

namespace {

// "blocks.3.att.key.weight": a layer with its number.
bool in_block(const Parameter& p) {
  const std::string& name = p.name;
  for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1))
    if (dot + 1 < name.size() && name[dot + 1] >= '0' && name[dot + 1] <= '9') return true;
  return false;
}

}  // namespace

double recomputed_flops_per_token(Model& model, int64_t seq_len) {
  if (model.recompute != Recompute::kBlock) return 0;
  double products = 0;
  for (const Parameter* p : model.parameters.all())
    if (multiplies_tokens(model, *p) && in_block(*p)) products += static_cast<double>(p->global.numel());
  return 2 * products + model.mixer_flops_per_token(seq_len);
}

double train_flops_per_token(Model& model, int64_t seq_len) {
  double products = 0;
  for (const Parameter* p : model.parameters.all())
    if (multiplies_tokens(model, *p)) products += static_cast<double>(p->global.numel());
  return 6 * products + 3 * model.mixer_flops_per_token(seq_len);
}

}  // namespace rookery::loop
