// The control: StreamK as CUTLASS does it, with reductions in the order of completion or of the workers.
#include "wide_run.cuh"

namespace farm {
namespace {

using StreamK = WideShape<Work::kStreamK, 2, 1, 128>;

Workspace split(const Problem &p, int workers) {
  const int tiles = ceil_div(p.m, StreamK::kTileM) * ceil_div(p.n, StreamK::kTileN);
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
  const int64_t tiles = int64_t{ceil_div(p.m, StreamK::kTileM)} * ceil_div(p.n, StreamK::kTileN);
  return static_cast<int>(std::min<int64_t>(workers, tiles * p.k_blocks));
}

}  // namespace

size_t streamk_workspace(const Problem &p, bool ordered, int workers) {
  workers = useful_workers(p, workers);
  const Workspace s = split(p, workers);
  return partials_bytes(s, ordered, workers) + s.split_tiles * sizeof(int);
}

int run_streamk(const Device &device, const Operands &operands, const Problem &p, bool ordered, int workers,
                void *workspace, cudaStream_t stream) {
  workers = useful_workers(p, workers);
  Workspace s = split(p, workers);
  const size_t partials = partials_bytes(s, ordered, workers), arrivals = s.split_tiles * sizeof(int);
  s.ordered = ordered;
  s.sums = static_cast<float *>(workspace);
  s.arrivals = reinterpret_cast<int *>(static_cast<char *>(workspace) + partials);
  if (s.split_tiles > 0) {
    // Unordered sums start from zero; ordered ones are stored, so only the counters need clearing.
    const cudaError_t error = ordered ? cudaMemsetAsync(s.arrivals, 0, arrivals, stream)
                                      : cudaMemsetAsync(s.sums, 0, partials + arrivals, stream);
    if (error != cudaSuccess) return fail(FARM_LAUNCH_FAILED, cudaGetErrorString(error));
  }
  return run_tiles<StreamK>(device, operands, p, s, workers, false, stream);
}

}  // namespace farm
