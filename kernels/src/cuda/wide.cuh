// Tokens as the tensor core's tall operand: tiles of 64 to 256 tokens by 16 to 192 rows of weights, one CTA an SM.
//
// Which tile serves best depends on how many of them fill the device; the bits do not. One thread fills a ring of
// shared-memory stages with operands by TMA, another with their scales. Where a tile has two consumer warpgroups, each
// owns half of the tokens: while one promotes partial sums with the scales, the other's products fill the tensor cores.
// Results are laid out in shared memory and leave by TMA, while the next tile is at work.
#pragma once

#include "problem.cuh"
#include "wgmma.cuh"

namespace farm {

enum class Work {
  kWhole,     // each tile's K from end to end
  kSegments,  // likewise, summed as the canonical segments
  kStreamK    // workers split the K blocks of all tiles evenly; partial tiles meet in the workspace
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

  static constexpr int kBytesA = kTileM * kBlockK, kBytesB = kTileN * kBlockK;
  // Whole lines of 16 bytes, wherever the first scale lies in its line: A's scales, then a line for each of B's.
  static constexpr int kScalesB = kTileM * 4 + 16, kScaleBytes = kScalesB + 32;
  static constexpr int kStageBytes = kBytesA + kBytesB + kScaleBytes + 16;
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

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

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
__device__ __forceinline__ uint32_t place_in_line(const float *p) { return reinterpret_cast<uintptr_t>(p) / 4 % 4; }

// For every piece, in(piece) says how to load a block; that is called for each as soon as its stage is free.
template <typename Shape, typename In>
__device__ __forceinline__ void load_pieces(const WideLayout &at, Schedule<Shape> schedule, In in) {
  RingPosition ring;
  Piece piece;
  while (schedule.next(piece)) {
    auto load = in(piece);
    for (int block = piece.k_begin; block < piece.k_end; ++block, ring.advance(Shape::kStages)) {
      barrier_wait(at.empty + ring.stage * 8, ring.phase ^ 1);
      load(block, ring.stage);
    }
  }
}

template <typename Shape>
__device__ __forceinline__ void wide_load_operands(const CUtensorMap *map_a, const CUtensorMap *map_b,
                                                   const WideLayout &at, const Schedule<Shape> &schedule) {
  constexpr int kRows = Shape::kTileM / Shape::kCluster;
  const int rank = Shape::kCluster > 1 ? cluster_rank() : 0;
  load_pieces<Shape>(at, schedule, [&](const Piece &piece) {
    return [&at, map_a, map_b, rank, row = piece.first_row, column = piece.first_column](int block, int stage) {
      const uint32_t full = at.full + stage * 8;
      const uint32_t a = at.a + stage * Shape::kBytesA, b = at.b + stage * Shape::kBytesB;
      barrier_expect(full, Shape::kBytesA + Shape::kBytesB);
      if constexpr (Shape::kCluster > 1)
        tma_multicast(a + rank * kRows * kBlockK, map_a, full, block * kBlockK, row + rank * kRows,
                      (1 << Shape::kCluster) - 1, kEvictNormal);
      else
        tma_load(a, map_a, full, block * kBlockK, row, kEvictNormal);
      tma_load(b, map_b, full, block * kBlockK, column, kEvictNormal);
    };
  });
}

template <typename Shape>
__device__ __forceinline__ void wide_load_scales(const Problem &p, const WideLayout &at,
                                                 const Schedule<Shape> &schedule) {
  load_pieces<Shape>(at, schedule, [&](const Piece &piece) {
    const int rows = max(1, min(Shape::kTileM, p.m - piece.first_row));
    return [&at, &p, rows, scales = Scales(p, piece)](int, int stage) mutable {
      const char *begin = line_of(scales.a);
      const int bytes = line_of(scales.a + rows - 1) + 16 - begin;
      const uint32_t full = at.full + stage * 8, to = at.scales + stage * Shape::kScaleBytes;
      barrier_expect(full, bytes + (Shape::kTwoScales ? 32 : 16));
      bulk_load(to, begin, bytes, full);
      bulk_load(to + Shape::kScalesB, line_of(scales.b[0]), 16, full);
      if constexpr (Shape::kTwoScales) bulk_load(to + Shape::kScalesB + 16, line_of(scales.b[1]), 16, full);
      scales.a += p.ld_scale_a;
      ++scales.b[0];
      ++scales.b[1];
    };
  });
}

// One thread of the consumers: what the ring delivers, summed up block by block.
template <typename Shape>
class WideConsumer {
 public:
  using Sums = float[Shape::kWaves][Shape::kSums];

