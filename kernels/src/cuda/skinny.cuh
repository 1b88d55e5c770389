// Few tokens: the weights are the tensor core's wide operand, and a cluster of CTAs splits K.
//
// Here the time is that of reading the weights once, so what counts is that every SM streams from the first moment to
// the last. Operands are swapped: a tile is 64 rows of weights by 8 to 128 tokens, so that no token is padded to 64.
// The CTAs of a cluster sum one segment of K each; the partial sums meet through distributed shared memory and are
// added in segment order by whoever owns that slice of the tile, so that nothing goes through memory and no one waits
// for a turn.
// Weights are requested before the previous kernel on the stream has finished, so they must not be what it writes
// unless it ends before its successor begins, as every kernel does that never asked for the contrary.
// Grouped, the tokens are those of several experts, one after the other, and a table says which are whose.
#pragma once

#include "problem.cuh"
#include "wgmma.cuh"

namespace farm {

template <int kTokens>
struct SkinnyShape {
  static constexpr int kRows = 64;                             // of weights
  static constexpr int kWarpgroups = kTokens == 128 ? 2 : 1;  // which split the tokens
  static constexpr int kGroupTokens = kTokens / kWarpgroups;
  static constexpr int kBatch = kTokens <= 16 ? 4 : kTokens <= 32 ? 2 : 1;  // blocks of K that are multiplied at once
  static constexpr int kConsumers = kWarpgroups * 128;
  static constexpr int kThreads = kConsumers + 96;
  static constexpr int kWeightBytes = kRows * kBlockK;
  static constexpr int kTokenBytes = kTokens * kBlockK;
  static constexpr int kStageBytes = kWeightBytes + kTokenBytes;
  static constexpr int kScaleFloats = kTokens + 4;  // the tokens' scales, then the weights'
  static constexpr int kPartialStride = kRows + 4;  // floats a token, padded: no bank conflicts, 16-byte rows
  static constexpr int kPartialBytes = kTokens * kPartialStride * 4;

  // Shared memory of a ring of `stages`: 1 KiB to align the stages; partial sums reuse the stages' space.
  static int smem_bytes(int stages) {
    int ring = stages * kStageBytes;
    return 1024 + (ring > kPartialBytes ? ring : kPartialBytes) + stages * (kScaleFloats * 4 + 16);
  }
};

struct SkinnyLayout {
  uint32_t weights, tokens, scales, full, empty;  // addresses in shared memory
};

// One CTA's part: a tile of the result, and the K blocks of its segment.
struct SkinnyPart {
  int first_row, first_token, tokens;
  int weight_row;        // of its first row in the matrix of weights, which a group's experts share
  const float *scale_b;  // of its first block
  int k_begin, blocks;
};

__device__ __forceinline__ SkinnyPart skinny_part(const Problem &p, int tile, int rows, int4 group, int segment) {
  const int first_row = tile * rows, k_begin = segment_begin(p.k_blocks, p.segments, segment);
  const int64_t scale_row = int64_t(group.x) * ceil_div(p.n, kScaleRows) + min(first_row, p.n - 1) / kScaleRows;
  return {first_row, group.y, group.z, group.x * p.n + first_row, p.scale_b + scale_row * p.ld_scale_b + k_begin,
          k_begin,   segment_begin(p.k_blocks, p.segments, segment + 1) - k_begin};
}

// One thread loads weights, several blocks at a time, so that DRAM reads longer stretches of each row.
template <typename Shape>
__device__ __forceinline__ void skinny_load_weights(const CUtensorMap *map, const SkinnyLayout &at, int stages,
                                                    const SkinnyPart &part) {
  const int batch = stages >= 24 ? 8 : stages >= 8 ? 2 : 1;
  RingPosition ring;
  for (int i = 0; i < part.blocks;) {
    const int end = min(i < stages ? stages : i + batch, part.blocks);
    for (; i < end; ++i, ring.advance(stages)) {
      const uint32_t full = at.full + ring.stage * 8;
      barrier_wait(at.empty + ring.stage * 8, ring.phase ^ 1);
      barrier_expect(full, Shape::kWeightBytes);
      tma_load(at.weights + ring.stage * Shape::kWeightBytes, map, full, (part.k_begin + i) * kBlockK, part.weight_row,
               kEvictFirst);
    }
  }
}

// Another loads tokens, as soon as the kernel before has written them.
template <typename Shape>
__device__ __forceinline__ void skinny_load_tokens(const CUtensorMap *map, const SkinnyLayout &at, int stages,
                                                   const SkinnyPart &part) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  RingPosition ring;
  for (int i = 0; i < part.blocks; ++i, ring.advance(stages)) {
    const uint32_t full = at.full + ring.stage * 8;
    barrier_wait(at.empty + ring.stage * 8, ring.phase ^ 1);
    barrier_expect(full, Shape::kTokenBytes);
    tma_load(at.tokens + ring.stage * Shape::kTokenBytes, map, full, (part.k_begin + i) * kBlockK, part.first_token,
             kEvictLast);
  }
}

