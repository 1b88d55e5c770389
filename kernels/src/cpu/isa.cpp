#include "isa.h"

#include <cstdlib>
#include <vector>

namespace farm {
namespace {

/* Best first. */
std::vector<const Micro*> supported() {
  std::vector<const Micro*> found;
#if FARM_X86
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    found.push_back(&micro_avx512);
  if (avx2) found.push_back(&micro_avx2);
#endif
  found.push_back(&micro_portable);
  return found;
}

Isa choose() {
  const std::vector<const Micro*> found = supported();
  const char* asked = std::getenv("FARM_CPU_ISA");
  if (asked == nullptr || *asked == '\0') return {found.front(), "", "cpuid"};
  std::string allowed;
  for (const Micro* micro : found) {
    if (std::string(asked) == micro->name) return {micro, "", "FARM_CPU_ISA"};
    allowed += (allowed.empty() ? "" : ", ") + std::string(micro->name);
  }
  return {nullptr, "FARM_CPU_ISA is '" + std::string(asked) + "'; this CPU and build allow: " + allowed,
          "FARM_CPU_ISA"};
}

}  // namespace

const Isa& isa() {
  static const Isa chosen = choose();
  return chosen;
}

}  // namespace farm
