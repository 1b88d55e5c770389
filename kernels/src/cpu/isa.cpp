#include "isa.h"

#include <cstdlib>
#include <vector>

#if FARM_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace farm {
namespace {

#if FARM_AMX
/* Tile registers are state that Linux saves only for processes that asked for it. It refuses where a thread's alternate
 * signal stack is too small for them. */
bool amx_allowed() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

/* Best first. */
std::vector<const Micro*> supported() {
  std::vector<const Micro*> found;
#if FARM_X86
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl");
#if FARM_AMX
  if (avx512 && __builtin_cpu_supports("avx512vbmi") && amx_allowed()) found.push_back(&micro_amx);
#endif
  if (avx512) found.push_back(&micro_avx512);
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
