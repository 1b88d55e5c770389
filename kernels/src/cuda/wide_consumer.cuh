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
