/* Which instruction set the library uses: the best that the CPU has and its kernel lets us use, or the one named by
 * FARM_CPU_ISA. */
#ifndef FARM_CPU_ISA_H
#define FARM_CPU_ISA_H

#include <string>

#include "micro.h"

namespace farm {

struct Isa {
  const Micro* micro;     /* null where FARM_CPU_ISA asks for what this build or CPU lacks */
  std::string error;      /* then: what was asked and what is allowed */
  std::string chosen_by;  /* "cpuid" or "FARM_CPU_ISA" */
};

/* Read once per process, so that the bits of streamk's peers can't change in the middle of a run. */
const Isa& isa();

}  // namespace farm
#endif
