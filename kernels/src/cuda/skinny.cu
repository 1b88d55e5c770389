#include "skinny.cuh"

#include <algorithm>

#include "launch.h"

namespace farm {
namespace {

// Deep enough that an SM always has enough bytes on their way, small enough that all CTAs are resident at once and,
// where K is short, that the next kernel's CTAs find room beside ours to start on their weights.
template <typename Shape>
int ring_stages(const Device &device, const Problem &p, int ctas) {
  constexpr int kSmem = 226 * 1024, kLongK = 32;
  // Two batches are at work before a stage becomes free; fewer stages than they take would hang.
  constexpr int kFewest = std::max(4, 2 * Shape::kBatch);
  int blocks = 0;  // of the longest segment
  for (int s = 0; s < p.segments; ++s)
    blocks = std::max(blocks, segment_begin(p.k_blocks, p.segments, s + 1) - segment_begin(p.k_blocks, p.segments, s));
  const int wanted = blocks >= kLongK ? 1 : 2;
  const int per_sm = std::clamp(ceil_div(ctas, device.sm_count), wanted, 4);
  const int fit = kSmem / per_sm / (Shape::kStageBytes + Shape::kScaleFloats * 4 + 16);
  int stages = std::max(std::min(blocks, fit), std::min(blocks, kFewest));
  while (stages > kFewest && Shape::smem_bytes(stages) > kSmem / std::min(per_sm, 2)) --stages;
  return stages;
}

template <int kTokens>
int run(const Device &device, const Operands &operands, const Problem &p, int sm_count, cudaStream_t stream) {
  using Shape = SkinnyShape<kTokens>;
  CUtensorMap map_weights, map_tokens;
  if (const int status = tensor_map(&map_weights, operands.b, {Shape::kRows, kBlockK})) return status;
  const int tiles = ceil_div(p.n, Shape::kRows), columns = ceil_div(p.m, kTokens);
  Groups groups{};
  int stages = ring_stages<Shape>(device, p, tiles * p.segments * columns);
  // Where the caller limits the SMs, as many launches as it takes for none to have more CTAs than that.
  const bool limited = sm_count < device.sm_count;
  const int tiles_at_once = limited ? std::max(1, sm_count / p.segments) : tiles;
  const int tokens_at_once = limited ? kTokens : p.m;
  const auto kernel = reinterpret_cast<const void *>(&skinny_kernel<kTokens, false>);
  for (int token = 0; token < p.m; token += tokens_at_once) {
    Problem part = p;
    part.m = std::min(tokens_at_once, p.m - token);
    part.scale_a = p.scale_a + token;
    part.d = static_cast<char *>(p.d) + token * p.ldd * (p.out_dtype == FARM_FP32 ? 4 : 2);
    const Matrix &a = operands.a;
    const Matrix rows{static_cast<const char *>(a.data) + token * a.ld, part.m, a.columns, a.ld};
    if (const int status = tensor_map(&map_tokens, rows, {kTokens, kBlockK})) return status;
    for (int tile = 0; tile < tiles; tile += tiles_at_once) {
      const dim3 grid(std::min(tiles_at_once, tiles - tile) * p.segments, ceil_div(part.m, kTokens));
      const Launch config{grid, Shape::kThreads, p.segments, Shape::smem_bytes(stages), stream, true};
      void *args[] = {&map_weights, &map_tokens, &part, &groups, &tile, &stages};
      if (const int status = launch(device, kernel, config, args)) return status;
    }
  }
  return FARM_OK;
}

template <int kTokens>
int run_groups(const Device &device, const Operands &operands, const Problem &p, Groups groups, int count,
               cudaStream_t stream) {
  using Shape = SkinnyShape<kTokens>;
  CUtensorMap map_weights, map_tokens;
  if (const int status = tensor_map(&map_weights, operands.b, {Shape::kRows, kBlockK})) return status;
  if (const int status = tensor_map(&map_tokens, operands.a, {kTokens, kBlockK})) return status;
  const dim3 grid(p.n / Shape::kRows * p.segments, count);
  int first_tile = 0, stages = ring_stages<Shape>(device, p, grid.x * grid.y);
  const Launch config{grid, Shape::kThreads, p.segments, Shape::smem_bytes(stages), stream, true};
  void *args[] = {&map_weights, &map_tokens, const_cast<Problem *>(&p), &groups, &first_tile, &stages};
  return launch(device, reinterpret_cast<const void *>(&skinny_kernel<kTokens, true>), config, args);
}

}  // namespace

int run_skinny(const Device &device, const Operands &operands, const Problem &p, int tokens, int sm_count,
               cudaStream_t stream) {
  switch (tokens) {
    case 8: return run<8>(device, operands, p, sm_count, stream);
    case 16: return run<16>(device, operands, p, sm_count, stream);
    case 32: return run<32>(device, operands, p, sm_count, stream);
    case 64: return run<64>(device, operands, p, sm_count, stream);
    default: return run<128>(device, operands, p, sm_count, stream);
  }
}

int run_skinny_groups(const Device &device, const Operands &operands, const Problem &p, const Groups &groups,
                      int count, int tokens, cudaStream_t stream) {
  switch (tokens) {
    case 8: return run_groups<8>(device, operands, p, groups, count, stream);
    case 16: return run_groups<16>(device, operands, p, groups, count, stream);
    case 32: return run_groups<32>(device, operands, p, groups, count, stream);
    case 64: return run_groups<64>(device, operands, p, groups, count, stream);
    default: return run_groups<128>(device, operands, p, groups, count, stream);
  }
}

}  // namespace farm
