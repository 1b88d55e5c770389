// Tiles that walk K from end to end, and which of all tiles serves a problem best.
#include <cstdint>
#include <limits>

#include "wide_run.cuh"

namespace farm {
namespace {

// ns: what a tile takes with all SMs at work, for each block of K and once, measured on an H200. `cluster` tiles side
// by side share tokens.
struct Tile {
  int rows, columns, cluster;
  float block_ns, once_ns;
  int (*run)(const Device &, const Operands &, const Problem &, int, cudaStream_t);
  int (*clusters_at_once)(const Device &, int, int *);
};

template <typename Shape>
int run_whole(const Device &device, const Operands &operands, const Problem &p, int sm_count, cudaStream_t stream) {
  return run_tiles<Shape>(device, operands, p, {}, sm_count, true, stream);
}

template <int kGroups, int kWaves, int kTileN, int kCluster = 1>
constexpr Tile tile(float block_ns, float once_ns) {
  using Shape = WideShape<Work::kWhole, kGroups, kWaves, kTileN, kCluster>;
  return {Shape::kTileM, kTileN, kCluster, block_ns, once_ns, &run_whole<Shape>, &clusters_at_once<Shape>};
}

constexpr Tile kTiles[] = {
    tile<1, 1, 16>(103, 1100),
    tile<1, 1, 32>(119, 1650),
    tile<1, 1, 48>(174, 1250),
    tile<1, 1, 64>(177, 1550),
    tile<1, 1, 64, 4>(174, 1450),
    tile<1, 1, 96>(242, 1300),
    tile<2, 1, 32>(178, 1400),
    tile<2, 1, 64>(255, 1000),
    tile<2, 1, 64, 4>(240, 1000),
    tile<2, 1, 96>(330, 1100),
    tile<2, 1, 128>(400, 1200),
    tile<2, 1, 144>(440, 1300),
    tile<2, 1, 192>(570, 1650),
    tile<2, 2, 128, 2>(800, 1600),
};

float tile_ns(const Tile &tile, const Device &device, const Problem &p, int sm_count) {
  int at_once = sm_count;
  if (tile.cluster > 1 && (tile.cluster > sm_count || tile.clusters_at_once(device, sm_count, &at_once)))
    return std::numeric_limits<float>::infinity();
  const int64_t clusters = int64_t{ceil_div(p.m, tile.rows)} * ceil_div(p.n, tile.columns * tile.cluster);
  return (clusters + at_once - 1) / at_once * (p.k_blocks * tile.block_ns + tile.once_ns);
}

struct Choice {
  const Tile *tile;
  float ns;
};

Choice fastest_tile(const Device &device, const Problem &p, int sm_count) {
  Choice best{&kTiles[0], std::numeric_limits<float>::infinity()};
  for (const Tile &tile : kTiles)
    if (const float ns = tile_ns(tile, device, p, sm_count); ns < best.ns) best = {&tile, ns};
  return best;
}

}  // namespace

float wide_ns(const Device &device, const Problem &p, int sm_count) { return fastest_tile(device, p, sm_count).ns; }

int run_wide(const Device &device, const Operands &operands, const Problem &p, int sm_count, cudaStream_t stream) {
  return fastest_tile(device, p, sm_count).tile->run(device, operands, p, sm_count, stream);
}

int run_persistent(const Device &device, const Operands &operands, const Problem &p, int sm_count,
                   cudaStream_t stream) {
  return run_whole<WideShape<Work::kWhole, 2, 1, 128>>(device, operands, p, sm_count, stream);
}

}  // namespace farm
