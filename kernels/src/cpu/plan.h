/* How each variant divides (m, n, k). Pure arithmetic: which of it may depend on m, on workers or on threads is what
 * makes a variant repeatable or batch-invariant. */
#ifndef FARM_CPU_PLAN_H
#define FARM_CPU_PLAN_H

#include <cstddef>
#include <cstdint>

#include "farm_kernels.h"

namespace farm {

struct Range {
  int first, last; /* half open */
  int size() const { return last - first; }
};

/* Part `index` of `count` of 0..total-1, in whole units, as even as can be. */
Range part(int total, int count, int index);

struct Tile {
  int row, rows, col, cols;
};

/* A grid of equal tiles over m x n, the last ones ragged; numbered along m first, so that neighbours share B. */
struct Grid {
  int m, n, tile_rows, tile_cols;
  int down() const { return (m + tile_rows - 1) / tile_rows; }
  int across() const { return (n + tile_cols - 1) / tile_cols; }
  int count() const { return down() * across(); }
  Tile tile(int index) const;
};

constexpr int kRowStep = 32;       /* whole strips of AMX, and at most one short one of AVX in a tile */
constexpr int kMaxTileRows = 256; /* a tile's sums (256 x 512 floats) and its decoded A stay in 1 MiB of cache */
constexpr int kMaxTileCols = 512;

/* Tiles for kernels whose bits don't depend on tiles: large ones, and enough of them to keep all threads busy; the
 * finest grid is where that ends. */
Grid grid_for_threads(int m, int n, int threads);
Grid finest_grid(int m, int n);

/* Segments of K of the invariant kernel: a function of n and k and of nothing else. */
int invariant_segments(int n, int k);
/* Whether its segments may run in parallel, through partial sums in the workspace. */
bool invariant_may_split(int m, int segments);

/* Stream-K as on the GPU: 128 x 128 tiles, dealt to sm_count workers in full waves; the tiles that are left over are
 * each split along K over workers / left workers. */
struct StreamK {
  Grid grid;
  int whole;  /* tiles 0..whole-1 are done in one piece */
  int splits; /* each of the others in this many */
  int blocks; /* of K */
  int split_tiles() const { return grid.count() - whole; }
  int items() const { return whole + split_tiles() * splits; }
  /* K blocks of one split. Where there are blocks enough, neighbours take turns in having one more and one less: threads
   * with equal pieces would keep in step for the whole run, and the order of completion would be decided only once. */
  Range part(int split) const;
};
constexpr int kStreamKTile = 128;
/* sgl-kernel's rule for choosing stream-K at all. */
bool uses_streamk(int n, int k);
StreamK stream_k(int m, int n, int k, int sm_count);

size_t workspace_bytes(const farm_gemm& args);

}  // namespace farm
#endif
