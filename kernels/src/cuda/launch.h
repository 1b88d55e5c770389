// Host side shared by the executors: errors, TMA descriptors, launches.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <string>

#include "problem.cuh"

namespace farm {

// Remembers what went wrong for farm_last_error() and returns `status`.
int fail(int status, const std::string &what);

// A row-major matrix in global memory.
struct Matrix {
  const void *data;
  int rows, columns;
  int64_t ld;
  int element_bytes = 1;
};

struct Device {
  int id, sm_count;
};
int current_device(Device *device);

struct Box {
  int rows, columns;
};
// Descriptor that copies boxes whose rows are 32, 64 or 128 bytes and swizzled over as many; those of recent matrices
// are kept.
int tensor_map(CUtensorMap *map, const Matrix &matrix, const Box &box);

struct Launch {
  dim3 grid;
  int threads, cluster, smem_bytes;
  cudaStream_t stream;
  bool after_kernel;  // may begin before the previous kernel has ended: its producers wait by themselves
};
int launch(const Device &device, const void *kernel, const Launch &config, void **args);

// Clusters of this kernel that fit on the device at once, at most sm_count CTAs; remembered per kernel and device.
int resident_clusters(const Device &device, const void *kernel, const Launch &config, int sm_count, int *clusters);

struct Operands {
  Matrix a, b;
};

// Swapped operands: tiles of 64 rows of weights by 8, 16 or 32 tokens, as `run` has them. K is shared out to `ranks`
// CTAs, of which all but the first keep `kept` blocks. Should take `ns`.
struct SkinnyPlan {
  int ranks, kept;
  float ns;
  int (*run)(const Device &device, const Operands &operands, const Problem &p, const SkinnyPlan &plan, int sm_count,
             cudaStream_t stream);
};
SkinnyPlan plan_skinny(const Problem &p, int sm_count);

// Swapped operands for the tokens of several experts: `count` tiles of at most `tokens` (8, 16, 32, 64 or 128) each.
// operands.b has the experts' weights one below the other.
int run_skinny_groups(const Device &device, const Operands &operands, const Problem &p, const Groups &groups,
                      int count, int tokens, cudaStream_t stream);

// Tokens as the tensor core's tall operand, by tiles of the size that should take the least time, which is wide_ns().
float wide_ns(const Device &device, const Problem &p, int sm_count);
int run_wide(const Device &device, const Operands &operands, const Problem &p, int sm_count, cudaStream_t stream);

// Likewise by tiles of 128 x 128, always.
int run_persistent(const Device &device, const Operands &operands, const Problem &p, int sm_count, cudaStream_t stream);

// The control: K blocks dealt evenly to the workers, partial tiles added as they come or in order.
size_t streamk_workspace(const Problem &p, bool ordered, int workers);
int run_streamk(const Device &device, const Operands &operands, const Problem &p, bool ordered, int workers,
                void *workspace, cudaStream_t stream);

}  // namespace farm