// One warp brings the scales, which may lie at any multiple of four bytes, by plain loads several blocks ahead.
template <typename Shape>
__device__ __forceinline__ void skinny_load_scales(const Problem &p, const SkinnyLayout &at, int stages,
                                                   const SkinnyPart &part) {
  constexpr int kTokens = Shape::kScaleFloats - 4, kLoads = (kTokens + 31) / 32, kAhead = kLoads == 4 ? 4 : 8;
  const int lane = threadIdx.x % 32;
  const float *scale_a = p.scale_a + part.k_begin * p.ld_scale_a + part.first_token + lane;
  const float *scale_b = part.scale_b;
  float a[kAhead][kLoads] = {}, b[kAhead];
  int loaded = 0;
  auto load = [&](int u) {
#pragma unroll
    for (int r = 0; r < kLoads; ++r)
      if (lane + r * 32 < part.tokens) a[u][r] = scale_a[r * 32];
    b[u] = *scale_b;
    if (++loaded < part.blocks) {
      scale_a += p.ld_scale_a;
      ++scale_b;
    }
  };
  wait_for_previous_kernel();
#pragma unroll
  for (int u = 0; u < kAhead; ++u) load(u);
  RingPosition ring;
  for (int i = 0; i < part.blocks; i += kAhead) {
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (i + u >= part.blocks) return;
      barrier_wait(at.empty + ring.stage * 8, ring.phase ^ 1);
      const uint32_t to = at.scales + ring.stage * Shape::kScaleFloats * 4;
#pragma unroll
      for (int r = 0; r < kLoads; ++r)
        if (kTokens >= 32 || lane < kTokens) store_shared(to + (lane + r * 32) * 4, a[u][r]);
      if (lane == 0) store_shared(to + kTokens * 4, b[u]);
      warp_arrive(at.full + ring.stage * 8, lane);
      ring.advance(stages);
      load(u);
    }
  }
}

// Sums this CTA's segment; at the end the whole tile lies in shared memory at at.weights, [token][row]. The tensor
// cores work on the next block while the partial sums of the last one are promoted.
template <typename Shape>
class SkinnyConsumer {
 public:
  __device__ __forceinline__ SkinnyConsumer(const SkinnyLayout &at, int stages)
      : at_(at), stages_(stages), warp_(uniform(threadIdx.x / 32)), lane_(threadIdx.x % 32) {}

  __device__ __forceinline__ void sum_blocks(int blocks) {
    to_load_ = to_do_ = blocks;
    if constexpr (Shape::kWarpgroups == 2) {  // no registers for two sets, but two CTAs an SM that take turns
      Batch partial;
      for (int i = 0; i < blocks; ++i) {
        start(partial);
        wgmma_wait<0>();
        pin(partial);
        finish(partial);
      }
    } else {
      alternate<kBatch, kTokens / 2>((blocks + kBatch - 1) / kBatch, [this](Batch &d) { start(d); },
                                     [this](Batch &d) { finish(d); });
    }
  }

