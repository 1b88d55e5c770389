#include "check.h"

#include <cstdarg>
#include <cstdint>
#include <cstdio>

#include "micro.h"

namespace farm {
namespace {

thread_local char message[512] = "";

constexpr int kMaxThreads = 1024, kMaxWorkers = 65536, kMaxPauseUs = 1000000;

int check_range(const char* name, int value, int least, int most) {
  if (value >= least && value <= most) return FARM_OK;
  return fail(FARM_INVALID_ARGUMENT, "%s is %d; allowed are %d to %d", name, value, least, most);
}

int check_stride(const char* name, int64_t value, int64_t least, const char* why) {
  if (value >= least) return FARM_OK;
  return fail(FARM_INVALID_ARGUMENT, "%s is %lld; it must be at least %lld (%s)", name, static_cast<long long>(value),
              static_cast<long long>(least), why);
}

int check_pointer(const char* name, const void* pointer, size_t alignment) {
  if (pointer == nullptr) return fail(FARM_INVALID_ARGUMENT, "%s is a null pointer", name);
  if (reinterpret_cast<uintptr_t>(pointer) % alignment == 0) return FARM_OK;
  return fail(FARM_INVALID_ARGUMENT, "%s is at address %p; it must be a multiple of %zu", name, pointer, alignment);
}

}  // namespace

int fail(int status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return status;
}

void clear_error() { message[0] = '\0'; }
const char* last_error() { return message; }

int check_problem(const farm_gemm* args) {
  if (args == nullptr) return fail(FARM_INVALID_ARGUMENT, "args is a null pointer");
  if (args->struct_size != sizeof(farm_gemm))
    return fail(FARM_INVALID_ARGUMENT, "struct_size is %u; this library (ABI %d) has %zu: caller and library differ",
                args->struct_size, FARM_ABI_VERSION, sizeof(farm_gemm));
  if (args->variant < FARM_STREAMK || args->variant > FARM_INVARIANT)
    return fail(FARM_INVALID_ARGUMENT, "variant is %d; allowed are 0 (streamk) to 3 (invariant)", args->variant);
  if (args->out_dtype < FARM_BF16 || args->out_dtype > FARM_FP32)
    return fail(FARM_INVALID_ARGUMENT, "out_dtype is %d; allowed are 0 (bf16), 1 (fp16), 2 (fp32)", args->out_dtype);
  if (args->m < 1) return fail(FARM_INVALID_ARGUMENT, "m is %d; it must be at least 1", args->m);
  if (args->n < 1 || args->n % 8 != 0)
    return fail(FARM_INVALID_ARGUMENT, "n is %d; it must be a positive multiple of 8", args->n);
  if (args->k < 1 || args->k % kBlock != 0)
    return fail(FARM_INVALID_ARGUMENT, "k is %d; it must be a positive multiple of %d", args->k, kBlock);
  if (int status = check_range("sm_count", args->sm_count, 0, kMaxWorkers)) return status;
  if (int status = check_range("threads", args->threads, 0, kMaxThreads)) return status;
  return check_range("pause_us", args->pause_us, 0, kMaxPauseUs);
}

int check_operands(const farm_gemm& args, size_t workspace_needed) {
  const size_t d_size = args.out_dtype == FARM_FP32 ? 4 : 2;
  if (int status = check_pointer("a", args.a, 1)) return status;
  if (int status = check_pointer("b", args.b, 1)) return status;
  if (int status = check_pointer("scale_a", args.scale_a, alignof(float))) return status;
  if (int status = check_pointer("scale_b", args.scale_b, alignof(float))) return status;
  if (int status = check_pointer("d", args.d, d_size)) return status;
  if (int status = check_stride("lda", args.lda, args.k, "k")) return status;
  if (int status = check_stride("ldb", args.ldb, args.k, "k")) return status;
  if (int status = check_stride("ld_scale_a", args.ld_scale_a, args.m, "m")) return status;
  if (int status = check_stride("ld_scale_b", args.ld_scale_b, args.k / kBlock, "k / 128")) return status;
  if (int status = check_stride("ldd", args.ldd, args.n, "n")) return status;
  if (workspace_needed == 0) return FARM_OK;
  if (args.workspace_bytes < workspace_needed)
    return fail(FARM_WORKSPACE_TOO_SMALL, "workspace_bytes is %zu; farm_gemm_workspace asks for %zu",
                args.workspace_bytes, workspace_needed);
  return check_pointer("workspace", args.workspace, alignof(float));
}

}  // namespace farm
