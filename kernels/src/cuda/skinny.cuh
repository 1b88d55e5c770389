// Few tokens: the weights are the tensor core's wide operand, and K may be shared out to a cluster of CTAs.
//
// Here the time is that of reading the weights once, so what counts is that every SM streams from the first moment to
// the last. Operands are swapped: a tile is 64 rows of weights by 8 to 128 tokens, so that no token is padded to 64.
// The blocks' products don't depend on each other; only the running sum has to meet them in the order of K. So the CTAs
// of a cluster may each take a part of K. The first sums its blocks as they come, and sends the sum through distributed
// shared memory to the next. The others keep their products as they are, and have them all when the sum arrives.
// Weights are requested before the previous kernel on the stream has finished: farm_kernels.h says what that asks for.
// Grouped, the tokens are those of several experts, one after the other, and a table says which are whose.
#pragma once

#include "problem.cuh"
#include "wgmma.cuh"

namespace farm {

template <int kTokens_>
struct SkinnyShape {
  static constexpr int kTokens = kTokens_;
  static constexpr int kRows = 64;                            // of weights
  static constexpr int kWarpgroups = kTokens == 128 ? 2 : 1;  // which split the tokens
  static constexpr int kGroupTokens = kTokens / kWarpgroups;
  static constexpr int kBatch = kTokens <= 16 ? 4 : kTokens <= 32 ? 2 : 1;  // blocks of K in a stage, as in a batch
  static constexpr int kConsumers = kWarpgroups * 128;
  static constexpr int kThreads = kConsumers + 96;
  static constexpr int kWeightBytes = kRows * kBlockK;
  static constexpr int kTokenBytes = kTokens * kBlockK;
  static constexpr int kStageBytes = kBatch * (kWeightBytes + kTokenBytes);
  static constexpr int kScaleBytes = kTokens * 4;         // of a block: each token's scale times the weights'
  static constexpr int kKeptBytes = kRows * kTokens * 4;  // a block's products, or a sum on its way: [quad][thread][4]
  static constexpr int kOutStride = kRows + 4;  // floats a token, padded: no bank conflicts, 16-byte rows
  static constexpr int kOutBytes = kTokens * kOutStride * 4;
};

// What a CTA has in shared memory.
struct SkinnyRing {
  int stages;  // of operands
  int kept;    // blocks whose products are kept, or none

