/* C ABI of the GEMM over groups of rows with a matrix B each, as a mixture of experts has them, in libfarm_cuda.so.
 */
#ifndef FARM_GROUPED_H
#define FARM_GROUPED_H

#include "farm_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct farm_groups {
  int32_t experts;
  int32_t tile_count;      /* 1 to 65535 */
  int32_t tile_tokens;     /* 8, 16, 32, 64 or 128; results don't depend on it */
  const int32_t *tiles;    /* [tile_count][4] on the device: expert, first row of A, rows (0 to tile_tokens), 0 */
  const int32_t *out_rows; /* [m] on the device: row i of the result is row out_rows[i] of D; NULL: row i */
} farm_groups;

/* farm_gemm_run of FARM_INVARIANT for each tile, to the bit, in one launch: rows of A times the B of their expert.
 * args->m counts all rows of A, in which an expert's are neighbours; args->b is [experts * n][ldb], args->scale_b
 * [experts * ceil(n/128)][ld_scale_b]; n is a multiple of 64. Rows of D that no tile leads to are left as they are. The
 * tables may be written by the kernel before this one on the stream. Needs no workspace; sm_count is not looked at.
 */
FARM_API int farm_gemm_run_grouped(const farm_gemm *args, const farm_groups *groups);

#ifdef __cplusplus
}
#endif
#endif
