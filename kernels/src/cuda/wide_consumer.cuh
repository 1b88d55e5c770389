// What a consumer of the wide kernel does with the stages that the ring delivers, and with their sum.
#pragma once

#include "wgmma.cuh"
#include "wide_schedule.cuh"

namespace farm {

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

  // sum = the piece, its blocks added in the order of K.
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
  static constexpr int kBlocks = Shape::kBlocks;
  // Where the second block of B's scales may begin within a tile, in columns: at multiples of this.
  static constexpr int kStep = Shape::kTileN % 64 == 0 ? 64 : Shape::kTileN % 32 == 0 ? 32 : 16;

  // The compiler has to know which columns take which scale, or it would choose anew for each of them in every block.
  template <int kFirst>
  __device__ __forceinline__ void for_columns(int first_block, const Piece &piece, Sums &sum) {
    constexpr int kMost = Shape::kTileN < kScaleRows ? Shape::kTileN : kScaleRows;
    if constexpr (!Shape::kTwoScales)
      sum_blocks<Shape::kTileN>(piece, sum);
    else if constexpr (kFirst == kMost)
      sum_blocks<kMost>(piece, sum);
    else if (first_block == kFirst)
      sum_blocks<kFirst>(piece, sum);
    else
      for_columns<kFirst + kStep>(first_block, piece, sum);
  }

  template <int kFirst>
  __device__ __forceinline__ void sum_blocks(const Piece &piece, Sums &sum) {
#pragma unroll
    for (int w = 0; w < Shape::kWaves; ++w)
#pragma unroll
      for (int j = 0; j < Shape::kSums; ++j) sum[w][j] = 0.f;
#pragma unroll 4 / Shape::kBlocks
    for (int left = piece.k_end - piece.k_begin; left > 0; left -= kBlocks) add_stage<kFirst>(sum, left);
  }

  // Adds the blocks of the next stage, of which `left` or all count.
  template <int kFirst>
  __device__ __forceinline__ void add_stage(Sums &sum, int left) {
    constexpr bool kTwo = kFirst < Shape::kTileN;
    const uint32_t scales = at_.scales + ring_.stage * Shape::kScaleBytes;
    const uint32_t scales_b = scales + kBlocks * Shape::kScalesA;
    const uint64_t a = operand(at_.a + ring_.stage * kBlocks * Shape::kBytesA + group_ * 64 * kBlockK);
    const uint64_t b = operand(at_.b + ring_.stage * kBlocks * Shape::kBytesB);
    barrier_wait(at_.full + ring_.stage * 8, ring_.phase);
    float first_b[kBlocks], second_b[kBlocks];
#pragma unroll
    for (int u = 0; u < kBlocks; ++u) {
      first_b[u] = load_shared(scales_b + (scale_b_[0] + u) * 4);
      second_b[u] = kTwo ? load_shared(scales_b + Shape::kScalesB + (scale_b_[1] + u) * 4) : 0.f;
    }
#pragma unroll
    for (int w = 0; w < Shape::kWaves; ++w) {
      float low[kBlocks], high[kBlocks];
#pragma unroll
      for (int u = 0; u < kBlocks; ++u) {
        const uint32_t place = u == 0 ? scale_a_ : (scale_a_ + u * uint32_t(p_.ld_scale_a)) % 4;
        const uint32_t scales_a = scales + u * Shape::kScalesA + (place + row_ + w * Shape::kWaveRows) * 4;
        low[u] = load_shared(scales_a);
        high[u] = load_shared(scales_a + 8 * 4);
      }
      Accumulators<kBlocks, Shape::kSums> partial;
      pin(partial);
      wgmma_begin();
#pragma unroll
      for (int u = 0; u < kBlocks; ++u)
#pragma unroll
        for (int step = 0; step < kBlockK / 32; ++step)
          wgmma<Shape::kTileN>(partial[u], a + (u * Shape::kBytesA + w * Shape::kWaveRows * kBlockK) / 16 + step * 2,
                               b + u * Shape::kBytesB / 16 + step * 2, step > 0);
      wgmma_commit();
      float scale[kBlocks][2][2];  // by B's and by A's
#pragma unroll
      for (int u = 0; u < kBlocks; ++u) {
        scale[u][0][0] = block_scale(low[u], first_b[u]);
        scale[u][0][1] = block_scale(high[u], first_b[u]);
        scale[u][1][0] = kTwo ? block_scale(low[u], second_b[u]) : 0.f;
        scale[u][1][1] = kTwo ? block_scale(high[u], second_b[u]) : 0.f;
      }
      pin(partial);
      wgmma_wait<0>();
      pin(partial);
      if (w == Shape::kWaves - 1) release_stage();
#pragma unroll
      for (int u = 0; u < kBlocks; ++u)
        if (u == 0 || u < left)
#pragma unroll
          for (int j = 0; j < Shape::kSums; ++j)
            sum[w][j] = promote(sum[w][j], partial[u][j], scale[u][j / 4 * 8 >= kFirst][j / 2 % 2]);
    }
    ring_.advance(Shape::kStages);
    scale_a_ = (scale_a_ + kBlocks * uint32_t(p_.ld_scale_a)) % 4;
    scale_b_[0] = (scale_b_[0] + kBlocks) % 4;
    scale_b_[1] = (scale_b_[1] + kBlocks) % 4;
  }

  __device__ __forceinline__ void release_stage() const {
    const uint32_t empty = at_.empty + ring_.stage * 8;
    if constexpr (Shape::kCluster > 1)
      warp_arrive_everywhere(empty, lane_, Shape::kCluster);
    else
      warp_arrive(empty, lane_);
  }

  __device__ __forceinline__ uint32_t out() const { return at_.out + group_ * (Shape::kOutBytes / Shape::kGroups); }

  const Problem &p_;
  const WideLayout at_;
  const int group_, lane_;
  const int row_;  // this thread's first within the tile; its second is eight further
  RingPosition ring_;
  uint32_t scale_a_, scale_b_[2];  // where in their lines the next block's scales lie
};

}  // namespace farm