  __device__ __forceinline__ void store_partials() const {
    named_barrier(1, Shape::kConsumers);  // all have read the stages that the partial sums now overwrite
    const int row = warp_ % 4 * 16 + lane_ / 4;
#pragma unroll
    for (int j = 0; j < kTokens / 2; ++j) {
      const int token = warp_ / 4 * kTokens + j / 4 * 8 + 2 * (lane_ % 4) + j % 2;
      store_shared(at_.weights + (token * Shape::kPartialStride + row + j / 2 % 2 * 8) * 4, sum_[j]);
    }
  }

 private:
  static constexpr int kTokens = Shape::kGroupTokens;

  static constexpr int kBatch = Shape::kBatch;
  using Batch = Accumulators<kBatch, kTokens / 2>;

  // Sets the tensor cores to work on the ring's next blocks. A batch that K's end cuts short repeats its last block,
  // and finish() takes no notice of that.
  __device__ __forceinline__ void start(Batch &partial) {
    uint64_t weights = 0, tokens = 0;
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      if (u == 0 || to_load_ > 0) {
        barrier_wait(at_.full + loaded_.stage * 8, loaded_.phase);
        weights = operand(at_.weights + loaded_.stage * Shape::kWeightBytes);
        tokens = operand(at_.tokens + loaded_.stage * Shape::kTokenBytes + warp_ / 4 * kTokens * kBlockK);
        loaded_.advance(stages_);
        --to_load_;
      }
      wgmma_begin();
#pragma unroll
      for (int step = 0; step < kBlockK / 32; ++step)
        wgmma<kTokens>(partial[u], weights + step * 2, tokens + step * 2, step > 0);
    }
    wgmma_commit();
  }

  // Adds the blocks' partial sums to the sum.
  __device__ __forceinline__ void finish(Batch &partial) {
#pragma unroll
    for (int u = 0; u < kBatch; ++u)
      if (u == 0 || to_do_ > 0) finish_block(partial[u]);
  }

  __device__ __forceinline__ void finish_block(float (&partial)[kTokens / 2]) {
    --to_do_;
    const uint32_t scales = at_.scales + done_.stage * Shape::kScaleFloats * 4;
    const float scale_b = load_shared(scales + (Shape::kScaleFloats - 4) * 4);
    float2 scale[kTokens / 8];
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      const float2 a = load_shared_pair(scales + (warp_ / 4 * kTokens + 8 * j + 2 * (lane_ % 4)) * 4);
      scale[j] = make_float2(block_scale(a.x, scale_b), block_scale(a.y, scale_b));
    }
    warp_arrive(at_.empty + done_.stage * 8, lane_);
    done_.advance(stages_);
#pragma unroll
    for (int j = 0; j < kTokens / 2; ++j)
      sum_[j] = promote(sum_[j], partial[j], j % 2 ? scale[j / 4].y : scale[j / 4].x);
  }

  const SkinnyLayout at_;
  int stages_, warp_, lane_, to_load_, to_do_;
  RingPosition loaded_, done_;
  float sum_[kTokens / 2] = {};
};

__device__ __forceinline__ void store_four(const Problem &p, int64_t token, int row, float4 v) {
  const int64_t at = token * p.ldd + row;
  if (p.out_dtype == FARM_FP32) {
    *reinterpret_cast<float4 *>(static_cast<float *>(p.d) + at) = v;
  } else {
    const bool is_bf16 = p.out_dtype == FARM_BF16;
    *reinterpret_cast<uint2 *>(static_cast<uint16_t *>(p.d) + at) =
        make_uint2(pack_pair(v.x, v.y, is_bf16), pack_pair(v.z, v.w, is_bf16));
  }
}