  __device__ __forceinline__ WideConsumer(const Problem &p, const WideLayout &at)
      : p_(p),
        at_(at),
        group_(uniform(threadIdx.x / 128)),
        lane_(threadIdx.x % 32),
        row_(threadIdx.x / 128 * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4) {}

  // sum = the piece, its segments added in order.
  __device__ __forceinline__ void accumulate(const Piece &piece, Sums &sum) {
    const Scales scales(p_, piece);
    scale_a_ = uniform(place_in_line(scales.a));
    scale_b_[0] = uniform(place_in_line(scales.b[0]));
    scale_b_[1] = uniform(place_in_line(scales.b[1]));
    const int first_block = min(kScaleRows - piece.first_column % kScaleRows, Shape::kTileN);
    for_columns<kStep>(first_block, piece, sum);
  }

  // Writes sums as 16-bit results through shared memory: [chunk][token][kChunk columns], swizzled as the map tells.
  __device__ __forceinline__ void store_rounded(const CUtensorMap *map_d, const Piece &piece, const Sums &sum) const {
    constexpr int kChunk = Shape::kChunk, kRowBytes = kChunk * 2, kBoxBytes = 64 * kRowBytes;
    constexpr int kUnits = kRowBytes / 16;  // of 16 bytes in a row: 8, 4 or 2, whose swizzle repeats after 8 rows
    const bool is_bf16 = p_.out_dtype == FARM_BF16;
    if (threadIdx.x % 128 == 0) tma_store_wait_read();  // the tile before has left this place
    named_barrier(1 + group_, 128);
    const int row = threadIdx.x % 128 / 32 * 16 + lane_ % 16, swizzle = row % 8 / (8 / kUnits);
#pragma unroll
    for (int w = 0; w < Shape::kWaves; ++w) {
      const uint32_t box = out() + w * 64 * Shape::kTileN * 2 + row * kRowBytes;
#pragma unroll
      for (int j = 0; j < Shape::kTileN / 8; j += 2) {
        uint32_t x[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = pack_pair(sum[w][4 * j + 2 * i], sum[w][4 * j + 2 * i + 1], is_bf16);
        const int unit = (j % kUnits + lane_ / 16) ^ swizzle;
        store_matrices(box + j / kUnits * kBoxBytes + unit * 16, x);
      }
    }
    let_tma_see_writes();
    named_barrier(1 + group_, 128);
    if (threadIdx.x % 128 != 0) return;
#pragma unroll
    for (int w = 0; w < Shape::kWaves; ++w)
#pragma unroll
      for (int c = 0; c < Shape::kTileN / kChunk; ++c)
        tma_store(map_d, out() + w * 64 * Shape::kTileN * 2 + c * kBoxBytes, piece.first_column + c * kChunk,
                  piece.first_row + w * Shape::kWaveRows + group_ * 64);
    tma_store_commit();
  }

  __device__ __forceinline__ void store_exact(const Piece &piece, const Sums &sum) const {
#pragma unroll
    for (int w = 0; w < Shape::kWaves; ++w)
#pragma unroll
      for (int j = 0; j < Shape::kTileN / 8; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = piece.first_row + w * Shape::kWaveRows + row_ + 8 * h, column = piece.first_column + 8 * j;
          if (row < p_.m && column < p_.n)
            *reinterpret_cast<float2 *>(static_cast<float *>(p_.d) + row * p_.ldd + column + 2 * (lane_ % 4)) =
                make_float2(sum[w][4 * j + 2 * h], sum[w][4 * j + 2 * h + 1]);
        }
  }

 private:
  // Where the second block of B's scales may begin within a tile, in columns: at multiples of this.
  static constexpr int kStep = Shape::kTileN % 64 == 0 ? 64 : Shape::kTileN % 32 == 0 ? 32 : 16;

  // The compiler has to know which columns take which scale, or it would choose anew for each of them in every block.
  template <int kFirst>
  __device__ __forceinline__ void for_columns(int first_block, const Piece &piece, Sums &sum) {
    constexpr int kMost = Shape::kTileN < kScaleRows ? Shape::kTileN : kScaleRows;
    if constexpr (!Shape::kTwoScales)
      sum_segments<Shape::kTileN>(piece, sum);
    else if constexpr (kFirst == kMost)
      sum_segments<kMost>(piece, sum);
    else if (first_block == kFirst)
      sum_segments<kFirst>(piece, sum);
    else
      for_columns<kFirst + kStep>(first_block, piece, sum);
  }

  template <int kFirst>
  __device__ __forceinline__ void sum_segments(const Piece &piece, Sums &sum) {
    constexpr bool kSegments = Shape::kWork == Work::kSegments;
    Sums total;
    const auto end_segment = [&] {
#pragma unroll
      for (int w = 0; w < Shape::kWaves; ++w)
#pragma unroll
        for (int j = 0; j < Shape::kSums; ++j) total[w][j] = __fadd_rn(total[w][j], sum[w][j]), sum[w][j] = 0.f;
    };
#pragma unroll
    for (int w = 0; w < Shape::kWaves; ++w)
#pragma unroll
      for (int j = 0; j < Shape::kSums; ++j) sum[w][j] = 0.f, total[w][j] = -0.f;  // -0 + x is x, whatever x is
    const int segments = kSegments ? p_.segments : 1;
    for (int s = 0; s < segments; ++s) {
      int left = kSegments ? segment_begin(p_.k_blocks, segments, s + 1) - segment_begin(p_.k_blocks, segments, s)
                           : piece.k_end - piece.k_begin;
      if (kSegments && s > 0) {
        add_block<kFirst>(sum, end_segment);
        --left;
      }
#pragma unroll 4
      for (; left > 0; --left) add_block<kFirst>(sum, [] {});
    }
    if constexpr (kSegments) {
      end_segment();
#pragma unroll
      for (int w = 0; w < Shape::kWaves; ++w)
#pragma unroll
        for (int j = 0; j < Shape::kSums; ++j) sum[w][j] = total[w][j];
    }
  }

  // Adds the next block of K. `meanwhile` runs while the tensor cores are at work on it.
  template <int kFirst, typename Meanwhile>
  __device__ __forceinline__ void add_block(Sums &sum, Meanwhile meanwhile) {
    constexpr bool kTwo = kFirst < Shape::kTileN;
    const uint32_t scales = at_.scales + ring_.stage * Shape::kScaleBytes, scales_b = scales + Shape::kScalesB;
    const uint64_t a = operand(at_.a + ring_.stage * Shape::kBytesA + group_ * 64 * kBlockK);
    const uint64_t b = operand(at_.b + ring_.stage * Shape::kBytesB);
    barrier_wait(at_.full + ring_.stage * 8, ring_.phase);
    const float first_b = load_shared(scales_b + scale_b_[0] * 4);
    const float second_b = kTwo ? load_shared(scales_b + 16 + scale_b_[1] * 4) : 0.f;
#pragma unroll
    for (int w = 0; w < Shape::kWaves; ++w) {
      const float low = load_shared(scales + (scale_a_ + row_ + w * Shape::kWaveRows) * 4);
      const float high = load_shared(scales + (scale_a_ + row_ + w * Shape::kWaveRows + 8) * 4);
      Accumulators<1, Shape::kSums> partial;
      pin(partial);
      wgmma_begin();
#pragma unroll
      for (int step = 0; step < kBlockK / 32; ++step)
        wgmma<Shape::kTileN>(partial[0], a + w * (Shape::kWaveRows * kBlockK / 16) + step * 2, b + step * 2, step > 0);
      wgmma_commit();
      if (w == 0) meanwhile();
      const float scale[2][2] = {{block_scale(low, first_b), block_scale(high, first_b)},
                                 {kTwo ? block_scale(low, second_b) : 0.f, kTwo ? block_scale(high, second_b) : 0.f}};
      pin(partial);
      wgmma_wait<0>();
      pin(partial);
      if (w == Shape::kWaves - 1) release_stage();
#pragma unroll
      for (int j = 0; j < Shape::kSums; ++j)
        sum[w][j] = promote(sum[w][j], partial[0][j], scale[j / 4 * 8 >= kFirst][j / 2 % 2]);
    }
    ring_.advance(Shape::kStages);
    scale_a_ = (scale_a_ + uint32_t(p_.ld_scale_a)) % 4;
    scale_b_[0] = (scale_b_[0] + 1) % 4;
    scale_b_[1] = (scale_b_[1] + 1) % 4;
  }

  // Lane i tells CTA i of the cluster that this warp has done with a stage.
  __device__ __forceinline__ void release_stage() const {
    __syncwarp();
    if constexpr (Shape::kCluster > 1) {
      if (lane_ < Shape::kCluster) barrier_arrive(at_.empty + ring_.stage * 8, lane_);
    } else {
      if (lane_ == 0) barrier_arrive(at_.empty + ring_.stage * 8);
    }
  }

  __device__ __forceinline__ uint32_t out() const { return at_.out + group_ * (Shape::kOutBytes / Shape::kGroups); }

  const Problem &p_;
  const WideLayout at_;
  const int group_, lane_;
  const int row_;  // this thread's first within the tile; its second is eight further
  RingPosition ring_;
  uint32_t scale_a_, scale_b_[2];  // where in their lines the next block's scales lie
};

// Leaves a partial tile in the workspace. True in the worker that came last, which then holds the whole sum.
__device__ __forceinline__ bool join_streamk(const Problem &p, const Workspace &space, const Piece &piece,
                                             int *last, float (&sum)[64]) {
  const int64_t units = int64_t(space.split_tiles) * p.k_blocks, tile_begin = int64_t(piece.split_tile) * p.k_blocks;
  const int first = worker_of(tile_begin, units, gridDim.x);
  const int count = worker_of(tile_begin + p.k_blocks - 1, units, gridDim.x) - first + 1;
  if (count == 1) return true;
  auto slot = [&](int worker) {
    const bool begins_here = worker * units / gridDim.x / p.k_blocks == piece.split_tile;
    return space.sums + (int64_t(worker) * 2 + (begins_here ? 0 : 1)) * kPartialFloats + threadIdx.x;
  };
  float *mine = space.ordered ? slot(blockIdx.x)
                                : space.sums + int64_t(piece.split_tile) * kPartialFloats + threadIdx.x;
#pragma unroll
  for (int j = 0; j < 64; ++j) {
    if (space.ordered)
      __stcg(mine + j * kPartialColumns, sum[j]);
    else
      atomicAdd(mine + j * kPartialColumns, sum[j]);
  }
  __threadfence();
  named_barrier(3, kPartialColumns);
  if (threadIdx.x == 0) *last = atomicAdd(space.arrivals + piece.split_tile, 1) == count - 1;
  named_barrier(3, kPartialColumns);
  if (!*last) return false;
  __threadfence();
#pragma unroll
  for (int j = 0; j < 64; ++j) sum[j] = __ldcg((space.ordered ? slot(first) : mine) + j * kPartialColumns);
  for (int worker = first + 1; space.ordered && worker < first + count; ++worker) {
    const float *theirs = slot(worker);
#pragma unroll
    for (int j = 0; j < 64; ++j) sum[j] = __fadd_rn(sum[j], __ldcg(theirs + j * kPartialColumns));
  }
  return true;
}

template <typename Shape>
__device__ __forceinline__ void wide_consume(const CUtensorMap *map_d, const Problem &p, const Workspace &space,
                                             const WideLayout &at, int *last, Schedule<Shape> schedule) {
  WideConsumer<Shape> consumer(p, at);
  Piece piece;
  while (schedule.next(piece)) {
    typename WideConsumer<Shape>::Sums sum;
    consumer.accumulate(piece, sum);
    if constexpr (Shape::kWork == Work::kStreamK)
      if (piece.split_tile >= 0 && !join_streamk(p, space, piece, last, sum[0])) continue;
    if (p.out_dtype == FARM_FP32)
      consumer.store_exact(piece, sum);
    else
      consumer.store_rounded(map_d, piece, sum);
  }
  if (threadIdx.x % 128 == 0) tma_store_wait();
}

// Grid: a multiple of kCluster, at most as many CTAs as are resident at once.
template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    wide_kernel(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                const __grid_constant__ CUtensorMap map_d, const __grid_constant__ Problem p,
                const __grid_constant__ Workspace space) {
  extern __shared__ uint8_t smem[];
  __shared__ int last;
  WideLayout at;
  at.out = uniform((smem_address(smem) + Shape::kAlignment - 1) & ~uint32_t(Shape::kAlignment - 1));
  at.a = at.out + Shape::kOutBytes;
  at.b = at.a + Shape::kStages * Shape::kBytesA;
  at.scales = at.b + Shape::kStages * Shape::kBytesB;
  at.full = at.scales + Shape::kStages * Shape::kScaleBytes;
  at.empty = at.full + Shape::kStages * 8;
  if (threadIdx.x == 0) {
    for (int s = 0; s < Shape::kStages; ++s) {
      barrier_init(at.full + s * 8, 2);
      barrier_init(at.empty + s * 8, Shape::kCluster * Shape::kConsumers / 32);
    }
    barrier_init_fence();
  }
  __syncwarp();
  if constexpr (Shape::kCluster > 1)
    cluster_meet();
  else
    __syncthreads();

  const Schedule<Shape> schedule(p, space);
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (threadIdx.x >= Shape::kConsumers) {
    fewer_registers<40>();
    if (threadIdx.x == Shape::kConsumers) wide_load_operands<Shape>(&map_a, &map_b, at, schedule);
    if (threadIdx.x == Shape::kConsumers + 32) wide_load_scales<Shape>(p, at, schedule);
  } else {
    more_registers<232>();
    wide_consume<Shape>(&map_d, p, space, at, &last, schedule);
  }
  __syncwarp();
  if constexpr (Shape::kCluster > 1) cluster_meet();  // no CTA leaves while a peer may still signal its barriers
}

}  // namespace farm
