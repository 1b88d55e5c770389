/* Digests of rows as farm_observe.h defines them, by instruction set. */
#ifndef FARM_CPU_DIGEST_H
#define FARM_CPU_DIGEST_H

#include <stdint.h>

namespace farm {

using DigestRows = void (*)(const char* data, int64_t rows, int64_t row_bytes, int64_t row_stride, uint64_t* digests);

void digest_rows_portable(const char* data, int64_t rows, int64_t row_bytes, int64_t row_stride, uint64_t* digests);
#if FARM_X86
void digest_rows_avx512(const char* data, int64_t rows, int64_t row_bytes, int64_t row_stride, uint64_t* digests);
#endif

}  // namespace farm
#endif
