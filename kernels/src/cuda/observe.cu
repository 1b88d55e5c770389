// Digests of results at memory speed, the first sample that differs, and a load that takes SMs away.
#include "farm_observe.h"

#include <algorithm>
#include <string>

#include "launch.h"

namespace farm {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 4;  // 16-byte loads in flight per thread
constexpr int64_t kChunk = int64_t{kThreads} * kLoads * 16;
constexpr int kWaves = 8;  // blocks per SM

__device__ __forceinline__ uint64_t mix(uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  return x ^ (x >> 32);
}

struct Digest {
  uint64_t low = 0, high = 0;

  // `place` counts 8-byte words from the start of the row. The step makes equal words at different places differ, and
  // `mix` is one to one, so a single changed word always changes `low`; `high` is another function of the same word.
  __device__ __forceinline__ void add(uint64_t word, uint64_t place) {
    const uint64_t x = mix(word + (place + 1) * 0x9e3779b97f4a7c15ull);
    low += x;
    high += (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9ull;
  }

  __device__ __forceinline__ void add(const ulonglong2 &words, int64_t byte) {
    add(words.x, static_cast<uint64_t>(byte) / 8);
    add(words.y, static_cast<uint64_t>(byte) / 8 + 1);
  }
};

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

// blockIdx.y strides over rows, blockIdx.x over chunks of a row.
__global__ void __launch_bounds__(kThreads) digest_rows(const char *data, int64_t rows, int64_t row_bytes,
                                                        int64_t row_stride, unsigned long long *digests) {
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const char *start = data + row * row_stride;
    Digest mine;
    for (int64_t chunk = blockIdx.x * kChunk; chunk < row_bytes; chunk += gridDim.x * kChunk) {
      const int64_t first = chunk + int64_t{threadIdx.x} * 16;
      ulonglong2 words[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int64_t byte = first + int64_t{i} * kThreads * 16;
        if (byte + 16 <= row_bytes) words[i] = __ldcs(reinterpret_cast<const ulonglong2 *>(start + byte));
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int64_t byte = first + int64_t{i} * kThreads * 16;
        if (byte + 16 <= row_bytes)
          mine.add(words[i], byte);
        else if (byte < row_bytes)
          mine.add(*reinterpret_cast<const uint64_t *>(start + byte), static_cast<uint64_t>(byte) / 8);
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
  if (rows < 1 || row_bytes < 8 || row_bytes % 8 || row_stride < row_bytes || row_stride % 16 ||
      reinterpret_cast<uintptr_t>(data) % 16)
    return fail(FARM_INVALID_ARGUMENT,
                "rows is " + std::to_string(rows) + " (allowed: 1 or more), row_bytes " + std::to_string(row_bytes) +
                    " (multiples of 8), row_stride " + std::to_string(row_stride) +
                    " (multiples of 16, at least row_bytes); data must be aligned to 16 bytes");
  Device device;
  if (const int status = current_device(&device)) return status;
  const int64_t chunks = (row_bytes + kChunk - 1) / kChunk;
  const int64_t most = int64_t{device.sm_count} * kWaves;
  const dim3 grid(static_cast<unsigned>(std::min(chunks, std::max<int64_t>(1, most / rows))),
                  static_cast<unsigned>(std::min(rows, most)));
  digest_rows<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
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
