// Many tokens: big tiles, one CTA an SM, tensor cores kept busy.
//
// A tile is 128 tokens by 128 rows of weights. A producer thread fills a ring of shared-memory stages by TMA. Two
// consumer warpgroups own half of the tokens and two sets of accumulators each: while one set's partial sums are
// promoted with the scales, the tensor cores fill the other. CTAs of a cluster share what they load by multicast, since
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

// Where stream-K workers leave partial sums, in pieces of [64][256] floats, a column for each thread: a piece for each
// split tile where the order does not matter, else two for each worker. Only the last tiles are split, as CUTLASS does.
struct Workspace {
  float *sums;
  int whole_tiles, split_tiles;
  bool ordered;
  int *arrivals;  // [split_tiles], zero at launch
};

constexpr int kTileM = 128, kTileN = 128;
constexpr int kWideConsumers = 256;
constexpr int kWideThreads = kWideConsumers + 128;
constexpr int kPartialFloats = 64 * kWideConsumers;

template <int kClusterM_, int kClusterN_, Work kWork_>
struct WideShape {
  static constexpr int kClusterM = kClusterM_, kClusterN = kClusterN_;
  static constexpr Work kWork = kWork_;
  static constexpr int kBytesA = kTileM * kBlockK, kBytesB = kTileN * kBlockK;
  static constexpr int kTotalBytes = kWork == Work::kSegments ? kPartialFloats * 4 : 0;  // sums of earlier segments
  static constexpr int kStages = kWork == Work::kSegments ? 5 : 6;
  static constexpr int kPeers = kClusterM + kClusterN - 1;  // CTAs that share a load with this one, itself included
  static constexpr int kSmemBytes = 1024 + kStages * (kBytesA + kBytesB + 16) + kTotalBytes;
};