// Adds the segments in order and writes this CTA's slice of the tile: the token's row of D is to(token).
template <typename Shape, typename To>
__device__ __forceinline__ void skinny_reduce(const Problem &p, uint32_t partials, int segment, const SkinnyPart &part,
                                              To to) {
  constexpr int kMaxSegments = 4, kQuads = Shape::kRows / 4;
  const int quads = part.tokens * kQuads;
  for (int i = segment * Shape::kConsumers + threadIdx.x; i < quads; i += p.segments * Shape::kConsumers) {
    const int token = i / kQuads, row = i % kQuads * 4;
    const uint32_t address = partials + (token * Shape::kPartialStride + row) * 4;
    float4 sums[kMaxSegments];
#pragma unroll
    for (int s = 0; s < kMaxSegments; ++s)
      if (s < p.segments) sums[s] = load_from_rank(address, s);
    float4 total = sums[0];
#pragma unroll
    for (int s = 1; s < kMaxSegments; ++s)
      if (s < p.segments) {
        total.x = __fadd_rn(total.x, sums[s].x);
        total.y = __fadd_rn(total.y, sums[s].y);
        total.z = __fadd_rn(total.z, sums[s].z);
        total.w = __fadd_rn(total.w, sums[s].w);
      }
    if (part.first_row + row < p.n) store_four(p, to(part.first_token + token), part.first_row + row, total);
  }
}

// Grid: (tiles * segments, ceil(m / kTokens), or the number of groups), clusters of `segments` CTAs along x.
template <int kTokens, bool kGrouped>
__global__ void __launch_bounds__(SkinnyShape<kTokens>::kThreads, 2)
    skinny_kernel(const __grid_constant__ CUtensorMap map_weights, const __grid_constant__ CUtensorMap map_tokens,
                  const __grid_constant__ Problem p, const __grid_constant__ Groups groups, int first_tile, int stages) {
  using Shape = SkinnyShape<kTokens>;
  extern __shared__ uint8_t smem[];
  SkinnyLayout at;
  at.weights = uniform((smem_address(smem) + 1023) & ~1023u);
  at.tokens = at.weights + stages * Shape::kWeightBytes;
  at.scales = at.weights + max(stages * Shape::kStageBytes, Shape::kPartialBytes);
  at.full = at.scales + stages * Shape::kScaleFloats * 4;
  at.empty = at.full + stages * 8;

  const int segment = cluster_rank(), tile = first_tile + blockIdx.x / p.segments;
  int4 group{0, int(blockIdx.y) * kTokens, min(kTokens, p.m - int(blockIdx.y) * kTokens), 0};
  if constexpr (kGrouped) {
    wait_for_previous_kernel();
    group = groups.tiles[blockIdx.y];
    if (group.z == 0) return;  // and so does the whole cluster
  }
  const SkinnyPart part = skinny_part(p, tile, Shape::kRows, group, segment);

  if (threadIdx.x == Shape::kConsumers) {
    prefetch_map(&map_weights);
    prefetch_map(&map_tokens);
    for (int s = 0; s < stages; ++s) {
      barrier_init(at.full + s * 8, 2 + kArrivingLanes);
      barrier_init(at.empty + s * 8, Shape::kConsumers / 32 * kArrivingLanes);
    }
    barrier_init_fence();
  }
  __syncthreads();

  if (threadIdx.x == Shape::kConsumers) {
    skinny_load_weights<Shape>(&map_weights, at, stages, part);
  } else if (threadIdx.x == Shape::kConsumers + 32) {
    skinny_load_tokens<Shape>(&map_tokens, at, stages, part);
  } else if (threadIdx.x >= Shape::kConsumers + 64) {
    skinny_load_scales<Shape>(p, at, stages, part);
  } else if (threadIdx.x < Shape::kConsumers) {
    SkinnyConsumer<Shape> consumer(at, stages);
    consumer.sum_blocks(part.blocks);
    consumer.store_partials();
  }
  __syncwarp();
  if (p.segments > 1)
    cluster_sync();
  else
    __syncthreads();
  if (threadIdx.x < Shape::kConsumers)
    skinny_reduce<Shape>(p, at.weights, segment, part, [&groups](int token) -> int64_t {
      return kGrouped && groups.rows ? groups.rows[token] : token;
    });
  __syncwarp();
  if (p.segments > 1) cluster_meet();  // no CTA leaves while another still reads its partial sums
}

}  // namespace farm
