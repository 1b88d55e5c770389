#include "wide.cuh"

#include <algorithm>

#include "launch.h"

namespace farm {
namespace {

template <typename Shape>
int run(const Device &device, const Operands &operands, const Problem &p, const Workspace &space, int sm_count,
        bool after_kernel, cudaStream_t stream) {
  CUtensorMap map_a, map_b;
  if (const int status = tensor_map(&map_a, operands.a, kTileM / Shape::kClusterN)) return status;
  if (const int status = tensor_map(&map_b, operands.b, kTileN / Shape::kClusterM)) return status;
  constexpr int kSize = Shape::kClusterM * Shape::kClusterN;
  Launch config{dim3(1), kWideThreads, kSize, Shape::kSmemBytes, stream, after_kernel};
  const auto kernel = reinterpret_cast<const void *>(&wide_kernel<Shape>);
  int clusters = sm_count;  // stream-K: the workspace is laid out for just so many workers
  if constexpr (Shape::kWork != Work::kStreamK) {
    if (const int status = resident_clusters(device, kernel, config, sm_count, &clusters)) return status;
    clusters = std::min(clusters, Schedule<Shape>::ceil_div(p.m, kTileM * Shape::kClusterM) *
                                      Schedule<Shape>::ceil_div(p.n, kTileN * Shape::kClusterN));
  }
  config.grid = dim3(clusters * kSize);
  void *args[] = {&map_a, &map_b, const_cast<Problem *>(&p), const_cast<Workspace *>(&space)};
  return launch(device, kernel, config, args);
}

Workspace split(const Problem &p, int workers) {
  const int tiles = (p.m + kTileM - 1) / kTileM * ((p.n + kTileN - 1) / kTileN);
  const int waves = tiles / workers, rest = tiles % workers;
  // A remainder is split together with the last full wave, so that no worker ends up with a sliver.
  const int whole = rest == 0 ? tiles : std::max(0, waves - 1) * workers;
  return {nullptr, whole, tiles - whole, false, nullptr};
}

size_t partials_bytes(const Workspace &s, bool ordered, int workers) {
  if (s.split_tiles == 0) return 0;
  return (ordered ? size_t(workers) * 2 : size_t(s.split_tiles)) * kPartialFloats * sizeof(float);
}

// No more workers than K blocks: one with nothing to do would be waited for.
int useful_workers(const Problem &p, int workers) {
  const int64_t tiles = int64_t((p.m + kTileM - 1) / kTileM) * ((p.n + kTileN - 1) / kTileN);
  return static_cast<int>(std::min<int64_t>(workers, tiles * p.k_blocks));
}

}  // namespace

int run_wide(const Device &device, const Operands &operands, const Problem &p, int sm_count, cudaStream_t stream) {
  if (p.segments > 1) return run<WideShape<2, 1, Work::kSegments>>(device, operands, p, {}, sm_count, true, stream);
  return run<WideShape<2, 1, Work::kWhole>>(device, operands, p, {}, sm_count, true, stream);
}

size_t streamk_workspace(const Problem &p, bool ordered, int workers) {
  workers = useful_workers(p, workers);
  const Workspace s = split(p, workers);
  return partials_bytes(s, ordered, workers) + s.split_tiles * sizeof(int);
}

int run_streamk(const Device &device, const Operands &operands, const Problem &p, bool ordered, int workers,
                const Memory &workspace, cudaStream_t stream) {
  workers = useful_workers(p, workers);
  Workspace s = split(p, workers);
  const size_t partials = partials_bytes(s, ordered, workers), arrivals = s.split_tiles * sizeof(int);
  s.ordered = ordered;
  s.sums = static_cast<float *>(workspace.data);
  s.arrivals = reinterpret_cast<int *>(static_cast<char *>(workspace.data) + partials);
  if (s.split_tiles > 0) {
    // Unordered sums start from zero; ordered ones are stored, so only the counters need clearing.
    const cudaError_t error = ordered ? cudaMemsetAsync(s.arrivals, 0, arrivals, stream)
                                      : cudaMemsetAsync(s.sums, 0, partials + arrivals, stream);
    if (error != cudaSuccess) return fail(FARM_LAUNCH_FAILED, cudaGetErrorString(error));
  }
  return run<WideShape<1, 1, Work::kStreamK>>(device, operands, p, s, workers, false, stream);
}

}  // namespace farm