struct WideLayout {
  uint32_t a, b, totals, full, empty;  // addresses in shared memory
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
  __device__ Schedule(const Problem &p, const Workspace &space) : p_(p) {
    const int rank = cluster_rank();
    constexpr int kSize = Shape::kClusterM * Shape::kClusterN;
    rank_m_ = rank / Shape::kClusterN;
    rank_n_ = rank % Shape::kClusterN;
    tiles_m_ = ceil_div(p.m, kTileM * Shape::kClusterM);
    tiles_n_ = ceil_div(p.n, kTileN * Shape::kClusterN);
    next_ = blockIdx.x / kSize;
    step_ = gridDim.x / kSize;
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

  static __host__ __device__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

 private:
  // Bands of kBand tiles along m are swept along n, so that the tiles in flight share operands in L2.
  __device__ void place(Piece &piece, int index) const {
    constexpr int kBand = 2048 / (kTileM * Shape::kClusterM);
    const int band = index / (kBand * tiles_n_), inside = index % (kBand * tiles_n_);
    const int height = min(kBand, tiles_m_ - band * kBand);
    const int m = band * kBand + inside % height, n = inside / height;
    piece.first_row = (m * Shape::kClusterM + rank_m_) * kTileM;
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
  constexpr int kRowsA = kTileM / Shape::kClusterN, kRowsB = kTileN / Shape::kClusterM;
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

// This thread's first row within the tile; its second is eight further.
__device__ __forceinline__ int wide_row() {
  return threadIdx.x / 128 * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
}

// One thread of the consumers: what the ring delivers, summed up block by block.
template <typename Shape>
class WideConsumer {
 public:
  __device__ __forceinline__ WideConsumer(const Problem &p, const WideLayout &at)
      : p_(p), at_(at), group_(uniform(threadIdx.x / 128)), lane_(threadIdx.x % 32) {
    const int rank = cluster_rank(), rank_m = rank / Shape::kClusterN, rank_n = rank % Shape::kClusterN;
    // Lane i tells peer i that a stage is free: the CTAs of this row of the cluster, then the others of this column.
    const int other = lane_ - Shape::kClusterN;
    peer_ = lane_ < Shape::kClusterN ? rank_m * Shape::kClusterN + lane_
                                     : (other + (other >= rank_m ? 1 : 0)) * Shape::kClusterN + rank_n;
  }

  // Points at the scales of a piece and asks for those of its first block.
  __device__ __forceinline__ void begin(const Piece &piece) {
    const float *scale_a = p_.scale_a + piece.k_begin * p_.ld_scale_a;
    low_ = scale_a + min(piece.first_row + wide_row(), p_.m - 1);
    high_ = scale_a + min(piece.first_row + wide_row() + 8, p_.m - 1);
    b_ = p_.scale_b + min(piece.first_column, p_.n - 1) / kScaleRows * p_.ld_scale_b + piece.k_begin;
    left_ = piece.k_end - piece.k_begin;
    load_scales();
  }

  // sum = the piece that begin() was told of.
  __device__ __forceinline__ void accumulate(const Piece &piece, float (&sum)[64]) {
#pragma unroll
    for (int j = 0; j < 64; ++j) sum[j] = 0.f;
    constexpr bool kSegments = Shape::kWork == Work::kSegments;
    const auto blocks = [this, &piece](int s) {
      return kSegments ? segment_begin(p_.k_blocks, p_.segments, s + 1) - segment_begin(p_.k_blocks, p_.segments, s)
                       : piece.k_end - piece.k_begin;
    };
    alternate<1, 64>(
        kSegments ? p_.segments : 1, blocks, [this](Batch &d) { start(d[0]); },
        [this, &sum](Batch &d) { finish(d[0], sum); }, [this, &sum](int s) { park(sum, s > 0); });
    if constexpr (kSegments) {
#pragma unroll
      for (int j = 0; j < 64; ++j) sum[j] = __fadd_rn(load_shared(parked() + j * kWideConsumers * 4), sum[j]);
    }
  }

 private:
  using Batch = Accumulators<1, 64>;

  __device__ __forceinline__ void start(float (&partial)[64]) {
    barrier_wait(at_.full + loaded_.stage * 8, loaded_.phase);
    const uint64_t a = operand(at_.a + loaded_.stage * Shape::kBytesA + group_ * 64 * kBlockK);
    const uint64_t b = operand(at_.b + loaded_.stage * Shape::kBytesB);
    loaded_.advance(Shape::kStages);
    wgmma_begin();
#pragma unroll
    for (int step = 0; step < kBlockK / 32; ++step) wgmma<kTileN>(partial, a + step * 2, b + step * 2, step > 0);
    wgmma_commit();
  }

  __device__ __forceinline__ void finish(float (&partial)[64], float (&sum)[64]) {
    if (lane_ < Shape::kPeers) barrier_arrive(at_.empty + done_.stage * 8, peer_);
    done_.advance(Shape::kStages);
    const float low = block_scale(scale_low_, scale_b_), high = block_scale(scale_high_, scale_b_);
    if (--left_ > 0) {
      low_ += p_.ld_scale_a;
      high_ += p_.ld_scale_a;
      ++b_;
      load_scales();
    }
#pragma unroll
    for (int j = 0; j < 64; ++j) sum[j] = promote(sum[j], partial[j], j / 2 % 2 ? high : low);
  }

  // Adds a segment to those before it, in shared memory: there is no room for a fourth set of registers, and by way of
  // L2 it took three times as long. Meanwhile the tensor cores are at work on the next segment.
  __device__ __forceinline__ void park(float (&sum)[64], bool others_before) const {
    if (others_before) {
#pragma unroll
      for (int j = 0; j < 64; ++j) sum[j] = __fadd_rn(load_shared(parked() + j * kWideConsumers * 4), sum[j]);
    }
#pragma unroll
    for (int j = 0; j < 64; ++j) {
      store_shared(parked() + j * kWideConsumers * 4, sum[j]);
      sum[j] = 0.f;
    }
  }

  __device__ __forceinline__ uint32_t parked() const { return at_.totals + threadIdx.x * 4; }

  // Of the block after the one at hand, which takes longer to multiply than these take to arrive.
  __device__ __forceinline__ void load_scales() {
    scale_low_ = __ldg(low_);
    scale_high_ = __ldg(high_);
    scale_b_ = __ldg(b_);
  }

  const Problem &p_;
  const WideLayout at_;
  int group_, lane_, peer_, left_;
  RingPosition loaded_, done_;
  const float *low_, *high_, *b_;
  float scale_low_, scale_high_, scale_b_;
};

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

__device__ __forceinline__ void store_tile(const Problem &p, const Piece &piece, const float (&v)[64]) {
  const int row = piece.first_row + wide_row(), first_column = piece.first_column;
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
      __stcg(mine + j * kWideConsumers, sum[j]);
    else
      atomicAdd(mine + j * kWideConsumers, sum[j]);
  }
  __threadfence();
  named_barrier(1, kWideConsumers);
  if (threadIdx.x == 0) *last = atomicAdd(space.arrivals + piece.split_tile, 1) == count - 1;
  named_barrier(1, kWideConsumers);
  if (!*last) return false;
  __threadfence();
#pragma unroll
  for (int j = 0; j < 64; ++j) sum[j] = __ldcg((space.ordered ? slot(first) : mine) + j * kWideConsumers);
  for (int worker = first + 1; space.ordered && worker < first + count; ++worker) {
    const float *theirs = slot(worker);
#pragma unroll
    for (int j = 0; j < 64; ++j) sum[j] = __fadd_rn(sum[j], __ldcg(theirs + j * kWideConsumers));
  }
  return true;
}

template <typename Shape>
__device__ __forceinline__ void wide_consume(const Problem &p, const Workspace &space, const WideLayout &at, int *last,
                                             Schedule<Shape> schedule) {
  WideConsumer<Shape> consumer(p, at);
  Piece piece;
  while (schedule.next(piece)) {
    consumer.begin(piece);
    float sum[64];
    consumer.accumulate(piece, sum);
    if constexpr (Shape::kWork == Work::kStreamK)
      if (piece.split_tile >= 0 && !join_streamk(p, space, piece, last, sum)) continue;
    store_tile(p, piece, sum);
  }
}

// Grid: a multiple of kClusterM * kClusterN, at most as many CTAs as are resident at once.
template <typename Shape>
__global__ void __launch_bounds__(kWideThreads, 1)
    wide_kernel(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                const __grid_constant__ Problem p, const __grid_constant__ Workspace space) {
  extern __shared__ uint8_t smem[];
  __shared__ int last;
  WideLayout at;
  at.a = uniform((smem_address(smem) + 1023) & ~1023u);
  at.b = at.a + Shape::kStages * Shape::kBytesA;
  at.totals = at.b + Shape::kStages * Shape::kBytesB;
  at.full = at.totals + Shape::kTotalBytes;
  at.empty = at.full + Shape::kStages * 8;
  if (threadIdx.x == 0) {
    prefetch_map(&map_a);
    prefetch_map(&map_b);
    for (int s = 0; s < Shape::kStages; ++s) {
      barrier_init(at.full + s * 8, 1);
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

  const Schedule<Shape> schedule(p, space);
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (threadIdx.x >= kWideConsumers) {
    fewer_registers<40>();
    if (threadIdx.x == kWideConsumers) wide_load_operands<Shape>(&map_a, &map_b, at, schedule);
  } else {
    more_registers<232>();
    wide_consume<Shape>(p, space, at, &last, schedule);
  }
  __syncwarp();
  if constexpr (kClustered) cluster_meet();  // no CTA leaves while a peer may still signal its barriers
}

}  // namespace farm