  // Scales of kept blocks have to last; others last as long as their stage.
  template <typename Shape>
  __host__ __device__ constexpr int scale_slots() const {
    return stages * Shape::kBatch > kept ? stages * Shape::kBatch : kept;
  }
  template <typename Shape>
  __host__ __device__ constexpr int operand_bytes() const {  // in whose place the results are laid out at the end
    return stages * Shape::kStageBytes > Shape::kOutBytes ? stages * Shape::kStageBytes : Shape::kOutBytes;
  }
  template <typename Shape>
  __host__ __device__ constexpr int kept_bytes() const {
    return kept > 0 ? (kept + 1) * Shape::kKeptBytes : 0;
  }
  template <typename Shape>
  constexpr int smem_bytes() const {
    constexpr int kAlign = 1024;
    return kAlign + operand_bytes<Shape>() + kept_bytes<Shape>() + scale_slots<Shape>() * Shape::kScaleBytes +
           (2 * stages + 1) * 8;
  }
};

// How the CTAs of a cluster share out K: others.kept blocks for each but the first, which has the rest.
struct SkinnySplit {
  int ranks;
  SkinnyRing first, others;
};

struct SkinnyLayout {
  uint32_t weights, tokens, kept, scales, full, empty, arrived;  // addresses in shared memory
};

template <typename Shape>
__device__ __forceinline__ SkinnyLayout skinny_layout(const SkinnyRing &has, const uint8_t *smem) {
  SkinnyLayout at;
  at.weights = uniform((smem_address(smem) + 1023) & ~1023u);
  at.tokens = at.weights + has.stages * Shape::kBatch * Shape::kWeightBytes;
  at.kept = at.weights + has.operand_bytes<Shape>();
  at.scales = at.kept + has.kept_bytes<Shape>();
  at.full = at.scales + has.scale_slots<Shape>() * Shape::kScaleBytes;
  at.empty = at.full + has.stages * 8;
  at.arrived = at.empty + has.stages * 8;
  return at;
}

// One CTA's part: a tile of the result, and its blocks of K.
struct SkinnyPart {
  int first_row, first_token, tokens;
  int weight_row;        // of its first row in the matrix of weights, which a group's experts share
  const float *scale_b;  // of its first block
  int k_begin, blocks;
};

__device__ __forceinline__ SkinnyPart skinny_part(const Problem &p, const SkinnySplit &split, int tile, int rows,
                                                  int4 group, int rank) {
  const int first_row = tile * rows, share = split.others.kept;
  const int k_begin = rank == 0 ? 0 : p.k_blocks - (split.ranks - rank) * share;
  const int64_t scale_row = int64_t(group.x) * ceil_div(p.n, kScaleRows) + min(first_row, p.n - 1) / kScaleRows;
  return {first_row, group.y, group.z, group.x * p.n + first_row, p.scale_b + scale_row * p.ld_scale_b + k_begin,
          k_begin,   rank == 0 ? p.k_blocks - (split.ranks - 1) * share : share};
}

// Loads a part by load(barrier, first block, blocks, stage), as stages become free: `at_once` of them together.
template <typename Shape, typename Load>
__device__ __forceinline__ void skinny_fill(const SkinnyLayout &at, int stages, const SkinnyPart &part, int at_once,
                                            Load load) {
  constexpr int kBatch = Shape::kBatch;
  RingPosition ring;
  for (int i = 0; i < part.blocks;) {
    const int end = min(i + at_once * kBatch, part.blocks);
    for (; i < end; i += kBatch, ring.advance(stages)) {
      barrier_wait(at.empty + ring.stage * 8, ring.phase ^ 1);
      load(at.full + ring.stage * 8, i, min(kBatch, part.blocks - i), ring.stage);
    }
  }
}

// One thread loads weights, several blocks together, so that DRAM reads longer stretches of each row.
template <typename Shape>
__device__ __forceinline__ void skinny_load_weights(const CUtensorMap *map, const SkinnyLayout &at, int stages,
                                                    const SkinnyPart &part) {
  constexpr int kBytes = Shape::kWeightBytes;
  const int at_once = max(1, (stages * Shape::kBatch >= 24 ? 8 : 2) / Shape::kBatch);
  skinny_fill<Shape>(at, stages, part, at_once, [&](uint32_t full, int first, int blocks, int stage) {
    barrier_expect(full, blocks * kBytes);
    for (int u = 0; u < blocks; ++u)
      tma_load(at.weights + (stage * Shape::kBatch + u) * kBytes, map, full, (part.k_begin + first + u) * kBlockK,
               part.weight_row, kEvictFirst);
  });
}

// Another loads tokens, as soon as the kernel before has written them.
template <typename Shape>
__device__ __forceinline__ void skinny_load_tokens(const CUtensorMap *map, const SkinnyLayout &at, int stages,
                                                   const SkinnyPart &part) {
  constexpr int kBytes = Shape::kTokenBytes;
  wait_for_previous_kernel();
  let_next_kernel_start();
  skinny_fill<Shape>(at, stages, part, 1, [&](uint32_t full, int first, int blocks, int stage) {
    barrier_expect(full, blocks * kBytes);
    for (int u = 0; u < blocks; ++u)
      tma_load(at.tokens + (stage * Shape::kBatch + u) * kBytes, map, full, (part.k_begin + first + u) * kBlockK,
               part.first_token, kEvictLast);
  });
}

// One warp brings the scales, which may lie at any multiple of four bytes, by plain loads several blocks ahead.
template <typename Shape>
__device__ __forceinline__ void skinny_load_scales(const Problem &p, const SkinnyLayout &at, const SkinnyRing &has,
                                                   const SkinnyPart &part) {
  constexpr int kTokens = Shape::kTokens, kLoads = (kTokens + 31) / 32, kAhead = kLoads == 4 ? 4 : 8;
  constexpr int kBatch = Shape::kBatch;
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
    for (int first = 0; first < kAhead; first += kBatch) {
      if (i + first >= part.blocks) return;
      barrier_wait(at.empty + ring.stage * 8, ring.phase ^ 1);
      const int slot = has.kept > 0 ? i + first : ring.stage * kBatch;
#pragma unroll
      for (int u = 0; u < kBatch; ++u)
#pragma unroll
        for (int r = 0; r < kLoads; ++r)
          if ((kTokens >= 32 || lane < kTokens) && i + first + u < part.blocks)
            store_shared(at.scales + (slot + u) * Shape::kScaleBytes + (lane + r * 32) * 4,
                         block_scale(a[first + u][r], b[first + u]));
      warp_arrive(at.full + ring.stage * 8, lane);
      ring.advance(has.stages);
#pragma unroll
      for (int u = 0; u < kBatch; ++u) load(first + u);
    }
  }
}

