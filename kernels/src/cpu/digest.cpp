#include "digest.h"

#include <algorithm>
#include <exception>

#include "../row_digest.h"
#include "check.h"
#include "farm_observe.h"
#include "isa.h"
#include "threads.h"

namespace farm {
namespace {

#include "digest_rows.inl"

/* Bytes that are worth waking another thread for. */
constexpr int64_t kBytesOfAThread = 256 << 10;

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

int farm_digest_rows(const void* data, int64_t rows, int64_t row_bytes, int64_t row_stride, void* digests, void*) try {
  farm::clear_error();
  if (data == nullptr || digests == nullptr) return farm::fail(FARM_INVALID_ARGUMENT, "a pointer is NULL");
  if (rows < 1 || row_bytes < 1 || row_stride < row_bytes)
    return farm::fail(FARM_INVALID_ARGUMENT,
                      "rows is %lld and row_bytes %lld (allowed: 1 or more), row_stride %lld (at least row_bytes)",
                      static_cast<long long>(rows), static_cast<long long>(row_bytes),
                      static_cast<long long>(row_stride));
  static const farm::DigestRows digest_rows = farm::fastest();
  static const int cores = farm::allowed_cores();
  const char* bytes = static_cast<const char*>(data);
  uint64_t* sums = static_cast<uint64_t*>(digests);
  const int64_t worth = std::min({rows, rows * row_bytes / farm::kBytesOfAThread, int64_t(cores)});
  if (worth < 2) {
    digest_rows(bytes, rows, row_bytes, row_stride, sums);
    return FARM_OK;
  }
  farm::run_on_threads(int(worth), [=](int thread) {
    const int64_t first = rows * thread / worth, last = rows * (thread + 1) / worth;
    digest_rows(bytes + first * row_stride, last - first, row_bytes, row_stride, sums + 2 * first);
  });
  return FARM_OK;
} catch (const std::exception& error) {
  return farm::fail(FARM_LAUNCH_FAILED, "%s", error.what());
}
