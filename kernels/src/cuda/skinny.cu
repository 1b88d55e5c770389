#include "skinny.cuh"

#include <algorithm>

#include "launch.h"

namespace farm {
namespace {

constexpr int kSmem = 226 * 1024;

template <typename Shape>
SkinnyRing ring_of(int blocks, int kept, int smem) {
  constexpr int kFewest = 2;  // both sets of accumulators are at work before a stage becomes free
  SkinnyRing ring{std::max(ceil_div(blocks, Shape::kBatch), kFewest), kept};
  while (ring.stages > kFewest && ring.smem_bytes<Shape>() > smem) --ring.stages;
  return ring;
}

// The most blocks that a CTA can keep beside a ring deep enough to fill them.
template <typename Shape>
constexpr int most_kept() {
  int kept = kSmem / Shape::kKeptBytes;
  while (SkinnyRing{3, kept}.smem_bytes<Shape>() > kSmem) --kept;
  return kept;
}

// Deep enough that an SM always has enough bytes on their way, small enough that all CTAs are resident at once and,
// where K is short, that the next kernel's CTAs find room beside ours to start on their weights.
template <typename Shape>
SkinnySplit rings_of(const Device &device, const Problem &p, int tiles, int ranks, int kept) {
  constexpr int kLongK = 32;
  const int blocks = p.k_blocks - (ranks - 1) * kept, fewest = blocks >= kLongK || ranks > 1 ? 1 : 2;
  const int per_sm = std::clamp(ceil_div(tiles * ranks, device.sm_count), fewest, 4);
  return {ranks, ring_of<Shape>(blocks, 0, kSmem / per_sm), ring_of<Shape>(kept, kept, kSmem / per_sm)};
}

template <typename Shape>
int smem_bytes(const SkinnySplit &split) {
  return std::max(split.first.smem_bytes<Shape>(), split.ranks > 1 ? split.others.smem_bytes<Shape>() : 0);
}

template <int kTokens>
int run(const Device &device, const Operands &operands, const Problem &p, const SkinnyPlan &plan, int sm_count,
        cudaStream_t stream) {
  using Shape = SkinnyShape<kTokens>;
  CUtensorMap map_weights, map_tokens;
  if (const int status = tensor_map(&map_weights, operands.b, {Shape::kRows, kBlockK})) return status;
  const int tiles = ceil_div(p.n, Shape::kRows), columns = ceil_div(p.m, kTokens);
  Groups groups{};
  SkinnySplit split = rings_of<Shape>(device, p, tiles * columns, plan.ranks, plan.kept);
  // Where the caller limits the SMs, as many launches as it takes for none to have more CTAs than that, and one by one.
  const bool limited = sm_count < device.sm_count;
  const int tiles_at_once = limited ? std::max(1, sm_count / plan.ranks) : tiles;
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
      const dim3 grid(std::min(tiles_at_once, tiles - tile) * plan.ranks, ceil_div(part.m, kTokens));
      const Launch config{grid, Shape::kThreads, plan.ranks, smem_bytes<Shape>(split), stream, !limited};
      void *args[] = {&map_weights, &map_tokens, &part, &groups, &split, &tile};
      if (const int status = launch(device, kernel, config, args)) return status;
    }
  }
  return FARM_OK;
}

// ns that a tile takes for each block of K, once, and for each block that is kept, measured on an H200.
struct Tile {
  int tokens;
  float block_ns, once_ns, kept_ns;
  int most_kept;
  decltype(SkinnyPlan::run) run;
};

template <int kTokens>
constexpr Tile tile(float block_ns, float once_ns, float kept_ns) {
  return {kTokens, block_ns, once_ns, kept_ns, most_kept<SkinnyShape<kTokens>>(), &run<kTokens>};
}

constexpr Tile kTiles[] = {tile<8>(72, 750, 27), tile<16>(73, 1200, 31), tile<32>(85, 1100, 93)};

template <int kTokens>
int run_groups(const Device &device, const Operands &operands, const Problem &p, Groups groups, int count,
               cudaStream_t stream) {
  using Shape = SkinnyShape<kTokens>;
  CUtensorMap map_weights, map_tokens;
  if (const int status = tensor_map(&map_weights, operands.b, {Shape::kRows, kBlockK})) return status;
  if (const int status = tensor_map(&map_tokens, operands.a, {kTokens, kBlockK})) return status;
  const int tiles = p.n / Shape::kRows;
  int first_tile = 0;
  SkinnySplit split = rings_of<Shape>(device, p, tiles * count, 1, 0);
  const Launch config{dim3(tiles, count), Shape::kThreads, 1, smem_bytes<Shape>(split), stream, true};
  void *args[] = {&map_weights, &map_tokens, const_cast<Problem *>(&p), &groups, &split, &first_tile};
  return launch(device, reinterpret_cast<const void *>(&skinny_kernel<kTokens, true>), config, args);
}

}  // namespace

SkinnyPlan plan_skinny(const Problem &p, int sm_count) {
  constexpr int kMostRanks = 3, kFewestKept = 8;
  // What an SM loses to the others, for each of them: those that read the same block of K, from L2 or from DRAM.
  constexpr float kByteNs = 0.0033f, kDramNs = 1.f;
  SkinnyPlan best{};
  for (const Tile &tile : kTiles)
    for (int ranks = 1; ranks <= kMostRanks; ++ranks) {
      const int rows = ceil_div(p.n, 64) * ranks, kept = std::min(p.k_blocks / ranks, tile.most_kept);
      const int64_t ctas = int64_t{rows} * ceil_div(p.m, tile.tokens);
      if (ranks > 1 && (ctas > sm_count || kept < kFewestKept)) break;
      const float busy = kDramNs * std::min(rows, sm_count) +
                         kByteNs * (64 + tile.tokens) * std::min<int64_t>(ctas, sm_count);
      const int64_t waves = (ctas + sm_count - 1) / sm_count;
      const float ns = waves * (tile.once_ns + (p.k_blocks - (ranks - 1) * kept) * (tile.block_ns + busy)) +
                       (ranks - 1) * kept * tile.kept_ns;
      if (best.ranks == 0 || ns < best.ns) best = {ranks, ranks > 1 ? kept : 0, ns, tile.run};
    }
  return best;
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
