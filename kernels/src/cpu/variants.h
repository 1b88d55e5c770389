/* The four kernels. Arguments have been checked; they throw std::bad_alloc and std::system_error. */
#ifndef FARM_CPU_VARIANTS_H
#define FARM_CPU_VARIANTS_H

#include "farm_kernels.h"
#include "micro.h"

namespace farm {

void run_variant(const farm_gemm& args, const Micro& micro);

}  // namespace farm
#endif
