#include "plan.h"

#include <algorithm>

#include "micro.h"

namespace farm {
namespace {

constexpr int kDefaultWorkers = 132; /* SMs of an H200 */

int ceil_div(int x, int y) { return (x + y - 1) / y; }

}  // namespace

Range part(int total, int count, int index) {
  return {int(int64_t(total) * index / count), int(int64_t(total) * (index + 1) / count)};
}

Tile Grid::tile(int index) const {
  const int row = index % down() * tile_rows, col = index / down() * tile_cols;
  return {row, std::min(tile_rows, m - row), col, std::min(tile_cols, n - col)};
}

Grid finest_grid(int m, int n) {
  const int rows = ceil_div(m, ceil_div(m, kMaxTileRows));
  return {m, n, ceil_div(rows, kRowStep) * kRowStep, kMaxPanel};
}

Grid grid_for_threads(int m, int n, int threads) {
  Grid grid = finest_grid(m, n);
  grid.tile_cols = kMaxTileCols;
  while (grid.tile_cols > kMaxPanel && grid.count() < 4 * threads) grid.tile_cols /= 2;
  return grid;
}

/* At least 2048 of K each, so that adding them up costs little, at most 8, and fewer where n alone gives 64 tiles. */
int invariant_segments(int n, int k) {
  return std::max(1, std::min({8, k / 2048, ceil_div(64, ceil_div(n, kBlock))}));
}

bool invariant_may_split(int m, int segments) { return segments > 1 && m <= kMaxTileRows; }

bool uses_streamk(int n, int k) { return int64_t(k) > 3 * int64_t(n); }

StreamK stream_k(int m, int n, int k, int sm_count) {
  const Grid grid{m, n, kStreamKTile, kStreamKTile};
  const int workers = sm_count > 0 ? sm_count : kDefaultWorkers;
  const int tiles = grid.count(), blocks = k / kBlock;
  const int left = tiles % workers;
  const int splits = left > 0 ? std::min(workers / left, blocks) : 1;
  return {grid, splits > 1 ? tiles - left : tiles, std::max(splits, 1), blocks};
}

Range StreamK::part(int split) const {
  const auto bound = [this](int index) {
    const bool shifted = index % 2 == 1 && index < splits && blocks >= 3 * splits;
    return int(int64_t(blocks) * index / splits) + (shifted ? 1 : 0);
  };
  return {bound(split), bound(split + 1)};
}

size_t workspace_bytes(const farm_gemm& args) {
  const size_t tile_floats = size_t(kStreamKTile) * kStreamKTile;
  switch (args.variant) {
    case FARM_STREAMK:
    case FARM_STREAMK_ORDERED: {
      if (!uses_streamk(args.n, args.k)) return 0;
      const StreamK plan = stream_k(args.m, args.n, args.k, args.sm_count);
      const size_t copies = args.variant == FARM_STREAMK ? 1 : size_t(plan.splits);
      return size_t(plan.split_tiles()) * copies * tile_floats * sizeof(float);
    }
    case FARM_INVARIANT: {
      const int segments = invariant_segments(args.n, args.k);
      if (!invariant_may_split(args.m, segments)) return 0;
      const Grid grid = finest_grid(args.m, args.n);
      return size_t(segments) * grid.count() * grid.tile_rows * grid.tile_cols * sizeof(float);
    }
    default:
      return 0;
  }
}

}  // namespace farm
