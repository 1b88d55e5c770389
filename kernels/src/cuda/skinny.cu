#include "skinny.cuh"

#include <algorithm>

#include "launch.h"

namespace farm {
namespace {

// Deep enough that an SM always has enough bytes on their way, small enough that all CTAs are resident at once and,
// where K is short, that the next kernel's CTAs find room beside ours to start on their weights.
template <typename Shape>
int ring_stages(const Device &device, const Problem &p, int ctas) {
  constexpr int kSmem = 226 * 1024, kLongK = 32, kFewest = 4;
  const int blocks = (p.k_blocks + p.segments - 1) / p.segments;
  const int wanted = blocks >= kLongK ? 1 : 2;
  const int per_sm = std::clamp((ctas + device.sm_count - 1) / device.sm_count, wanted, 4);
  int stages = std::min(blocks, kSmem / per_sm / (Shape::kStageBytes + Shape::kScaleFloats * 4 + 16));
  stages = std::max(stages, std::min(blocks, kFewest));
  while (stages > 1 && Shape::smem_bytes(stages) > kSmem / std::min(per_sm, 2)) --stages;
  return stages;
}

template <int kTokens>
int run(const Device &device, const Operands &operands, const Problem &p, int share, int sm_count,
        cudaStream_t stream) {
  using Shape = SkinnyShape<kTokens>;
  CUtensorMap map_weights, map_tokens;
  if (const int status = tensor_map(&map_weights, operands.b, Shape::kRows)) return status;
  if (const int status = tensor_map(&map_tokens, operands.a, kTokens / share)) return status;
  const int tiles = (p.n + Shape::kRows - 1) / Shape::kRows, clusters = (tiles + share - 1) / share, size = share * p.segments;
  const int token_tiles = (p.m + kTokens - 1) / kTokens;
  int stages = ring_stages<Shape>(device, p, clusters * size * token_tiles);
  const bool limited = sm_count < device.sm_count;  // then at most sm_count CTAs a launch
  const int columns = limited ? 1 : token_tiles;
  const int at_once = limited ? std::max(1, sm_count / size) : clusters;
  Problem part = p;
  const auto element = p.out_dtype == FARM_FP32 ? 4 : 2;
  for (int column = 0; column < token_tiles; column += columns) {
    if (limited) {
      const int first = column * kTokens;
      part.m = std::min(kTokens, p.m - first);
      part.scale_a = p.scale_a + first;
      part.d = static_cast<char *>(p.d) + first * p.ldd * element;
      const Matrix &a = operands.a;
      if (const int status = tensor_map(
              &map_tokens, {static_cast<const char *>(a.data) + first * a.ld, part.m, a.columns, a.ld}, kTokens / share))
        return status;
    }
    for (int first = 0; first < clusters; first += at_once) {
      const Launch config{dim3(std::min(at_once, clusters - first) * size, columns), Shape::kThreads, size,
                          Shape::smem_bytes(stages), stream, true};
      void *args[] = {&map_weights, &map_tokens, &part, &first, &stages, &share};
      const auto kernel = reinterpret_cast<const void *>(&skinny_kernel<kTokens>);
      if (const int status = launch(device, kernel, config, args)) return status;
    }
  }
  return FARM_OK;
}

}  // namespace

int run_skinny(const Device &device, const Operands &operands, const Problem &p, const SkinnyPlan &plan, int sm_count,
               cudaStream_t stream) {
  switch (plan.tokens) {
    case 8: return run<8>(device, operands, p, plan.share, sm_count, stream);
    case 16: return run<16>(device, operands, p, plan.share, sm_count, stream);
    case 32: return run<32>(device, operands, p, plan.share, sm_count, stream);
    case 64: return run<64>(device, operands, p, plan.share, sm_count, stream);
    default: return run<128>(device, operands, p, plan.share, sm_count, stream);
  }
}

}  // namespace farm
