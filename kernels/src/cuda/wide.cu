// Tiles that walk K from end to end, and which of all tiles serves a problem best.
#include <cstdint>
#include <limits>

#include "wide_run.cuh"

namespace farm {
namespace {

// ns: what a tile takes with all SMs at work, for each block of K and once, measured on an H200. `cluster` tiles side by
// side share tokens.
struct Tile {
  int rows, columns, cluster;
  float block_ns, once_ns;
  decltype(&run_wide_segments<1, 64>) whole, segments;
};

template <int kGroups, int kWaves, int kTileN, int kCluster = 1>
int run_whole(const Device &device, const Operands &operands, const Problem &p, int sm_count, cudaStream_t stream) {
  using Shape = WideShape<Work::kWhole, kGroups, kWaves, kTileN, kCluster>;
  return run_tiles<Shape>(device, operands, p, {}, sm_count, true, stream);
}

constexpr Tile kTiles[] = {
    {64, 16, 1, 165, 1000, &run_whole<1, 1, 16>, nullptr},
    {64, 32, 1, 175, 1000, &run_whole<1, 1, 32>, nullptr},
    {64, 48, 1, 200, 1000, &run_whole<1, 1, 48>, &run_wide_segments<1, 48>},
    {64, 64, 1, 215, 1000, &run_whole<1, 1, 64>, nullptr},
    {64, 64, 4, 210, 1000, &run_whole<1, 1, 64, 4>, nullptr},
    {64, 96, 1, 255, 1000, &run_whole<1, 1, 96>, &run_wide_segments<1, 96>},
    {128, 32, 1, 205, 1000, &run_whole<2, 1, 32>, nullptr},
    {128, 64, 1, 255, 1000, &run_whole<2, 1, 64>, &run_wide_segments<2, 64>},
    {128, 64, 4, 245, 1000, &run_whole<2, 1, 64, 4>, nullptr},
    {128, 96, 1, 330, 1100, &run_whole<2, 1, 96>, &run_wide_segments<2, 96>},
    {128, 128, 1, 400, 1200, &run_whole<2, 1, 128>, &run_wide_segments<2, 128>},
    {128, 144, 1, 440, 1300, &run_whole<2, 1, 144>, &run_wide_segments<2, 144>},
    {128, 192, 1, 570, 1650, &run_whole<2, 1, 192>, nullptr},
    {256, 128, 2, 800, 1600, &run_whole<2, 2, 128, 2>, nullptr},
};

const Tile &fastest_tile(const Problem &p, int workers) {
  const Tile *best = nullptr;
  float best_ns = std::numeric_limits<float>::max();
  for (const Tile &tile : kTiles) {
    if ((p.segments > 1 && !tile.segments) || tile.cluster > workers) continue;
    const int64_t clusters = int64_t{ceil_div(p.m, tile.rows)} * ceil_div(p.n, tile.columns * tile.cluster);
    const int64_t tiles = clusters * tile.cluster;
    const float ns = (tiles + workers - 1) / workers * (p.k_blocks * tile.block_ns + tile.once_ns);
    if (ns < best_ns) best = &tile, best_ns = ns;
  }
  return *best;
}

}  // namespace

int run_wide(const Device &device, const Operands &operands, const Problem &p, int sm_count, cudaStream_t stream) {
  const Tile &tile = fastest_tile(p, sm_count);
  return (p.segments > 1 ? tile.segments : tile.whole)(device, operands, p, sm_count, stream);
}

int run_persistent(const Device &device, const Operands &operands, const Problem &p, int sm_count,
                   cudaStream_t stream) {
  return run_whole<2, 1, 128>(device, operands, p, sm_count, stream);
}

}  // namespace farm