// One thread of the consumers. The tensor cores work on the next blocks while the products of the last are promoted or
// kept.
template <typename Shape>
class SkinnyConsumer {
 public:
  __device__ __forceinline__ SkinnyConsumer(const SkinnyLayout &at, const SkinnyRing &has)
      : at_(at), has_(has), warp_(uniform(threadIdx.x / 32)), lane_(threadIdx.x % 32) {}

  // The first CTA's: adds its blocks to the sum.
  __device__ __forceinline__ void sum_blocks(int blocks) {
    take_blocks(blocks, [this](const Batch &batch, int count) {
      float2 scale[kBatch][kTokens / 8];
#pragma unroll
      for (int u = 0; u < kBatch; ++u) load_scales(scale[u], done_.stage * kBatch + u);
      release();
#pragma unroll
      for (int u = 0; u < kBatch; ++u)
        if (u == 0 || u < count) add(batch[u], scale[u]);
    });
  }

  // The others': keeps its blocks, and adds them to the sum when that arrives.
  __device__ __forceinline__ void sum_blocks_later() {
    uint32_t to = kept(1);
    take_blocks(has_.kept, [this, &to](const Batch &batch, int count) {
      release();
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        if (u > 0 && u >= count) break;
#pragma unroll
        for (int j = 0; j < kSums; j += 4) store_shared_quad(to + j * (Shape::kConsumers * 4), batch[u] + j);
        to += Shape::kKeptBytes;
      }
    });
    barrier_wait(at_.arrived, 0);
    load_kept(sum_, kept(0));
#pragma unroll 32 / kSums
    for (int i = 0; i < has_.kept; ++i) {
      Product product;
      float2 scale[kTokens / 8];
      load_kept(product, kept(i + 1));
      load_scales(scale, i);
      add(product, scale);
    }
  }

  // To where `to`, the layout of the cluster's CTA `rank`, has it.
  __device__ __forceinline__ void send_sum(const SkinnyLayout &to, int rank) const {
#pragma unroll
    for (int j = 0; j < kSums; j += 4)
      send_to_rank(to.kept + threadIdx.x * 16 + j * (Shape::kConsumers * 4), to.arrived, rank, sum_ + j);
  }

  // Lays the whole tile out in the place of the operands, [token][row].
  __device__ __forceinline__ void store_sum() const {
    named_barrier(1, Shape::kConsumers);  // all have read the operands
    const int row = warp_ % 4 * 16 + lane_ / 4;
#pragma unroll
    for (int j = 0; j < kSums; ++j) {
      const int token = warp_ / 4 * kTokens + j / 4 * 8 + 2 * (lane_ % 4) + j % 2;
      store_shared(at_.weights + (token * Shape::kOutStride + row + j / 2 % 2 * 8) * 4, sum_[j]);
    }
    named_barrier(1, Shape::kConsumers);
  }

 private:
  static constexpr int kTokens = Shape::kGroupTokens, kSums = kTokens / 2, kBatch = Shape::kBatch;
  using Batch = Accumulators<kBatch, kSums>;
  using Product = float[kSums];

  // Calls finish(batch, blocks in it, or more) for each stage in turn, which has to release it.
  template <typename Finish>
  __device__ __forceinline__ void take_blocks(int blocks, Finish finish) {
    if constexpr (Shape::kWarpgroups == 2) {  // no registers for two sets, but two CTAs an SM that take turns
      for (int left = blocks; left > 0; left -= kBatch) {
        Batch batch;
        start(batch);
        wgmma_wait<0>();
        pin(batch);
        finish(batch, left);
      }
    } else {
      int left = blocks;
      const auto finish_next = [&](Batch &batch) {
        finish(batch, left);
        left -= kBatch;
      };
      alternate<kBatch, kSums>((blocks + kBatch - 1) / kBatch, [this](Batch &batch) { start(batch); }, finish_next);
    }
  }

  // Sets the tensor cores to work on the ring's next stage. What it has no blocks for is multiplied too, and not used.
  __device__ __forceinline__ void start(Batch &batch) {
    const uint64_t weights = operand(at_.weights + loaded_.stage * kBatch * Shape::kWeightBytes);
    const uint32_t first_token = at_.tokens + loaded_.stage * kBatch * Shape::kTokenBytes;
    const uint64_t tokens = operand(first_token + warp_ / 4 * kTokens * kBlockK);
    barrier_wait(at_.full + loaded_.stage * 8, loaded_.phase);
    loaded_.advance(has_.stages);
    wgmma_begin();
#pragma unroll
    for (int u = 0; u < kBatch; ++u)
#pragma unroll
      for (int step = 0; step < kBlockK / 32; ++step)
        wgmma<kTokens>(batch[u], weights + u * (Shape::kWeightBytes / 16) + step * 2,
                       tokens + u * (Shape::kTokenBytes / 16) + step * 2, step > 0);
    wgmma_commit();
  }

  __device__ __forceinline__ void release() {
    warp_arrive(at_.empty + done_.stage * 8, lane_);
    done_.advance(has_.stages);
  }

  // Of the tokens that this thread has, in pairs.
  __device__ __forceinline__ void load_scales(float2 (&scale)[kTokens / 8], int slot) const {
    const uint32_t scales = at_.scales + slot * Shape::kScaleBytes + (warp_ / 4 * kTokens + 2 * (lane_ % 4)) * 4;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) scale[j] = load_shared_pair(scales + j * 32);
  }

  __device__ __forceinline__ void add(const Product &product, const float2 (&scale)[kTokens / 8]) {
#pragma unroll
    for (int j = 0; j < kSums; ++j) sum_[j] = promote(sum_[j], product[j], j % 2 ? scale[j / 4].y : scale[j / 4].x);
  }

  // This thread's first quad of a kept block, counted from one, or of the sum that arrives, which is 0.
  __device__ __forceinline__ uint32_t kept(int block) const {
    return at_.kept + block * Shape::kKeptBytes + threadIdx.x * 16;
  }

  __device__ __forceinline__ void load_kept(Product &product, uint32_t from) const {
#pragma unroll
    for (int j = 0; j < kSums; j += 4) load_shared_quad(product + j, from + j * (Shape::kConsumers * 4));
  }

  const SkinnyLayout at_;
  const SkinnyRing has_;
  int warp_, lane_;
  RingPosition loaded_, done_;
  float sum_[kSums] = {};
};

