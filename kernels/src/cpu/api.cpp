#include <exception>
#include <new>
#include <string>
#include <system_error>

#include "check.h"
#include "farm_kernels.h"
#include "isa.h"
#include "json.h"
#include "plan.h"
#include "variants.h"

using farm::fail;
using farm::json_string;

namespace {

std::string describe_build() {
  const farm::Isa& isa = farm::isa();
  return "{\"backend\": \"cpu\", \"abi\": " + std::to_string(FARM_ABI_VERSION) +
         ", \"compiler\": " + json_string(FARM_COMPILER) + ", \"flags\": " + json_string(FARM_FLAGS) +
         ", \"isa\": " + (isa.micro ? json_string(isa.micro->name) : "null") +
         ", \"isa_chosen_by\": " + json_string(isa.chosen_by) + ", \"isa_error\": " + json_string(isa.error) + "}";
}

}  // namespace

int farm_gemm_workspace(const farm_gemm* args, size_t* bytes) {
  farm::clear_error();
  if (int status = farm::check_problem(args)) return status;
  if (bytes == nullptr) return fail(FARM_INVALID_ARGUMENT, "bytes is a null pointer");
  *bytes = farm::workspace_bytes(*args);
  return FARM_OK;
}

int farm_gemm_run(const farm_gemm* args) try {
  farm::clear_error();
  if (int status = farm::check_problem(args)) return status;
  if (int status = farm::check_operands(*args, farm::workspace_bytes(*args))) return status;
  const farm::Isa& isa = farm::isa();
  if (isa.micro == nullptr) return fail(FARM_UNSUPPORTED, "%s", isa.error.c_str());
  farm::run_variant(*args, *isa.micro);
  return FARM_OK;
} catch (const std::bad_alloc&) {
  return fail(FARM_OUT_OF_MEMORY, "not enough host memory for the threads' scratch");
} catch (const std::system_error& error) {
  return fail(FARM_LAUNCH_FAILED, "could not start %d threads: %s", args->threads, error.what());
} catch (const std::exception& error) {
  return fail(FARM_LAUNCH_FAILED, "%s", error.what());
}

const char* farm_status_message(int status) {
  switch (status) {
    case FARM_OK: return "ok";
    case FARM_INVALID_ARGUMENT: return "invalid argument";
    case FARM_UNSUPPORTED: return "not supported on this machine";
    case FARM_WORKSPACE_TOO_SMALL: return "workspace too small";
    case FARM_OUT_OF_MEMORY: return "out of memory";
    case FARM_LAUNCH_FAILED: return "launch failed";
    default: return "unknown status";
  }
}

const char* farm_last_error(void) { return farm::last_error(); }
int farm_abi_version(void) { return FARM_ABI_VERSION; }

const char* farm_build_info(void) {
  static const std::string info = describe_build();
  return info.c_str();
}
