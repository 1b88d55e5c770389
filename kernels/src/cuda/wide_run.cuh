// Host side of the wide kernels: descriptors, grid, launch.
#pragma once

#include <algorithm>

#include "launch.h"
#include "wide.cuh"

namespace farm {

template <typename Shape>
Launch launch_of(cudaStream_t stream, bool after_kernel) {
  return {dim3(1), Shape::kThreads, Shape::kCluster, Shape::kSmemBytes, stream, after_kernel};
}

template <typename Shape>
int clusters_at_once(const Device &device, int sm_count, int *clusters) {
  const auto kernel = reinterpret_cast<const void *>(&wide_kernel<Shape>);
  return resident_clusters(device, kernel, launch_of<Shape>(nullptr, false), sm_count, clusters);
}

template <typename Shape>
int run_tiles(const Device &device, const Operands &operands, const Problem &p, const Workspace &space, int sm_count,
              bool after_kernel, cudaStream_t stream) {
  CUtensorMap map_a, map_b, map_d{};
  if (const int status = tensor_map(&map_a, operands.a, {Shape::kTileM / Shape::kCluster, kBlockK})) return status;
  if (const int status = tensor_map(&map_b, operands.b, {Shape::kTileN, kBlockK})) return status;
  if (p.out_dtype != FARM_FP32) {
    const Matrix d{p.d, p.m, p.n, p.ldd, 2};
    if (const int status = tensor_map(&map_d, d, {64, Shape::kChunk})) return status;
  }
  Launch config = launch_of<Shape>(stream, after_kernel);
  const auto kernel = reinterpret_cast<const void *>(&wide_kernel<Shape>);
  int clusters = sm_count;  // stream-K: the workspace is laid out for just so many workers
  if constexpr (Shape::kWork != Work::kStreamK) {
    if (const int status = clusters_at_once<Shape>(device, sm_count, &clusters)) return status;
    clusters = std::min(clusters, ceil_div(p.m, Shape::kTileM) * ceil_div(p.n, Shape::kTileN * Shape::kCluster));
  }
  config.grid = dim3(clusters * Shape::kCluster);
  void *args[] = {&map_a, &map_b, &map_d, const_cast<Problem *>(&p), const_cast<Workspace *>(&space)};
  return launch(device, kernel, config, args);
}

}  // namespace farm
