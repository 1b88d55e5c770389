#include "digest.h"

#include "../row_digest.h"
#include "check.h"
#include "farm_observe.h"
#include "isa.h"

namespace farm {
namespace {

#include "digest_rows.inl"

DigestRows fastest() {
#if FARM_X86
  const Micro* micro = isa().micro;
  const bool allowed = micro != &micro_avx2 && micro != &micro_portable;
  if (allowed && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) return digest_rows_avx512;
#endif
  return digest_rows_portable;
}

}  // namespace

void digest_rows_portable(const char* data, int64_t rows, int64_t row_bytes, int64_t row_stride, uint64_t* digests) {
  digest_each(data, rows, row_bytes, row_stride, digests);
}

}  // namespace farm

int farm_digest_rows(const void* data, int64_t rows, int64_t row_bytes, int64_t row_stride, void* digests, void*) {
  farm::clear_error();
  if (data == nullptr || digests == nullptr) return farm::fail(FARM_INVALID_ARGUMENT, "a pointer is NULL");
  if (rows < 1 || row_bytes < 1 || row_stride < row_bytes)
    return farm::fail(FARM_INVALID_ARGUMENT,
                      "rows is %lld and row_bytes %lld (allowed: 1 or more), row_stride %lld (at least row_bytes)",
                      static_cast<long long>(rows), static_cast<long long>(row_bytes),
                      static_cast<long long>(row_stride));
  static const farm::DigestRows digest_rows = farm::fastest();
  digest_rows(static_cast<const char*>(data), rows, row_bytes, row_stride, static_cast<uint64_t*>(digests));
  return FARM_OK;
}
