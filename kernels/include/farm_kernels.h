/* C ABI of the farm's kernels: one header, one library per backend (libfarm_cpu.so, libfarm_cuda.so).
 *
 * The operation is DeepSeek's block-scaled FP8 GEMM, D = (A * SA) @ (B * SB)^T:
 *   A   e4m3 (OCP, finite only + NaN) [m][lda],  lda >= k, K contiguous
 *   SA  float [k/128][ld_scale_a], ld_scale_a >= m: one scale per row of A and block of 128 along K, M contiguous
 *   B   e4m3 [n][ldb], ldb >= k, K contiguous
 *   SB  float [ceil(n/128)][ld_scale_b], ld_scale_b >= k/128: one scale per 128x128 block of B, K contiguous
 *   D   bf16, fp16 or fp32 [m][ldd], ldd >= n, N contiguous, rounded to nearest even once, from float
 * m >= 1, n a positive multiple of 8, k a positive multiple of 128.  Products of a 128-block are summed in float, then
 * scaled by SA*SB and added to the running float sum; in which order blocks are added is what a variant decides.
 *
 * On CUDA rows of A, B and D start at multiples of 16 bytes. FARM_INVARIANT may begin to read B, as weights that don't
 * change, before the kernel before it on the stream has ended: B must not be what that one writes.
 */
#ifndef FARM_KERNELS_H
#define FARM_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define FARM_ABI_VERSION 1

#if defined(__GNUC__)
#define FARM_API __attribute__((visibility("default")))
#else
#define FARM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum farm_status {
  FARM_OK = 0,
  FARM_INVALID_ARGUMENT = 1,
  FARM_UNSUPPORTED = 2,
  FARM_WORKSPACE_TOO_SMALL = 3,
  FARM_OUT_OF_MEMORY = 4,
  FARM_LAUNCH_FAILED = 5
};

enum farm_variant {
  FARM_STREAMK = 0,         /* stream-K where k > 3n, partial sums added as they complete; else as PERSISTENT */
  FARM_STREAMK_ORDERED = 1, /* the same decomposition, partial sums added in K order: repeatable, varies with m */
  FARM_PERSISTENT = 2,      /* one worker per output tile, K in order */
  FARM_INVARIANT = 3        /* K summed in an order fixed by (n, k) alone: same bits for every m and worker count */
};

enum farm_dtype { FARM_BF16 = 0, FARM_FP16 = 1, FARM_FP32 = 2 };

typedef struct farm_gemm {
  uint32_t struct_size; /* sizeof(farm_gemm), so that a library can refuse a caller of another layout */
  int32_t variant;
  int32_t out_dtype;
  int32_t m, n, k;
  const void *a, *b;
  const float *scale_a, *scale_b;
  void *d;
  int64_t lda, ldb, ld_scale_a, ld_scale_b, ldd; /* in elements */
  void *workspace;
  size_t workspace_bytes;
  void *stream;       /* cudaStream_t; unused on the CPU */
  int32_t sm_count;   /* CUDA: most CTAs at a time, over which stream-K splits; 0: as the kernel likes.
                         CPU: workers that stream-K splits over; 0: 132, as on an H200 */
  int32_t threads;    /* CPU: OS threads, 0: all allowed cores; unused on CUDA */
  int32_t pause_us;   /* CPU stress: each work item first sleeps a random time up to this; unused on CUDA */
  uint32_t pause_seed;
} farm_gemm;

/* Bytes of workspace that farm_gemm_run needs for these m, n, k, variant, sm_count. Pointers are not read. */
FARM_API int farm_gemm_workspace(const farm_gemm *args, size_t *bytes);
/* Runs (CPU) or enqueues on args->stream (CUDA). Returns a farm_status. */
FARM_API int farm_gemm_run(const farm_gemm *args);
/* English text of a status; never NULL. */
FARM_API const char *farm_status_message(int status);
/* What this thread's last failing call found wrong, with the value and what is allowed; "" if nothing did. */
FARM_API const char *farm_last_error(void);
FARM_API int farm_abi_version(void);
/* JSON object: backend, compiler, flags, and for the CPU the instruction set that will be used. */
FARM_API const char *farm_build_info(void);

#ifdef __cplusplus
}
#endif
#endif
