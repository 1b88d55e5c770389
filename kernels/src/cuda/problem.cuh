// What every kernel here is told about a problem, and the order in which all of them add up K.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "farm_kernels.h"
#include "hopper.cuh"

namespace farm {

constexpr int kBlockK = 128;     // one scale of A and of B spans this much of K, and one row of an operand in a stage
constexpr int kScaleRows = 128;  // rows of B that share a scale

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

struct Problem {
  int m, n, k_blocks;
  int out_dtype;  // farm_dtype
  const float *scale_a, *scale_b;
  void *d;
  int64_t ld_scale_a, ld_scale_b, ldd;
};

// Tiles of tokens of one expert each: expert, first token, tokens, of which there may be none. `rows` are where results
// go in D, token by token; NULL where they go to the token's own row.
struct Groups {
  const int4 *tiles;
  const int32_t *rows;
};

// The one expression by which a block's partial sum joins the running sum. The sum begins with zero, and blocks join it
// in the order of K: every executor of the invariant variant keeps to this, so all give the same bits.
__device__ __forceinline__ float promote(float sum, float partial, float scale) {
  return __fmaf_rn(partial, scale, sum);
}

__device__ __forceinline__ float block_scale(float scale_a, float scale_b) { return __fmul_rn(scale_a, scale_b); }

// Two neighbouring results rounded to the 16-bit output type.
__device__ __forceinline__ uint32_t pack_pair(float low, float high, bool is_bf16) {
  if (is_bf16) {
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<uint32_t &>(v);
  }
  __half2 v = __floats2half2_rn(low, high);
  return reinterpret_cast<uint32_t &>(v);
}

// A ring of stages in shared memory, walked alike by the producer and the consumers.
struct RingPosition {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

}  // namespace farm
