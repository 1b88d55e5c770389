// Tokens as the tensor core's tall operand: tiles of 64 to 256 tokens by 16 to 192 rows of weights, one CTA an SM.
//
// Which tile serves best depends on how many of them fill the device; the bits do not. One thread fills a ring of
// shared-memory stages with operands by TMA, another with their scales. Where a tile has two consumer warpgroups, each
// owns half of the tokens: while one promotes partial sums with the scales, the other's products fill the tensor cores.
// Results are laid out in shared memory and leave by TMA, while the next tile is at work.
#pragma once

#include "wide_consumer.cuh"

namespace farm {

// For every piece, in(piece) says how to load a stage's blocks; that is called for each as soon as its stage is free.
template <typename Shape, typename In>
__device__ __forceinline__ void load_pieces(const WideLayout &at, Schedule<Shape> schedule, In in) {
  RingPosition ring;
  Piece piece;
  while (schedule.next(piece)) {
    auto load = in(piece);
    for (int block = piece.k_begin; block < piece.k_end; block += Shape::kBlocks, ring.advance(Shape::kStages)) {
      barrier_wait(at.empty + ring.stage * 8, ring.phase ^ 1);
      load(block, min(Shape::kBlocks, piece.k_end - block), ring.stage);
    }
  }
}

template <typename Shape>
__device__ __forceinline__ void wide_load_operands(const CUtensorMap *map_a, const CUtensorMap *map_b,
                                                   const WideLayout &at, const Schedule<Shape> &schedule) {
  constexpr int kRows = Shape::kTileM / Shape::kCluster;
  const int rank = Shape::kCluster > 1 ? cluster_rank() : 0;
  load_pieces<Shape>(at, schedule, [&](const Piece &piece) {
    return [&at, map_a, map_b, rank, row = piece.first_row, column = piece.first_column](int block, int count,
                                                                                         int stage) {
      const uint32_t full = at.full + stage * 8;
      barrier_expect(full, count * (Shape::kBytesA + Shape::kBytesB));
#pragma unroll
      for (int u = 0; u < Shape::kBlocks; ++u) {
        if (u >= count) break;
        const int at_block = stage * Shape::kBlocks + u, k = (block + u) * kBlockK;
        const uint32_t a = at.a + at_block * Shape::kBytesA, b = at.b + at_block * Shape::kBytesB;
        if constexpr (Shape::kCluster > 1)
          tma_multicast(a + rank * kRows * kBlockK, map_a, full, k, row + rank * kRows, (1 << Shape::kCluster) - 1,
                        kEvictNormal);
        else
          tma_load(a, map_a, full, k, row, kEvictNormal);
        tma_load(b, map_b, full, k, column, kEvictNormal);
      }
    };
  });
}

template <typename Shape>
__device__ __forceinline__ void wide_load_scales(const Problem &p, const WideLayout &at,
                                                 const Schedule<Shape> &schedule) {
  load_pieces<Shape>(at, schedule, [&](const Piece &piece) {
    const int rows = max(1, min(Shape::kTileM, p.m - piece.first_row));
    return [&at, &p, rows, scales = Scales(p, piece)](int, int count, int stage) mutable {
      const uint32_t full = at.full + stage * 8, to = at.scales + stage * Shape::kScaleBytes;
      const int bytes_b = lines_of(scales.b[0], count);
      const int next_bytes_b = Shape::kTwoScales ? lines_of(scales.b[1], count) : 0;
      int bytes = bytes_b + next_bytes_b;
#pragma unroll
      for (int u = 0; u < Shape::kBlocks; ++u)
        if (u < count) bytes += lines_of(scales.a + u * p.ld_scale_a, rows);
      barrier_expect(full, bytes);
#pragma unroll
      for (int u = 0; u < Shape::kBlocks; ++u, scales.a += p.ld_scale_a)
        if (u < count) bulk_load(to + u * Shape::kScalesA, line_of(scales.a), lines_of(scales.a, rows), full);
      const uint32_t to_b = to + Shape::kBlocks * Shape::kScalesA;
      bulk_load(to_b, line_of(scales.b[0]), bytes_b, full);
      if constexpr (Shape::kTwoScales) bulk_load(to_b + Shape::kScalesB, line_of(scales.b[1]), next_bytes_b, full);
      scales.b[0] += Shape::kBlocks;
      scales.b[1] += Shape::kBlocks;
    };
  });
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
  at.b = at.a + Shape::kStages * Shape::kBlocks * Shape::kBytesA;
  at.scales = at.b + Shape::kStages * Shape::kBlocks * Shape::kBytesB;
  at.full = at.scales + Shape::kStages * Shape::kScaleBytes;
  at.empty = at.full + Shape::kStages * 8;
  if (threadIdx.x == 0) {
    for (int s = 0; s < Shape::kStages; ++s) {
      barrier_init(at.full + s * 8, 2);
      barrier_init(at.empty + s * 8, Shape::kCluster * Shape::kConsumers / 32 * kArrivingLanes);
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
