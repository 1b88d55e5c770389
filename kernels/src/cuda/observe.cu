// Digests of results at memory speed, the first sample that differs, and a load that takes SMs away.
#include "farm_observe.h"

#include <algorithm>
#include <string>

#include "../row_digest.h"
#include "launch.h"

namespace farm {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 4;  // 16-byte loads in flight per thread
constexpr int64_t kChunk = int64_t{kThreads} * kLoads * 16;
constexpr int kWaves = 8;  // blocks per SM

// 16 bytes of a row, from any address; behind its end there is nothing to add.
template <bool kAligned>
__device__ __forceinline__ ulonglong2 load(const char *start, int64_t byte, int64_t row_bytes) {
  if (kAligned && byte + 16 <= row_bytes) return __ldcs(reinterpret_cast<const ulonglong2 *>(start + byte));
  ulonglong2 words = {0, 0};
  if (byte < row_bytes) words.x = word_at(start + byte, row_bytes - byte);
  if (byte + 8 < row_bytes) words.y = word_at(start + byte + 8, row_bytes - byte - 8);
  return words;
}

__device__ void add_block(Digest mine, unsigned long long *sum) {
  for (int lanes = 16; lanes; lanes /= 2) {
    mine.low += __shfl_xor_sync(0xffffffffu, mine.low, lanes);
    mine.high += __shfl_xor_sync(0xffffffffu, mine.high, lanes);
  }
  __shared__ uint64_t low[kThreads / 32], high[kThreads / 32];
  __syncthreads();  // a block may come here once for each of several rows
  if (threadIdx.x % 32 == 0) {
    low[threadIdx.x / 32] = mine.low;
    high[threadIdx.x / 32] = mine.high;
  }
  __syncthreads();
  if (threadIdx.x < 2) {
    const uint64_t *parts = threadIdx.x ? high : low;
    uint64_t total = 0;
    for (int warp = 0; warp < kThreads / 32; ++warp) total += parts[warp];
    atomicAdd(sum + threadIdx.x, static_cast<unsigned long long>(total));
  }
}

// blockIdx.y strides over rows, blockIdx.x over chunks of a row. kAligned: every row starts at a multiple of 16.
template <bool kAligned>
__global__ void __launch_bounds__(kThreads) digest_rows(const char *data, int64_t rows, int64_t row_bytes,
                                                        int64_t row_stride, unsigned long long *digests) {
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const char *start = data + row * row_stride;
    Digest mine;
    for (int64_t chunk = blockIdx.x * kChunk; chunk < row_bytes; chunk += gridDim.x * kChunk) {
      const int64_t first = chunk + int64_t{threadIdx.x} * 16;
      ulonglong2 words[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i)
        words[i] = load<kAligned>(start, first + int64_t{i} * kThreads * 16, row_bytes);
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int64_t byte = first + int64_t{i} * kThreads * 16;
        if (byte < row_bytes) mine.add(words[i].x, static_cast<uint64_t>(byte) / 8);
        if (byte + 8 < row_bytes) mine.add(words[i].y, static_cast<uint64_t>(byte) / 8 + 1);
      }
    }
    add_block(mine, digests + 2 * row);
  }
}

__global__ void __launch_bounds__(kThreads)
    keep_if_different(const uint64_t *digest, const uint64_t *reference, const uint64_t *data, int64_t words,
                      uint64_t *kept, volatile int32_t *kept_trial, int32_t trial) {
  if (digest[0] == reference[0] && digest[1] == reference[1]) return;
  // Every block of this launch writes the same trial, so one that comes late still takes part.
  if (*kept_trial != 0 && *kept_trial != trial) return;
  if (threadIdx.x == 0) *kept_trial = trial;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < words; i += int64_t{gridDim.x} * kThreads)
    kept[i] = data[i];
}

__global__ void occupy(int64_t nanoseconds) {
  uint64_t begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    __nanosleep(1000);
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (static_cast<int64_t>(now - begin) < nanoseconds);
}

int launched(const char *what) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return FARM_OK;
  return fail(FARM_LAUNCH_FAILED, std::string(what) + ": " + cudaGetErrorString(error));
}

}  // namespace
}  // namespace farm

using namespace farm;

extern "C" int farm_digest_rows(const void *data, int64_t rows, int64_t row_bytes, int64_t row_stride, void *digests,
                                void *stream) {
  if (!data || !digests) return fail(FARM_INVALID_ARGUMENT, "a pointer is NULL");
  if (rows < 1 || row_bytes < 1 || row_stride < row_bytes)
    return fail(FARM_INVALID_ARGUMENT, "rows is " + std::to_string(rows) + " and row_bytes " +
                                           std::to_string(row_bytes) + " (allowed: 1 or more), row_stride " +
                                           std::to_string(row_stride) + " (at least row_bytes)");
  Device device;
  if (const int status = current_device(&device)) return status;
  const int64_t chunks = (row_bytes + kChunk - 1) / kChunk;
  const int64_t most = int64_t{device.sm_count} * kWaves;
  const dim3 grid(static_cast<unsigned>(std::min(chunks, std::max<int64_t>(1, most / rows))),
                  static_cast<unsigned>(std::min(rows, most)));
  const bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0 && (row_stride % 16 == 0 || rows == 1);
  (aligned ? digest_rows<true> : digest_rows<false>)<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const char *>(data), rows, row_bytes, row_stride, static_cast<unsigned long long *>(digests));
  return launched("farm_digest_rows");
}

extern "C" int farm_keep_if_different(const void *digest, const void *reference, const void *data, int64_t bytes,
                                      void *kept, int32_t *kept_trial, int32_t trial, void *stream) {
  if (!digest || !reference || !data || !kept || !kept_trial) return fail(FARM_INVALID_ARGUMENT, "a pointer is NULL");
  if (bytes < 8 || bytes % 8 || trial < 1)
    return fail(FARM_INVALID_ARGUMENT, "bytes is " + std::to_string(bytes) + " (allowed: multiples of 8), trial " +
                                           std::to_string(trial) + " (1 or more)");
  constexpr int kBlocks = 64;  // nearly always it returns at once, so the launch is kept small
  keep_if_different<<<kBlocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const uint64_t *>(digest), static_cast<const uint64_t *>(reference),
      static_cast<const uint64_t *>(data), bytes / 8, static_cast<uint64_t *>(kept), kept_trial, trial);
  return launched("farm_keep_if_different");
}

extern "C" int farm_occupy(int32_t sms, int32_t microseconds, void *stream) {
  Device device;
  if (const int status = current_device(&device)) return status;
  if (sms < 1 || sms >= device.sm_count || microseconds < 1 || microseconds > 1000000)
    return fail(FARM_INVALID_ARGUMENT, "sms is " + std::to_string(sms) + " (allowed: 1 to " +
                                           std::to_string(device.sm_count - 1) + "), microseconds " +
                                           std::to_string(microseconds) + " (1 to 1000000)");
  int most = 0;
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device.id);
  cudaFuncSetAttribute(occupy, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  occupy<<<sms, 1, most, static_cast<cudaStream_t>(stream)>>>(int64_t{microseconds} * 1000);
  return launched("farm_occupy");
}
