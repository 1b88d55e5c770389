// Tiles that sum K as its canonical segments.
#include "wide_run.cuh"

namespace farm {

template <int kGroups, int kTileN>
int run_wide_segments(const Device &device, const Operands &operands, const Problem &p, int sm_count,
                      cudaStream_t stream) {
  return run_tiles<WideShape<Work::kSegments, kGroups, 1, kTileN>>(device, operands, p, {}, sm_count, true, stream);
}

template decltype(run_wide_segments<1, 48>) run_wide_segments<1, 48>;
template decltype(run_wide_segments<1, 96>) run_wide_segments<1, 96>;
template decltype(run_wide_segments<2, 64>) run_wide_segments<2, 64>;
template decltype(run_wide_segments<2, 96>) run_wide_segments<2, 96>;
template decltype(run_wide_segments<2, 128>) run_wide_segments<2, 128>;
template decltype(run_wide_segments<2, 144>) run_wide_segments<2, 144>;

}  // namespace farm
