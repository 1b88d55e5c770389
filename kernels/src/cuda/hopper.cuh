// Hopper's primitives as thin inline functions: mbarriers, TMA, clusters, wgmma. Nothing here knows about GEMM.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace farm {

__device__ __forceinline__ uint32_t smem_address(const void *p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// ---- mbarriers -----------------------------------------------------------------------------------------------------

__device__ __forceinline__ void barrier_init(uint32_t bar, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine and to the other CTAs of the cluster.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_expect(uint32_t bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

// Arrives on the same barrier of CTA `rank` of the cluster. What it says is that this thread's reads are done, so the
// default scope serves: .release.cluster would flush all of the thread's writes to L2 first, in every block of K.
__device__ __forceinline__ void barrier_arrive(uint32_t bar, uint32_t rank) {
  asm volatile(
      "{\n .reg .b32 remote;\n mapa.shared::cluster.u32 remote, %0, %1;\n"
      " mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(bar),
      "r"(rank)
      : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

// The hardware is content if one lane arrives for its warp, after __syncwarp. racecheck believes only in threads that
// arrive themselves, so the build that it looks at lets all of them.
#ifdef FARM_EVERY_LANE_ARRIVES
constexpr int kArrivingLanes = 32;
#else
constexpr int kArrivingLanes = 1;
#endif

// All lanes of a warp have done what the barrier is about.
__device__ __forceinline__ void warp_arrive(uint32_t bar, int lane) {
  __syncwarp();
  if (lane < kArrivingLanes) barrier_arrive(bar);
}

// The same for the barriers of all `ranks` CTAs of the cluster.
__device__ __forceinline__ void warp_arrive_everywhere(uint32_t bar, int lane, int ranks) {
  __syncwarp();
  if constexpr (kArrivingLanes == 1) {
    if (lane < ranks) barrier_arrive(bar, lane);
  } else {
    for (int rank = 0; rank < ranks; ++rank) barrier_arrive(bar, rank);
  }
}

__device__ __forceinline__ void barrier_wait(uint32_t bar, uint32_t parity) {
  asm volatile(
      "{\n .reg .pred done;\n"
      "again:\n mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      " @done bra finished;\n bra again;\n"
      "finished:\n}" ::"r"(bar),
      "r"(parity)
      : "memory");
}

// ---- copies --------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void prefetch_map(const CUtensorMap *map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void tma_load(uint32_t dst, const CUtensorMap *map, uint32_t bar, int x, int y,
                                         uint64_t hint) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(dst),
      "l"(map), "r"(bar), "r"(x), "r"(y), "l"(hint)
      : "memory");
}

// The same box into the same place of every CTA in `mask`, each of which sees the bytes on its own barrier.
__device__ __forceinline__ void tma_multicast(uint32_t dst, const CUtensorMap *map, uint32_t bar, int x, int y,
                                              uint16_t mask, uint64_t hint) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
      ".L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(dst),
      "l"(map), "r"(bar), "r"(x), "r"(y), "h"(mask), "l"(hint)
      : "memory");
}

// `bytes` in a row, from and to multiples of 16.
__device__ __forceinline__ void bulk_load(uint32_t dst, const void *src, int bytes, uint32_t bar) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(dst),
               "l"(src), "r"(bytes), "r"(bar)
               : "memory");
}

// A box from shared memory, less what lies outside of the matrix. A thread's boxes form groups: one for each commit.
__device__ __forceinline__ void tma_store(const CUtensorMap *map, uint32_t src, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(src),
               "r"(x), "r"(y)
               : "memory");
}

__device__ __forceinline__ void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until this thread's boxes have been read, and until they have been written.
__device__ __forceinline__ void tma_store_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ __forceinline__ void tma_store_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
// The copy engine sees shared memory as this thread has written it, from here on.
__device__ __forceinline__ void let_tma_see_writes() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// L2 policies of the copy engine, as CUTLASS encodes them.
constexpr uint64_t kEvictNormal = 0x1000000000000000ull;
constexpr uint64_t kEvictFirst = 0x12F0000000000000ull;
constexpr uint64_t kEvictLast = 0x14F0000000000000ull;

__device__ __forceinline__ void store_shared(uint32_t address, float v) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(v) : "memory");
}

