/* C ABI of what the farm looks at results with. Of libfarm_cuda.so everything is enqueued on a stream (cudaStream_t),
 * may be captured in a graph, and returns a farm_status. libfarm_cpu.so has farm_digest_rows alone, and its stream is
 * unused.
 */
#ifndef FARM_OBSERVE_H
#define FARM_OBSERVE_H

#include "farm_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* 128-bit digests of `rows` byte ranges of `row_bytes` each, `row_stride` bytes apart: digests[r] += digest of row r.
 * `digests` (two uint64 a row, on the device) is zeroed by the caller. Digests are sums over 8-byte words, each mixed
 * with its place in the row, so that blocks may add them up in any order; a last word of fewer bytes is filled up with
 * zeros. Rows of different lengths are not meant to be compared. CPU and CUDA give the same digests, CUDA more slowly
 * where rows do not start at multiples of 16 bytes or are not whole words.
 */
FARM_API int farm_digest_rows(const void *data, int64_t rows, int64_t row_bytes, int64_t row_stride, void *digests,
                              void *stream);

/* The arguments of farm_digest_rows for one of several tensors. */
typedef struct farm_rows {
  const void *data;
  int64_t rows, row_bytes, row_stride;
  void *digests;
} farm_rows;

/* farm_digest_rows of 1 to FARM_MOST_TENSORS tensors in one launch. `tensors` is on the host, and is read before the call
 * returns; a graph keeps a copy. libfarm_cuda.so alone.
 */
#define FARM_MOST_TENSORS 64
FARM_API int farm_digest_tensors(const farm_rows *tensors, int32_t count, void *stream);

/* Keeps the first sample that differs: if *digest != *reference and *kept_trial is 0 or `trial`, copies `bytes` from
 * `data` to `kept` and sets *kept_trial to `trial`. All pointers are on the device; `trial` counts from 1; `bytes` is a
 * multiple of 8.
 */
FARM_API int farm_keep_if_different(const void *digest, const void *reference, const void *data, int64_t bytes,
                                    void *kept, int32_t *kept_trial, int32_t trial, void *stream);

/* Stress: holds `sms` multiprocessors for `microseconds`, one block each that takes all shared memory of its SM. The
 * blocks wait for the clock and for nothing else.
 */
FARM_API int farm_occupy(int32_t sms, int32_t microseconds, void *stream);

#ifdef __cplusplus
}
#endif
#endif
