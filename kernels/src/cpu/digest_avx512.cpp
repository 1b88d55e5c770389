#include "digest.h"

#include "../row_digest.h"

namespace farm {
namespace {

#include "digest_rows.inl"

}  // namespace

void digest_rows_avx512(const char* data, int64_t rows, int64_t row_bytes, int64_t row_stride, uint64_t* digests) {
  digest_each(data, rows, row_bytes, row_stride, digests);
}

}  // namespace farm