__device__ __forceinline__ void store_shared_quad(uint32_t address, const float *v) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3])
               : "memory");
}

__device__ __forceinline__ void load_shared_quad(float *v, uint32_t address) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ float load_shared(uint32_t address) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(address) : "memory");
  return v;
}

__device__ __forceinline__ float2 load_shared_pair(uint32_t address) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address) : "memory");
  return v;
}

// Four 8x8 matrices of 16-bit elements as wgmma leaves them: lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void store_matrices(uint32_t address, const uint32_t (&x)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(x[0]), "r"(x[1]),
               "r"(x[2]), "r"(x[3])
               : "memory");
}

// ---- clusters and dependent launches -------------------------------------------------------------------------------

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of the cluster meet, and that is all: nothing is flushed.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_meet() {
  cluster_arrive();
  cluster_wait();
}

// A value that all threads of a warp have, as one that the compiler knows to be so and does not compute anew each time.
__device__ __forceinline__ int uniform(int value) { return __shfl_sync(0xFFFFFFFF, value, 0); }

// Writes to the same place in CTA `rank` of the cluster, whose barrier `bar` sees the 16 bytes arrive.
__device__ __forceinline__ void send_to_rank(uint32_t address, uint32_t bar, uint32_t rank, const float *v) {
  asm volatile(
      "{\n .reg .b32 remote, remote_bar;\n mapa.shared::cluster.u32 remote, %0, %2;\n"
      " mapa.shared::cluster.u32 remote_bar, %1, %2;\n"
      " st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [remote], {%3, %4, %5, %6}, [remote_bar];\n}"
      :
      : "r"(address), "r"(bar), "r"(rank), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3])
      : "memory");
}

// Waits until the kernels before this one on the stream have finished and their writes are visible.
__device__ __forceinline__ void wait_for_previous_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

__device__ __forceinline__ void let_next_kernel_start() { asm volatile("griddepcontrol.launch_dependents;" :::); }

// ---- warpgroups ----------------------------------------------------------------------------------------------------

__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

template <int kRegisters>
__device__ __forceinline__ void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// A K-major operand with 128-byte rows under the 128-byte swizzle: eight rows make an atom of 1024 bytes.
__device__ __forceinline__ uint64_t operand(uint32_t address) {
  return (uint64_t(1) << 62) | (uint64_t(1024 >> 4) << 32) | (uint64_t(1) << 16) | ((address & 0x3FFFF) >> 4);
}

__device__ __forceinline__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most kPending committed groups are still at work.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Accumulators of a batch: of kBlocks products, N floats of this thread for each.
template <int kBlocks, int N>
using Accumulators = float[kBlocks][N];

// Keeps the compiler from using d before this point: that a wait makes it valid is nothing that it can see.
template <int kBlocks, int N>
__device__ __forceinline__ void pin(Accumulators<kBlocks, N> &d) {
#pragma unroll
  for (int u = 0; u < kBlocks; ++u)
#pragma unroll
    for (int j = 0; j < N; ++j) asm volatile("" : "+f"(d[u][j])::"memory");
}

// Runs batches of wgmma, at least one, with two sets of accumulators in turns, so that the tensor cores are at work on a
// batch while finish() uses the results of the one before. start(d) issues and commits a batch, finish(d) takes its
// results. The straight form matters: where ptxas can't follow which set is in flight, it makes every wgmma wait.
template <int kBlocks, int N, typename Start, typename Finish>
__device__ __forceinline__ void alternate(int batches, Start start, Finish finish) {
  Accumulators<kBlocks, N> even, odd;
  const auto take_even = [&] {
    start(odd);
    wgmma_wait<1>();
    pin(even);
    finish(even);
  };
  const auto take_odd = [&] {
    start(even);
    wgmma_wait<1>();
    pin(odd);
    finish(odd);
  };
  start(even);
  int left = batches;
  for (; left > 2; left -= 2) {
    take_even();
    take_odd();
  }
  if (left == 2) {
    take_even();
    wgmma_wait<0>();
    pin(odd);
    finish(odd);
  } else {
    wgmma_wait<0>();
    pin(even);
    finish(even);
  }
}

}  // namespace farm
