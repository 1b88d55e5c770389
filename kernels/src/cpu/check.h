/* Arguments from outside: each mistake gets a status and a sentence with the value and what is allowed. */
#ifndef FARM_CPU_CHECK_H
#define FARM_CPU_CHECK_H

#include <cstddef>

#include "farm_kernels.h"

namespace farm {

/* Both return a farm_status and set the last error. */
int check_problem(const farm_gemm* args);
int check_operands(const farm_gemm& args, size_t workspace_needed);

int fail(int status, const char* format, ...) __attribute__((format(printf, 2, 3)));
void clear_error();
const char* last_error();

}  // namespace farm
#endif
