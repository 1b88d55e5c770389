// The C ABI of farm_kernels.h on Hopper: checks, and which executor runs a problem.
#include <algorithm>
#include <cstdint>
#include <string>

#include "farm_grouped.h"
#include "json.h"
#include "launch.h"

namespace farm {
namespace {

// Up to how many tokens the weights are the tall operand in any case; measured on an H200.
constexpr int kSkinnyTokens = 32;

bool aligned(const void *p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

int check(const farm_gemm *g) {
  if (!g) return fail(FARM_INVALID_ARGUMENT, "args is NULL");
  if (g->struct_size != sizeof(farm_gemm))
    return fail(FARM_INVALID_ARGUMENT, "struct_size is " + std::to_string(g->struct_size) + ", this library's is " +
                                           std::to_string(sizeof(farm_gemm)));
  if (g->variant < FARM_STREAMK || g->variant > FARM_INVARIANT)
    return fail(FARM_INVALID_ARGUMENT, "variant is " + std::to_string(g->variant) + ", allowed are 0 to 3");
  if (g->out_dtype < FARM_BF16 || g->out_dtype > FARM_FP32)
    return fail(FARM_INVALID_ARGUMENT, "out_dtype is " + std::to_string(g->out_dtype) + ", allowed are 0 to 2");
  if (g->m < 1) return fail(FARM_INVALID_ARGUMENT, "m is " + std::to_string(g->m) + ", must be at least 1");
  if (g->n < 8 || g->n % 8)
    return fail(FARM_INVALID_ARGUMENT, "n is " + std::to_string(g->n) + ", must be a positive multiple of 8");
  if (g->k < 128 || g->k % 128)
    return fail(FARM_INVALID_ARGUMENT, "k is " + std::to_string(g->k) + ", must be a positive multiple of 128");
  if (g->sm_count < 0)
    return fail(FARM_INVALID_ARGUMENT, "sm_count is " + std::to_string(g->sm_count) + ", must be >= 0");
  return FARM_OK;
}

int check_memory(const farm_gemm *g) {
  if (!g->a || !g->b || !g->scale_a || !g->scale_b || !g->d) return fail(FARM_INVALID_ARGUMENT, "a pointer is NULL");
  if (g->lda < g->k || g->ldb < g->k || g->ldd < g->n || g->ld_scale_a < g->m || g->ld_scale_b < g->k / 128)
    return fail(FARM_INVALID_ARGUMENT, "a leading dimension is smaller than what it spans");
  const int element = g->out_dtype == FARM_FP32 ? 4 : 2;
  if (!aligned(g->a) || !aligned(g->b) || !aligned(g->d) || g->lda % 16 || g->ldb % 16 || g->ldd * element % 16)
    return fail(FARM_UNSUPPORTED, "rows of A, B and D must start at multiples of 16 bytes");
  return FARM_OK;
}

enum class Executor { kSkinny, kWide, kPersistent, kStreamK };

struct Plan {
  Device device;
  Problem problem;
  Executor executor;
  SkinnyPlan skinny;
  int workers;
  bool ordered;
  size_t workspace;
};

bool splits_tiles(const farm_gemm *g) {
  return (g->variant == FARM_STREAMK || g->variant == FARM_STREAMK_ORDERED) && g->k > 3 * int64_t{g->n};
}

int make_plan(const farm_gemm *g, Plan *plan) {
  if (const int status = check(g)) return status;
  if (const int status = current_device(&plan->device)) return status;
  plan->workers = g->sm_count > 0 ? std::min(g->sm_count, plan->device.sm_count) : plan->device.sm_count;
  plan->ordered = g->variant == FARM_STREAMK_ORDERED;
  const int k_blocks = g->k / kBlockK;
  plan->problem = {g->m,       g->n, k_blocks,      g->out_dtype, g->scale_a,
                   g->scale_b, g->d, g->ld_scale_a, g->ld_scale_b, g->ldd};
  if (splits_tiles(g)) {
    plan->executor = Executor::kStreamK;
  } else if (g->variant != FARM_INVARIANT) {
    plan->executor = Executor::kPersistent;
  } else {
    plan->skinny = plan_skinny(plan->problem, plan->workers);
    const bool skinny = g->m <= kSkinnyTokens || plan->skinny.ns < wide_ns(plan->device, plan->problem, plan->workers);
    plan->executor = skinny ? Executor::kSkinny : Executor::kWide;
  }
  plan->workspace = 0;
  if (plan->executor == Executor::kStreamK)
    plan->workspace = streamk_workspace(plan->problem, plan->ordered, plan->workers);
  return FARM_OK;
}

int run(const farm_gemm *g) {
  Plan plan;
  if (const int status = make_plan(g, &plan)) return status;
  if (const int status = check_memory(g)) return status;
  if (g->workspace_bytes < plan.workspace || (plan.workspace && !aligned(g->workspace)))
    return fail(FARM_WORKSPACE_TOO_SMALL, "workspace is " + std::to_string(g->workspace_bytes) + " bytes, needs " +
                                              std::to_string(plan.workspace) + " at a multiple of 16");
  const Problem &p = plan.problem;
  const Operands operands{{g->a, g->m, g->k, g->lda}, {g->b, g->n, g->k, g->ldb}};
  const auto stream = static_cast<cudaStream_t>(g->stream);
  switch (plan.executor) {
    case Executor::kStreamK:
      return run_streamk(plan.device, operands, p, plan.ordered, plan.workers, g->workspace, stream);
    case Executor::kWide: return run_wide(plan.device, operands, p, plan.workers, stream);
    case Executor::kPersistent: return run_persistent(plan.device, operands, p, plan.workers, stream);
    default: break;
  }
  return plan.skinny.run(plan.device, operands, p, plan.skinny, plan.workers, stream);
}

int run_grouped(const farm_gemm *g, const farm_groups *groups) {
  Plan plan;
  if (const int status = make_plan(g, &plan)) return status;
  if (const int status = check_memory(g)) return status;
  if (!groups || !groups->tiles) return fail(FARM_INVALID_ARGUMENT, "a pointer is NULL");
  if (g->variant != FARM_INVARIANT)
    return fail(FARM_INVALID_ARGUMENT, "variant is " + std::to_string(g->variant) + ", groups have 3, invariant");
  constexpr int kRows = 64;
  if (g->n % kRows)
    return fail(FARM_INVALID_ARGUMENT, "n is " + std::to_string(g->n) + ", groups need a multiple of 64");
  const int tokens = groups->tile_tokens;
  if (tokens < 8 || tokens > 128 || (tokens & (tokens - 1)))
    return fail(FARM_INVALID_ARGUMENT,
                "tile_tokens is " + std::to_string(tokens) + ", allowed are 8, 16, 32, 64 and 128");
  const int64_t rows = int64_t{groups->experts} * g->n;
  if (groups->experts < 1 || rows > INT32_MAX)
    return fail(FARM_INVALID_ARGUMENT, "experts is " + std::to_string(groups->experts) + ", allowed are 1 to " +
                                           std::to_string(INT32_MAX / g->n) + " of n = " + std::to_string(g->n));
  if (groups->tile_count < 1 || groups->tile_count > 65535)
    return fail(FARM_INVALID_ARGUMENT,
                "tile_count is " + std::to_string(groups->tile_count) + ", allowed are 1 to 65535");
  const Operands operands{{g->a, g->m, g->k, g->lda}, {g->b, static_cast<int>(rows), g->k, g->ldb}};
  const Groups given{reinterpret_cast<const int4 *>(groups->tiles), groups->out_rows};
  return run_skinny_groups(plan.device, operands, plan.problem, given, groups->tile_count, tokens,
                           static_cast<cudaStream_t>(g->stream));
}

}  // namespace
}  // namespace farm

extern "C" {

int farm_gemm_run_grouped(const farm_gemm *args, const farm_groups *groups) { return farm::run_grouped(args, groups); }

int farm_gemm_workspace(const farm_gemm *args, size_t *bytes) {
  farm::Plan plan;
  if (!bytes) return farm::fail(FARM_INVALID_ARGUMENT, "bytes is NULL");
  if (const int status = farm::make_plan(args, &plan)) return status;
  *bytes = plan.workspace;
  return FARM_OK;
}

int farm_gemm_run(const farm_gemm *args) { return farm::run(args); }

const char *farm_status_message(int status) {
  switch (status) {
    case FARM_OK: return "ok";
    case FARM_INVALID_ARGUMENT: return "invalid argument";
    case FARM_UNSUPPORTED: return "unsupported on this device";
    case FARM_WORKSPACE_TOO_SMALL: return "workspace too small";
    case FARM_OUT_OF_MEMORY: return "out of memory";
    case FARM_LAUNCH_FAILED: return "launch failed";
    default: return "unknown status";
  }
}

int farm_abi_version(void) { return FARM_ABI_VERSION; }

const char *farm_build_info(void) {
  static const std::string info = "{\"backend\": \"cuda\", \"compiler\": " + farm::json_string(FARM_COMPILER) +
                                  ", \"flags\": " + farm::json_string(FARM_FLAGS) + "}";
  return info.c_str();
}
}