__device__ __forceinline__ void store_four(const Problem &p, int64_t token, int row, const float (&v)[4]) {
  const int64_t at = token * p.ldd + row;
  if (p.out_dtype == FARM_FP32) {
    *reinterpret_cast<float4 *>(static_cast<float *>(p.d) + at) = make_float4(v[0], v[1], v[2], v[3]);
  } else {
    const bool is_bf16 = p.out_dtype == FARM_BF16;
    *reinterpret_cast<uint2 *>(static_cast<uint16_t *>(p.d) + at) =
        make_uint2(pack_pair(v[0], v[1], is_bf16), pack_pair(v[2], v[3], is_bf16));
  }
}

// Writes the tile that the consumers have laid out: the token's row of D is to(token).
template <typename Shape, typename To>
__device__ __forceinline__ void skinny_write(const Problem &p, uint32_t from, const SkinnyPart &part, To to) {
  constexpr int kQuads = Shape::kRows / 4;
  for (int i = threadIdx.x; i < part.tokens * kQuads; i += Shape::kConsumers) {
    const int token = i / kQuads, row = i % kQuads * 4;
    float v[4];
    load_shared_quad(v, from + (token * Shape::kOutStride + row) * 4);
    if (part.first_row + row < p.n) store_four(p, to(part.first_token + token), part.first_row + row, v);
  }
}

