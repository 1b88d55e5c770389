/* One output tile: its running sums over a range of K blocks, and its way into D. */
#ifndef FARM_CPU_TILE_H
#define FARM_CPU_TILE_H

#include <cstdint>
#include <memory>

#include "farm_kernels.h"
#include "micro.h"
#include "plan.h"

namespace farm {

/* 16 floats more than a tile is wide, so that its rows don't all fall into the same sets of the cache. */
constexpr int kSumStride = kMaxTileCols + 16;

/* A thread's own memory, kept between calls. */
struct Scratch {
  char* decoded_a;  /* [kMaxTileRows][kBlock], at most a float each */
  char* decoded_b;  /* [kBlock][one panel] */
  float* sums;      /* [kMaxTileRows][kSumStride] */
  float* totals;    /* [kMaxTileRows][kSumStride] */
};

/* Throws std::bad_alloc. */
Scratch& scratch_of_this_thread();

/* sums (row stride kSumStride) = the K blocks of the range, each scaled and added in order, starting from +0. */
void sum_blocks(const farm_gemm& args, const Micro& micro, Tile tile, Range blocks, Scratch& scratch, float* sums);

/* Element by element, rows x cols. */
void copy_tile(const float* from, int64_t from_stride, int rows, int cols, float* to, int64_t to_stride);
void add_tile(const float* from, int64_t from_stride, int rows, int cols, float* to, int64_t to_stride);

/* Rounds the tile into D. */
void store_tile(const farm_gemm& args, const Micro& micro, Tile tile, const float* from, int64_t stride);

}  // namespace farm
#endif
