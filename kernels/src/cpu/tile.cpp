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
    float* sums = memory + a + b;
    scratch = {reinterpret_cast<char*>(memory), reinterpret_cast<char*>(memory + a), sums, sums + tile};
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

/* A row's codes of one block are two cache lines, and the next row's lie k further on: no hardware prefetcher finds
 * them. They are fetched a few rows with each multiplication (a burst would only wait for free fill buffers) and not
 * long before their use (at a stride of some thousand bytes few of them fit into the second level together). */
void prefetch_rows(const uint8_t* codes, int64_t stride, Range rows) {
  for (int i = rows.first; i < rows.last; ++i) {
    __builtin_prefetch(codes + i * stride, 0, 2);
    __builtin_prefetch(codes + i * stride + kBlock / 2, 0, 2);
  }
}

constexpr int kStripsAhead = 4;

struct Session {
  const Micro& micro;
  explicit Session(const Micro& used) : micro(used) { micro.begin(); }
  ~Session() { micro.end(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
};

}  // namespace

void sum_blocks(const farm_gemm& args, const Micro& micro, Tile tile, Range blocks, Scratch& scratch, float* sums) {
  const auto* a = static_cast<const uint8_t*>(args.a) + tile.row * args.lda;
  const auto* b = static_cast<const uint8_t*>(args.b) + tile.col * args.ldb;
  const Session session(micro);
  const int strips = (tile.rows + micro.rows - 1) / micro.rows, ahead = kStripsAhead * micro.rows;
  for (int i = 0; i < tile.rows; ++i)
    std::memset(sums + i * kSumStride, 0, size_t(tile.cols + micro.cols - 1) / micro.cols * micro.cols * sizeof(float));

  for (int block = blocks.first; block < blocks.last; ++block) {
    const float* scale_a = args.scale_a + block * args.ld_scale_a + tile.row;
    const int64_t here = int64_t(block) * kBlock, next = block + 1 < blocks.last ? here + kBlock : here;
    for (int col = 0; col < tile.cols; col += micro.cols) {
      const bool last_panel = col + micro.cols >= tile.cols;
      const int coming = last_panel ? 0 : col + micro.cols, coming_cols = std::min(micro.cols, tile.cols - coming);
      const int coming_a_time = (coming_cols + strips - 1) / strips;
      const uint8_t* coming_b = b + coming * args.ldb + (last_panel ? next : here);
      const float scale_b = args.scale_b[(tile.col + col) / kBlock * args.ld_scale_b + block];
      micro.pack_b(b + col * args.ldb + here, args.ldb, std::min(micro.cols, tile.cols - col), scratch.decoded_b);
      int fetched = 0;
      for (int row = 0; row < tile.rows; row += micro.rows) {
        const int rows = std::min(micro.rows, tile.rows - row);
        char* decoded_a = scratch.decoded_a + row * kBlock * micro.value_bytes;
        if (col == 0) {
          micro.pack_a(a + row * args.lda + here, args.lda, rows, decoded_a);
          prefetch_rows(a + here, args.lda, {row + ahead, std::min(row + ahead + micro.rows, tile.rows)});
        }
        if (last_panel && row < ahead) prefetch_rows(a + next, args.lda, {row, row + rows});
        const Range columns{fetched, std::min(fetched + coming_a_time, coming_cols)};
        prefetch_rows(coming_b, args.ldb, columns);
        fetched = columns.last;
        micro.multiply(rows, decoded_a, scratch.decoded_b, scale_a + row, scale_b, sums + row * kSumStride + col,
                       kSumStride);
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