// Grid: (tiles * ranks, ceil(m / kTokens), or the number of groups), clusters of `ranks` CTAs along x; groups have one.
template <int kTokens, bool kGrouped>
__global__ void __launch_bounds__(SkinnyShape<kTokens>::kThreads, 2)
    skinny_kernel(const __grid_constant__ CUtensorMap map_weights, const __grid_constant__ CUtensorMap map_tokens,
                  const __grid_constant__ Problem p, const __grid_constant__ Groups groups,
                  const __grid_constant__ SkinnySplit split, int first_tile) {
  using Shape = SkinnyShape<kTokens>;
  extern __shared__ uint8_t smem[];
  const int rank = cluster_rank(), tile = first_tile + blockIdx.x / split.ranks;
  const SkinnyRing has = rank == 0 ? split.first : split.others;
  const int stages = has.stages;
  const SkinnyLayout at = skinny_layout<Shape>(has, smem);
  int4 group{0, int(blockIdx.y) * kTokens, min(kTokens, p.m - int(blockIdx.y) * kTokens), 0};
  if constexpr (kGrouped) {
    wait_for_previous_kernel();
    group = groups.tiles[blockIdx.y];
    if (group.z == 0) return;
  }
  const SkinnyPart part = skinny_part(p, split, tile, Shape::kRows, group, rank);

  if (threadIdx.x == Shape::kConsumers) {
    prefetch_map(&map_weights);
    prefetch_map(&map_tokens);
    for (int s = 0; s < stages; ++s) {
      barrier_init(at.full + s * 8, 2 + kArrivingLanes);
      barrier_init(at.empty + s * 8, Shape::kConsumers / 32 * kArrivingLanes);
    }
    barrier_init(at.arrived, 1);
    barrier_init_fence();
    if (rank > 0) barrier_expect(at.arrived, Shape::kKeptBytes);
  }
  __syncwarp();
  if (split.ranks > 1) cluster_arrive();
  __syncthreads();

  if (threadIdx.x == Shape::kConsumers) {
    skinny_load_weights<Shape>(&map_weights, at, stages, part);
  } else if (threadIdx.x == Shape::kConsumers + 32) {
    skinny_load_tokens<Shape>(&map_tokens, at, stages, part);
  } else if (threadIdx.x >= Shape::kConsumers + 64) {
    skinny_load_scales<Shape>(p, at, has, part);
  }
  __syncwarp();
  if (split.ranks > 1) cluster_wait();  // only then have all their barriers
  if (threadIdx.x >= Shape::kConsumers) return;
  SkinnyConsumer<Shape> consumer(at, has);
  if (rank == 0)
    consumer.sum_blocks(part.blocks);
  if constexpr (!kGrouped) {
    if (rank > 0) consumer.sum_blocks_later();
    if (rank + 1 < split.ranks) {
      consumer.send_sum(skinny_layout<Shape>(split.others, smem), rank + 1);
      return;
    }
  }
  consumer.store_sum();
  skinny_write<Shape>(p, at.weights, part, [&groups](int token) -> int64_t {
    return kGrouped && groups.rows ? groups.rows[token] : token;
  });
}

}  // namespace farm
