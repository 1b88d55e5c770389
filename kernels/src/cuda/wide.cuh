// Many tokens: big tiles, one CTA an SM, tensor cores kept busy.
//
// A tile is 128 or 256 tokens by 128 rows of weights. A producer warpgroup fills a ring of shared-memory stages by TMA;
// two consumer warpgroups each own half of the tokens and take turns on the tensor cores: while one promotes a block's
// partial sums with the scales, the other multiplies. CTAs of a cluster share what they load by multicast, since
// L2 could not feed 132 SMs with tiles of this size one by one. Results go from registers to memory, after a 4x4
// transposition inside each quad of lanes that makes every store 16 bytes.
#pragma once

#include "problem.cuh"

namespace farm {

enum class Work {
  kWhole,     // each tile's K from end to end
  kSegments,  // likewise, summed as the canonical segments
  kStreamK    // workers split the K blocks of all tiles evenly; partial tiles meet in the workspace
};

// Where stream-K workers leave partial sums. Only the last tiles are split, as CUTLASS does it.
struct StreamK {
  int whole_tiles, split_tiles;
  bool ordered;
  float *partials;  // unordered: [split_tiles], ordered: [workers][2], of [64][256] floats
  int *arrivals;    // [split_tiles], zero at launch
};

constexpr int kTileN = 128;
constexpr int kWideConsumers = 256;
constexpr int kWideThreads = kWideConsumers + 128;
constexpr int kTurn = 2;  // named barriers 2 and 3: the turn of warpgroup 0 and 1 to issue to the tensor cores
constexpr int kPartialFloats = 64 * kWideConsumers;

template <int kWaves_, int kClusterM_, int kClusterN_, Work kWork_>
struct WideShape {
  static constexpr int kWaves = kWaves_, kClusterM = kClusterM_, kClusterN = kClusterN_;
  static constexpr Work kWork = kWork_;
  static constexpr int kTileM = kWaves * 128;
  static constexpr int kBytesA = kTileM * kBlockK, kBytesB = kTileN * kBlockK;
  static constexpr int kScaleFloats = kTileM + 4;  // the rows' scales, then the weights'
  static constexpr int kStages = kWaves == 2 ? 4 : 6;
  static constexpr int kPeers = kClusterM + kClusterN - 1;  // CTAs that share a load with this one, itself included
  static constexpr int kSmemBytes = 1024 + kStages * (kBytesA + kBytesB + kScaleFloats * 4 + 16) + 16;
};

struct WideLayout {
  uint32_t a, b, scales, full, empty;  // addresses in shared memory
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

// Walks the pieces of work of one CTA; producer and consumers walk it alike.
template <typename Shape>
class Schedule {
 public:
  __device__ Schedule(const Problem &p, const StreamK &streamk) : p_(p) {
    const int rank = cluster_rank();
    constexpr int kSize = Shape::kClusterM * Shape::kClusterN;
    rank_m_ = rank / Shape::kClusterN;
    rank_n_ = rank % Shape::kClusterN;
    tiles_m_ = ceil_div(p.m, Shape::kTileM * Shape::kClusterM);
    tiles_n_ = ceil_div(p.n, kTileN * Shape::kClusterN);
    next_ = blockIdx.x / kSize;
    step_ = gridDim.x / kSize;
    if constexpr (Shape::kWork == Work::kStreamK) {
      whole_tiles_ = streamk.whole_tiles;
      const int64_t units = int64_t(streamk.split_tiles) * p.k_blocks;
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

  static __host__ __device__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

 private:
  // Bands of kBand tiles along m are swept along n, so that the tiles in flight share operands in L2.
  __device__ void place(Piece &piece, int index) const {
    constexpr int kBand = Shape::kTileM * Shape::kClusterM >= 512 ? 4 : 2048 / (Shape::kTileM * Shape::kClusterM);
    const int band = index / (kBand * tiles_n_), inside = index % (kBand * tiles_n_);
    const int height = min(kBand, tiles_m_ - band * kBand);
    const int m = band * kBand + inside % height, n = inside / height;
    piece.first_row = (m * Shape::kClusterM + rank_m_) * Shape::kTileM;
    piece.first_column = (n * Shape::kClusterN + rank_n_) * kTileN;
  }

  const Problem &p_;
  int rank_m_, rank_n_, tiles_m_, tiles_n_, next_, step_, whole_tiles_;
  int64_t unit_ = 0, unit_end_ = 0;
};

template <typename Shape>
__device__ __forceinline__ void wide_load_operands(const CUtensorMap *map_a, const CUtensorMap *map_b,
                                                   const WideLayout &at, Schedule<Shape> schedule) {
  const int rank = cluster_rank(), rank_m = rank / Shape::kClusterN, rank_n = rank % Shape::kClusterN;
  constexpr int kRowsA = Shape::kTileM / Shape::kClusterN, kRowsB = kTileN / Shape::kClusterM;
  uint16_t mask_a = 0, mask_b = 0;
#pragma unroll
  for (int i = 0; i < Shape::kClusterN; ++i) mask_a |= 1 << (rank_m * Shape::kClusterN + i);
#pragma unroll
  for (int i = 0; i < Shape::kClusterM; ++i) mask_b |= 1 << (i * Shape::kClusterN + rank_n);
  RingPosition ring;
  Piece piece;
  while (schedule.next(piece)) {
    for (int block = piece.k_begin; block < piece.k_end; ++block, ring.advance(Shape::kStages)) {
      const uint32_t full = at.full + ring.stage * 8;
      barrier_wait(at.empty + ring.stage * 8, ring.phase ^ 1);
      barrier_expect(full, Shape::kBytesA + Shape::kBytesB);
      const uint32_t a = at.a + ring.stage * Shape::kBytesA, b = at.b + ring.stage * Shape::kBytesB;
      if constexpr (Shape::kClusterN > 1)
        tma_multicast(a + rank_n * kRowsA * kBlockK, map_a, full, block * kBlockK, piece.first_row + rank_n * kRowsA,
                      mask_a, kEvictNormal);
      else
        tma_load(a, map_a, full, block * kBlockK, piece.first_row, kEvictNormal);
      if constexpr (Shape::kClusterM > 1)
        tma_multicast(b + rank_m * kRowsB * kBlockK, map_b, full, block * kBlockK,
                      piece.first_column + rank_m * kRowsB, mask_b, kEvictNormal);
      else
        tma_load(b, map_b, full, block * kBlockK, piece.first_column, kEvictNormal);
    }
  }
}

template <typename Shape>
__device__ __forceinline__ void wide_load_scales(const Problem &p, const WideLayout &at, Schedule<Shape> schedule) {
  const int lane = threadIdx.x % 32;
  RingPosition ring;
  Piece piece;
  while (schedule.next(piece)) {
    const int first = piece.first_row + lane;
    const float *scale_a = p.scale_a + piece.k_begin * p.ld_scale_a + first;
    const float *scale_b =
        p.scale_b + min(piece.first_column, p.n - 1) / kScaleRows * p.ld_scale_b + piece.k_begin;
    for (int block = piece.k_begin; block < piece.k_end; ++block, ring.advance(Shape::kStages)) {
      barrier_wait(at.empty + ring.stage * 8, ring.phase ^ 1);
      const uint32_t scales = at.scales + ring.stage * Shape::kScaleFloats * 4 + lane * 4;
#pragma unroll
      for (int i = 0; i < Shape::kTileM; i += 32) copy_word(scales + i * 4, scale_a + i, first + i < p.m);
      if (lane == 0) copy_word(scales + Shape::kTileM * 4, scale_b, true);
      scale_a += p.ld_scale_a;
      ++scale_b;
      barrier_arrive_after_copies(at.full + ring.stage * 8);
    }
  }
}

// sum += this warpgroup's rows of A times B over `blocks` blocks, which the ring delivers.
template <typename Shape>
__device__ __forceinline__ void wide_accumulate(const WideLayout &at, RingPosition &ring, int blocks,
                                                float (&sum)[Shape::kWaves][64]) {
  const int warp = uniform(threadIdx.x / 32), lane = threadIdx.x % 32;
  const int group = warp / 4, first_row = group * 64 * Shape::kWaves, row = first_row + warp % 4 * 16 + lane / 4;
  const int rank = cluster_rank(), rank_m = rank / Shape::kClusterN, rank_n = rank % Shape::kClusterN;
  // Lane i tells peer i that a stage is free: the CTAs of this row of the cluster, then the others of this column.
  const int other = lane - Shape::kClusterN;
  const int peer = lane < Shape::kClusterN ? rank_m * Shape::kClusterN + lane
                                           : (other + (other >= rank_m ? 1 : 0)) * Shape::kClusterN + rank_n;
  for (int i = 0; i < blocks; ++i, ring.advance(Shape::kStages)) {
    barrier_wait(at.full + ring.stage * 8, ring.phase);
    const uint64_t b = operand(at.b + ring.stage * Shape::kBytesB);
    const uint32_t scales = at.scales + ring.stage * Shape::kScaleFloats * 4;
#pragma unroll
    for (int w = 0; w < Shape::kWaves; ++w) {
      const uint64_t a = operand(at.a + ring.stage * Shape::kBytesA + (first_row + w * 64) * kBlockK);
      float partial[64];
      named_barrier(kTurn + group, kWideConsumers);
      wgmma_begin();
#pragma unroll
      for (int step = 0; step < kBlockK / 32; ++step) wgmma<kTileN>(partial, a + step * 2, b + step * 2, step > 0);
      wgmma_commit();
      named_barrier_arrive(kTurn + 1 - group, kWideConsumers);
      const float scale_b = load_shared(scales + Shape::kTileM * 4);
      const float scale_low = block_scale(load_shared(scales + (row + w * 64) * 4), scale_b);
      const float scale_high = block_scale(load_shared(scales + (row + w * 64 + 8) * 4), scale_b);
      wgmma_wait<0>();
      if (w == Shape::kWaves - 1 && lane < Shape::kPeers) barrier_arrive(at.empty + ring.stage * 8, peer);
#pragma unroll
      for (int j = 0; j < 64; ++j) {
        asm volatile("" : "+f"(partial[j])::"memory");
        sum[w][j] = promote(sum[w][j], partial[j], j / 2 % 2 ? scale_high : scale_low);
      }
    }
  }
}

// Lane q of each quad ends with element q of all four lanes.
__device__ __forceinline__ void transpose_quad(uint32_t (&x)[4]) {
  const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t got = __shfl_xor_sync(0xFFFFFFFF, odd ? x[i] : x[i + 1], 1);
    (odd ? x[i] : x[i + 1]) = got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t got = __shfl_xor_sync(0xFFFFFFFF, high ? x[i] : x[i + 2], 2);
    (high ? x[i] : x[i + 2]) = got;
  }
}

__device__ __forceinline__ void store_rows(const Problem &p, int row, int first_column, const float (&v)[64]) {
  const int quad = threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const bool row_exists = row + 8 * h < p.m;
    const int64_t at = (row + 8 * h) * p.ldd + first_column;
    if (p.out_dtype == FARM_FP32) {
      float *d = static_cast<float *>(p.d) + at;
#pragma unroll
      for (int j = 0; j < 16; ++j)
        if (row_exists && first_column + 8 * j < p.n)
          *reinterpret_cast<float2 *>(d + 8 * j + 2 * quad) = make_float2(v[4 * j + 2 * h], v[4 * j + 2 * h + 1]);
    } else {
      uint16_t *d = static_cast<uint16_t *>(p.d) + at;
#pragma unroll
      for (int j = 0; j < 16; j += 4) {
        uint32_t x[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
          x[i] = pack_pair(v[4 * (j + i) + 2 * h], v[4 * (j + i) + 2 * h + 1], p.out_dtype == FARM_BF16);
        transpose_quad(x);
        if (row_exists && first_column + 8 * (j + quad) < p.n)
          *reinterpret_cast<uint4 *>(d + 8 * (j + quad)) = make_uint4(x[0], x[1], x[2], x[3]);
      }
    }
  }
}

template <typename Shape>
__device__ __forceinline__ void store_tile(const Problem &p, const Piece &piece,
                                           const float (&v)[Shape::kWaves][64]) {
  const int row = piece.first_row + threadIdx.x / 128 * 64 * Shape::kWaves + threadIdx.x % 128 / 32 * 16 +
                  threadIdx.x % 32 / 4;
#pragma unroll
  for (int w = 0; w < Shape::kWaves; ++w) store_rows(p, row + w * 64, piece.first_column, v[w]);
}

// Leaves a partial tile in the workspace. True in the worker that came last, which then holds the whole sum.
__device__ __forceinline__ bool join_streamk(const Problem &p, const StreamK &streamk, const Piece &piece,
                                             int *last, float (&sum)[64]) {
  const int64_t units = int64_t(streamk.split_tiles) * p.k_blocks, tile_begin = int64_t(piece.split_tile) * p.k_blocks;
  const int first = worker_of(tile_begin, units, gridDim.x);
  const int count = worker_of(tile_begin + p.k_blocks - 1, units, gridDim.x) - first + 1;
  if (count == 1) return true;
  auto slot = [&](int worker) {
    const bool begins_here = worker * units / gridDim.x / p.k_blocks == piece.split_tile;
    return streamk.partials + (int64_t(worker) * 2 + (begins_here ? 0 : 1)) * kPartialFloats + threadIdx.x;
  };
  float *mine = streamk.ordered ? slot(blockIdx.x)
                                : streamk.partials + int64_t(piece.split_tile) * kPartialFloats + threadIdx.x;
#pragma unroll
  for (int j = 0; j < 64; ++j) {
    if (streamk.ordered)
      __stcg(mine + j * kWideConsumers, sum[j]);
    else
      atomicAdd(mine + j * kWideConsumers, sum[j]);
  }
  __threadfence();
  named_barrier(1, kWideConsumers);
  if (threadIdx.x == 0) *last = atomicAdd(streamk.arrivals + piece.split_tile, 1) == count - 1;
  named_barrier(1, kWideConsumers);
  if (!*last) return false;
  __threadfence();
#pragma unroll
  for (int j = 0; j < 64; ++j) sum[j] = __ldcg((streamk.ordered ? slot(first) : mine) + j * kWideConsumers);
  for (int worker = first + 1; streamk.ordered && worker < first + count; ++worker) {
    const float *theirs = slot(worker);
#pragma unroll
    for (int j = 0; j < 64; ++j) sum[j] = __fadd_rn(sum[j], __ldcg(theirs + j * kWideConsumers));
  }
  return true;
}

template <typename Shape>
__device__ __forceinline__ void wide_consume(const Problem &p, const StreamK &streamk, const WideLayout &at, int *last,
                                             Schedule<Shape> schedule) {
  if (threadIdx.x >= 128) named_barrier_arrive(kTurn, kWideConsumers);  // warpgroup 0 begins
  RingPosition ring;
  Piece piece;
  while (schedule.next(piece)) {
    float sum[Shape::kWaves][64] = {};
    if constexpr (Shape::kWork == Work::kSegments) {
      static_assert(Shape::kWaves == 1, "a third set of accumulators fits beside one wave only");
      float total[1][64];
      for (int s = 0; s < p.segments; ++s) {
        const int begin = segment_begin(p.k_blocks, p.segments, s), end = segment_begin(p.k_blocks, p.segments, s + 1);
        wide_accumulate<Shape>(at, ring, end - begin, sum);
#pragma unroll
        for (int j = 0; j < 64; ++j) {
          total[0][j] = s == 0 ? sum[0][j] : __fadd_rn(total[0][j], sum[0][j]);
          sum[0][j] = 0.f;
        }
      }
      store_tile<Shape>(p, piece, total);
    } else {
      wide_accumulate<Shape>(at, ring, piece.k_end - piece.k_begin, sum);
      if constexpr (Shape::kWork == Work::kStreamK)
        if (piece.split_tile >= 0 && !join_streamk(p, streamk, piece, last, sum[0])) continue;
      store_tile<Shape>(p, piece, sum);
    }
  }
}

// Grid: a multiple of kClusterM * kClusterN, at most as many CTAs as are resident at once.
template <typename Shape>
__global__ void __launch_bounds__(kWideThreads, 1)
    wide_kernel(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                const __grid_constant__ Problem p, const __grid_constant__ StreamK streamk) {
  extern __shared__ uint8_t smem[];
  __shared__ int last;
  WideLayout at;
  at.a = (smem_address(smem) + 1023) & ~1023u;
  at.b = at.a + Shape::kStages * Shape::kBytesA;
  at.scales = at.b + Shape::kStages * Shape::kBytesB;
  at.full = at.scales + Shape::kStages * Shape::kScaleFloats * 4;
  at.empty = at.full + Shape::kStages * 8;
  if (threadIdx.x == 0) {
    prefetch_map(&map_a);
    prefetch_map(&map_b);
    for (int s = 0; s < Shape::kStages; ++s) {
      barrier_init(at.full + s * 8, 1 + 32);
      barrier_init(at.empty + s * 8, Shape::kPeers * kWideConsumers / 32);
    }
    barrier_init_fence();
  }
  constexpr bool kClustered = Shape::kClusterM * Shape::kClusterN > 1;
  __syncwarp();
  if constexpr (kClustered)
    cluster_meet();
  else
    __syncthreads();

  const Schedule<Shape> schedule(p, streamk);
  if (threadIdx.x >= kWideConsumers) {
    fewer_registers<40>();
    wait_for_previous_kernel();
    let_next_kernel_start();
    if (threadIdx.x == kWideConsumers)
      wide_load_operands<Shape>(&map_a, &map_b, at, schedule);
    else if (threadIdx.x / 32 == kWideConsumers / 32 + 1)
      wide_load_scales<Shape>(p, at, schedule);
  } else {
    more_registers<232>();
    wide_consume<Shape>(p, streamk, at, &last, schedule);
  }
  __syncwarp();
  if constexpr (kClustered) cluster_meet();  // no CTA leaves while a peer may still signal its barriers
}

}  // namespace farm
