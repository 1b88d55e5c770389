#include "variants.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "plan.h"
#include "threads.h"
#include "tile.h"

namespace farm {
namespace {

/* Stress: a pause that differs from item to item and from seed to seed (splitmix64). */
void pause(const farm_gemm& args, int item) {
  if (args.pause_us == 0) return;
  uint64_t x = (uint64_t(args.pause_seed) << 32) + uint64_t(item) + 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  std::this_thread::sleep_for(std::chrono::microseconds(x % (uint64_t(args.pause_us) + 1)));
}

using Item = std::function<void(int item, Scratch&)>;

/* Threads take items in order from one queue: who gets which, and who is done first, is a matter of time. */
void run_items(const farm_gemm& args, int threads, int count, const Item& item) {
  std::atomic<int> next{0};
  run_on_threads(std::min(threads, count), [&](int) {
    Scratch& scratch = scratch_of_this_thread();
    for (int i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      pause(args, i);
      item(i, scratch);
    }
  });
}

void run_whole_tile(const farm_gemm& args, const Micro& micro, Tile tile, Scratch& scratch) {
  sum_blocks(args, micro, tile, {0, args.k / kBlock}, scratch, scratch.sums);
  store_tile(args, micro, tile, scratch.sums, kSumStride);
}

void run_persistent(const farm_gemm& args, const Micro& micro, int threads) {
  const Grid grid = grid_for_threads(args.m, args.n, threads);
  run_items(args, threads, grid.count(),
            [&](int item, Scratch& scratch) { run_whole_tile(args, micro, grid.tile(item), scratch); });
}

float* workspace_of(const farm_gemm& args) { return static_cast<float*>(args.workspace); }

/* The order of a tile's partial sums is the order in which its splits are completed. Splits of one tile are neighbours
 * in the queue, so that several threads work on the same tile at once; nothing then decides between them but how long
 * each takes: wake-up of threads, caches, interrupts, other load (StreamK::part keeps them from running in step). The
 * lock keeps this free of data races. With two splits the sum has one order only, and with one thread completion
 * follows the queue. */
void run_streamk(const farm_gemm& args, const Micro& micro, int threads) {
  const StreamK plan = stream_k(args.m, args.n, args.k, args.sm_count);
  struct Progress {
    std::mutex mutex;
    int added = 0;
  };
  const std::unique_ptr<Progress[]> progress(new Progress[size_t(plan.split_tiles())]);

  run_items(args, threads, plan.items(), [&](int item, Scratch& scratch) {
    if (item < plan.whole) return run_whole_tile(args, micro, plan.grid.tile(item), scratch);
    const int index = (item - plan.whole) / plan.splits, split = (item - plan.whole) % plan.splits;
    const Tile tile = plan.grid.tile(plan.whole + index);
    float* total = workspace_of(args) + int64_t(index) * kStreamKTile * kStreamKTile;
    sum_blocks(args, micro, tile, plan.part(split), scratch, scratch.sums);
    bool last;
    {
      const std::lock_guard<std::mutex> lock(progress[size_t(index)].mutex);
      const auto add = progress[size_t(index)].added == 0 ? copy_tile : add_tile;
      add(scratch.sums, kSumStride, tile.rows, tile.cols, total, kStreamKTile);
      last = ++progress[size_t(index)].added == plan.splits;
    }
    if (last) store_tile(args, micro, tile, total, kStreamKTile);
  });
}

/* Partial sums into slots of their own; whoever finishes a tile's last part adds them up in the order of K. */
struct OrderedParts {
  const farm_gemm& args;
  const Micro& micro;
  Grid grid;
  int first_tile, parts;

  void run(int index, int which, Range blocks, std::atomic<int>& finished, Scratch& scratch) const {
    const Tile tile = grid.tile(first_tile + index);
    const int64_t slot = int64_t(grid.tile_rows) * grid.tile_cols;
    float* slots = workspace_of(args) + int64_t(index) * parts * slot;
    sum_blocks(args, micro, tile, blocks, scratch, scratch.sums);
    copy_tile(scratch.sums, kSumStride, tile.rows, tile.cols, slots + which * slot, grid.tile_cols);
    if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 < parts) return;
    for (int other = 1; other < parts; ++other)
      add_tile(slots + other * slot, grid.tile_cols, tile.rows, tile.cols, slots, grid.tile_cols);
    store_tile(args, micro, tile, slots, grid.tile_cols);
  }
};

void run_streamk_ordered(const farm_gemm& args, const Micro& micro, int threads) {
  const StreamK plan = stream_k(args.m, args.n, args.k, args.sm_count);
  const OrderedParts parts{args, micro, plan.grid, plan.whole, plan.splits};
  const std::unique_ptr<std::atomic<int>[]> finished(new std::atomic<int>[size_t(plan.split_tiles())]());
  run_items(args, threads, plan.items(), [&](int item, Scratch& scratch) {
    if (item < plan.whole) return run_whole_tile(args, micro, plan.grid.tile(item), scratch);
    const int index = (item - plan.whole) / plan.splits, split = (item - plan.whole) % plan.splits;
    parts.run(index, split, plan.part(split), finished[size_t(index)], scratch);
  });
}

/* The sum is ((s0 + s1) + s2) + ... over the segments, whether one thread walks them or many share them. */
void run_invariant(const farm_gemm& args, const Micro& micro, int threads) {
  const int segments = invariant_segments(args.n, args.k);
  const Grid finest = finest_grid(args.m, args.n);
  if (finest.count() < threads && invariant_may_split(args.m, segments)) {
    const OrderedParts parts{args, micro, finest, 0, segments};
    const std::unique_ptr<std::atomic<int>[]> finished(new std::atomic<int>[size_t(finest.count())]());
    return run_items(args, threads, finest.count() * segments, [&](int item, Scratch& scratch) {
      const int index = item / segments, segment = item % segments;
      parts.run(index, segment, part(args.k / kBlock, segments, segment), finished[size_t(index)], scratch);
    });
  }
  const Grid grid = grid_for_threads(args.m, args.n, threads);
  run_items(args, threads, grid.count(), [&](int item, Scratch& scratch) {
    const Tile tile = grid.tile(item);
    sum_blocks(args, micro, tile, part(args.k / kBlock, segments, 0), scratch, scratch.totals);
    for (int segment = 1; segment < segments; ++segment) {
      sum_blocks(args, micro, tile, part(args.k / kBlock, segments, segment), scratch, scratch.sums);
      add_tile(scratch.sums, kSumStride, tile.rows, tile.cols, scratch.totals, kSumStride);
    }
    store_tile(args, micro, tile, scratch.totals, kSumStride);
  });
}

}  // namespace

void run_variant(const farm_gemm& args, const Micro& micro) {
  const int threads = args.threads > 0 ? args.threads : allowed_cores();
  const bool streamk = uses_streamk(args.n, args.k);
  if (args.variant == FARM_INVARIANT) return run_invariant(args, micro, threads);
  if (args.variant == FARM_STREAMK && streamk) return run_streamk(args, micro, threads);
  if (args.variant == FARM_STREAMK_ORDERED && streamk) return run_streamk_ordered(args, micro, threads);
  return run_persistent(args, micro, threads);
}

}  // namespace farm
