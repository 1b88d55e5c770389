#include "tile.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace farm {
namespace {

constexpr size_t kAlignment = 64;

struct Owner {
  float* memory = nullptr;
  Scratch scratch{};

  Owner() {
    const size_t a = size_t(kMaxTileRows) * kBlock, b = size_t(kBlock) * kMaxPanel;
    const size_t tile = size_t(kMaxTileRows) * kSumStride;
    memory = static_cast<float*>(std::aligned_alloc(kAlignment, (a + b + 2 * tile) * sizeof(float)));
    if (memory == nullptr) throw std::bad_alloc();
    scratch = {memory, memory + a, memory + a + b, memory + a + b + tile};
  }
  ~Owner() { std::free(memory); }
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;
};

}  // namespace

Scratch& scratch_of_this_thread() {
  thread_local Owner owner;
  return owner.scratch;
}

namespace {

/* A row's codes of one block are two cache lines, and the next block's are k further on for every row: no hardware
 * prefetcher finds them. They are fetched into the second level while the arithmetic of the present block runs, a few
 * rows with each multiplication, because a burst of them would only wait for free fill buffers. */
void prefetch_rows(const uint8_t* codes, int64_t stride, Range rows) {
  for (int i = rows.first; i < rows.last; ++i) {
    __builtin_prefetch(codes + i * stride, 0, 2);
    __builtin_prefetch(codes + i * stride + kBlock / 2, 0, 2);
  }
}

}  // namespace

void sum_blocks(const farm_gemm& args, const Micro& micro, Tile tile, Range blocks, Scratch& scratch, float* sums) {
  const auto* a = static_cast<const uint8_t*>(args.a) + tile.row * args.lda;
  const auto* b = static_cast<const uint8_t*>(args.b) + tile.col * args.ldb;
  const int panels = (tile.cols + micro.cols - 1) / micro.cols, strips = (tile.rows + micro.rows - 1) / micro.rows;
  for (int i = 0; i < tile.rows; ++i)
    std::memset(sums + i * kSumStride, 0, size_t(panels * micro.cols) * sizeof(float));

  for (int block = blocks.first; block < blocks.last; ++block) {
    const float* scale_a = args.scale_a + block * args.ld_scale_a + tile.row;
    const int64_t at = int64_t(block) * kBlock, next = block + 1 < blocks.last ? at + kBlock : at;
    micro.pack_a(a + at, args.lda, tile.rows, scratch.decoded_a);
    for (int panel = 0, j = 0; panel < panels; ++panel, j += micro.cols) {
      const int cols = std::min(micro.cols, tile.cols - j);
      const float scale_b = args.scale_b[(tile.col + j) / kBlock * args.ld_scale_b + block];
      micro.pack_b(b + j * args.ldb + at, args.ldb, cols, scratch.decoded_b);
      for (int strip = 0, i = 0; strip < strips; ++strip, i += micro.rows) {
        prefetch_rows(b + j * args.ldb + next, args.ldb, part(cols, strips, strip));
        prefetch_rows(a + next, args.lda, part(tile.rows, strips * panels, panel * strips + strip));
        micro.multiply(std::min(micro.rows, tile.rows - i), scratch.decoded_a + i * kBlock, scratch.decoded_b,
                       scale_a + i, scale_b, sums + i * kSumStride + j, kSumStride);
      }
    }
  }
}

void copy_tile(const float* from, int64_t from_stride, int rows, int cols, float* to, int64_t to_stride) {
  for (int i = 0; i < rows; ++i) std::memcpy(to + i * to_stride, from + i * from_stride, size_t(cols) * sizeof(float));
}

void add_tile(const float* from, int64_t from_stride, int rows, int cols, float* to, int64_t to_stride) {
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < cols; ++j) to[i * to_stride + j] += from[i * from_stride + j];
}

void store_tile(const farm_gemm& args, const Micro& micro, Tile tile, const float* from, int64_t stride) {
  const int64_t size = args.out_dtype == FARM_FP32 ? 4 : 2;
  for (int i = 0; i < tile.rows; ++i) {
    char* to = static_cast<char*>(args.d) + ((tile.row + i) * args.ldd + tile.col) * size;
    micro.store(from + i * stride, tile.cols, args.out_dtype, to);
  }
}

}  // namespace farm
