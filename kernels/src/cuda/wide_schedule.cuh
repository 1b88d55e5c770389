// The shapes of the wide kernel's tiles, and which pieces of work each CTA has.
#pragma once

#include "problem.cuh"

namespace farm {

enum class Work {
  kWhole,   // each tile's K from end to end
  kStreamK  // workers split the K blocks of all tiles evenly; partial tiles meet in the workspace
};

// kGroups: consumer warpgroups. kWaves: products of 64 tokens that each of them makes of a stage. kCluster: CTAs side by
// side along n that share tokens by multicast.
template <Work kWork_, int kGroups_, int kWaves_, int kTileN_, int kCluster_ = 1>
struct WideShape {
  static constexpr int kGroups = kGroups_, kWaves = kWaves_, kTileN = kTileN_, kCluster = kCluster_;
  static constexpr Work kWork = kWork_;
  static constexpr int kConsumers = 128 * kGroups, kThreads = kConsumers + 128;
  static constexpr int kWaveRows = 64 * kGroups, kTileM = kWaveRows * kWaves;
  static constexpr int kSums = kTileN / 2;                    // of a wave, in each thread
  static constexpr bool kTwoScales = kScaleRows % kTileN != 0;  // a tile may straddle two blocks of B's scales
  static constexpr int kChunk = kTileN % 64 == 0 ? 64 : kTileN % 32 == 0 ? 32 : 16;  // columns that leave in one box

  static constexpr int kBlocks = kTileM + kTileN <= 96 ? 4 : kTileM + kTileN <= 192 ? 2 : 1;  // of K, in a stage
  static constexpr int kBytesA = kTileM * kBlockK, kBytesB = kTileN * kBlockK;
  // Whole lines of 16 bytes, wherever the first scale lies in its line: A's scales of each block, then B's of all, for
  // the 128 columns that the tile begins in and for the next.
  static constexpr int kScalesA = kTileM * 4 + 16, kScalesB = kBlocks * 16;
  static constexpr int kScaleBytes = kBlocks * kScalesA + 2 * kScalesB;
  static constexpr int kStageBytes = kBlocks * (kBytesA + kBytesB) + kScaleBytes + 16;
  static constexpr int kOutBytes = kTileM * kTileN * 2;  // results on their way out
  static constexpr int kSmem = 227 * 1024 - 64, kAlignment = 1024;
  static constexpr int kStages = (kSmem - kAlignment - kOutBytes) / kStageBytes;
  static constexpr int kSmemBytes = kAlignment + kOutBytes + kStages * kStageBytes;
};

// Where stream-K workers leave partial sums, in pieces of [64][256] floats, a column for each thread: a piece for each
// split tile where the order does not matter, else two for each worker. Only the last tiles are split, as CUTLASS does.
struct Workspace {
  float *sums;
  int whole_tiles, split_tiles;
  bool ordered;
  int *arrivals;  // [split_tiles], zero at launch
};

constexpr int kPartialColumns = 256, kPartialFloats = 64 * kPartialColumns;

struct WideLayout {
  uint32_t out, a, b, scales, full, empty;  // addresses in shared memory
};

struct Piece {
  int first_row, first_column;  // of the CTA's tile
  int k_begin, k_end;
  int split_tile;  // index among the split tiles, or -1
};

// Worker that owns unit x when `units` are dealt evenly and contiguously: worker w starts at w * units / workers.
__device__ __forceinline__ int worker_of(int64_t x, int64_t units, int workers) {
  return static_cast<int>(((x + 1) * workers - 1) / units);
}

// Walks the pieces of work of one CTA; producers and consumers walk it alike.
template <typename Shape>
class Schedule {
 public:
  __device__ Schedule(const Problem &p, const Workspace &space) : p_(p) {
    rank_ = Shape::kCluster > 1 ? cluster_rank() : 0;
    tiles_m_ = ceil_div(p.m, Shape::kTileM);
    tiles_n_ = ceil_div(p.n, Shape::kTileN * Shape::kCluster);
    next_ = blockIdx.x / Shape::kCluster;
    step_ = gridDim.x / Shape::kCluster;
    if constexpr (Shape::kWork == Work::kStreamK) {
      whole_tiles_ = space.whole_tiles;
      const int64_t units = int64_t(space.split_tiles) * p.k_blocks;
      unit_ = blockIdx.x * units / gridDim.x;
      unit_end_ = (blockIdx.x + 1) * units / gridDim.x;
    } else {
      whole_tiles_ = tiles_m_ * tiles_n_;
    }
  }

  __device__ bool next(Piece &piece) {
    if (next_ < whole_tiles_) {
      place(piece, next_);
      piece.k_begin = 0;
      piece.k_end = p_.k_blocks;
      piece.split_tile = -1;
      next_ += step_;
      return true;
    }
    if constexpr (Shape::kWork == Work::kStreamK) {
      if (unit_ >= unit_end_) return false;
      piece.split_tile = static_cast<int>(unit_ / p_.k_blocks);
      place(piece, whole_tiles_ + piece.split_tile);
      piece.k_begin = static_cast<int>(unit_ % p_.k_blocks);
      piece.k_end = static_cast<int>(min(int64_t(p_.k_blocks), piece.k_begin + unit_end_ - unit_));
      unit_ += piece.k_end - piece.k_begin;
      return true;
    }
    return false;
  }

 private:
  // Bands of kBand tiles along m are swept along n, so that the tiles in flight share operands in L2.
  __device__ void place(Piece &piece, int index) const {
    constexpr int kBand = 2048 / Shape::kTileM;
    const int band = index / (kBand * tiles_n_), inside = index % (kBand * tiles_n_);
    const int height = min(kBand, tiles_m_ - band * kBand);
    piece.first_row = (band * kBand + inside % height) * Shape::kTileM;
    piece.first_column = (inside / height * Shape::kCluster + rank_) * Shape::kTileN;
  }

  const Problem &p_;
  int rank_, tiles_m_, tiles_n_, next_, step_, whole_tiles_;
  int64_t unit_ = 0, unit_end_ = 0;
};

// The scales of a piece's first block. Those of B are two: of the 128 columns that the tile begins in, and of the next.
struct Scales {
  const float *a, *b[2];

  __device__ __forceinline__ Scales(const Problem &p, const Piece &piece) {
    const int first = min(piece.first_column, p.n - 1) / kScaleRows, last = (p.n - 1) / kScaleRows;
    a = p.scale_a + piece.k_begin * p.ld_scale_a + min(piece.first_row, p.m - 1);
    b[0] = p.scale_b + first * p.ld_scale_b + piece.k_begin;
    b[1] = p.scale_b + min(first + 1, last) * p.ld_scale_b + piece.k_begin;
  }
};

// The line of 16 bytes that a float lies in, and its place there. Copies read whole lines, and a line that holds one
// float of an array can't leave the memory that was allocated for it.
__device__ __forceinline__ const char *line_of(const float *p) {
  return reinterpret_cast<const char *>(reinterpret_cast<uintptr_t>(p) & ~uintptr_t{15});
}
// Bytes of the lines that `count` floats from p on lie in.
__device__ __forceinline__ int lines_of(const float *p, int count) {
  return static_cast<int>(line_of(p + count - 1) + 16 - line_of(p));
}
__device__ __forceinline__ uint32_t place_in_line(const float *p) { return reinterpret_cast<uintptr_t>(p) / 4 % 4; }

}  // namespace farm
