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

__device__ __forceinline__ void add_lanes(Digest *mine) {
  for (int lanes = 16; lanes; lanes /= 2) {
    mine->low += __shfl_xor_sync(0xffffffffu, mine->low, lanes);
    mine->high += __shfl_xor_sync(0xffffffffu, mine->high, lanes);
  }
}

__device__ void add_block(Digest mine, unsigned long long *sum) {
  add_lanes(&mine);
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

// What a thread adds of a row: kLoads times 16 bytes from `byte` on, each `step` behind the one before. kAligned: rows
// start at multiples of 16 and are whole words.
template <bool kAligned>
__device__ __forceinline__ void add_loads(Digest *mine, const char *row, int64_t row_bytes, int64_t byte, int step) {
  ulonglong2 words[kLoads];
  if (kAligned) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t at = byte + int64_t{i} * step;
      if (at + 16 <= row_bytes) words[i] = __ldcs(reinterpret_cast<const ulonglong2 *>(row + at));
    }
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int64_t at = byte + int64_t{i} * step;
    const uint64_t place = static_cast<uint64_t>(at) / 8;
    if (kAligned && at + 16 <= row_bytes) {
      mine->add(words[i].x, place);
      mine->add(words[i].y, place + 1);
    } else if (kAligned && at < row_bytes) {
      mine->add(*reinterpret_cast<const uint64_t *>(row + at), place);
    } else if (!kAligned) {
      if (at < row_bytes) mine->add(word_at(row + at, row_bytes - at), place);
      if (at + 8 < row_bytes) mine->add(word_at(row + at + 8, row_bytes - at - 8), place + 1);
    }
  }
}

// blockIdx.y strides over rows, blockIdx.x over chunks of a row.
template <bool kAligned>
__global__ void __launch_bounds__(kThreads) digest_rows(const char *data, int64_t rows, int64_t row_bytes,
                                                        int64_t row_stride, unsigned long long *digests) {
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    Digest mine;
    for (int64_t chunk = blockIdx.x * kChunk; chunk < row_bytes; chunk += gridDim.x * kChunk)
      add_loads<kAligned>(&mine, data + row * row_stride, row_bytes, chunk + int64_t{threadIdx.x} * 16, kThreads * 16);
    add_block(mine, digests + 2 * row);
  }
}

struct Tensors {
  farm_rows of[FARM_MOST_TENSORS];
};

constexpr int64_t kPiece = int64_t{32} * kLoads * 16;  // of a row, for a warp
constexpr int kWarps = kThreads / 32;

__host__ __device__ bool aligned(const farm_rows &tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.row_bytes % 8 == 0 &&
         (tensor.row_stride % 16 == 0 || tensor.rows == 1);
}

template <bool kAligned>
__device__ void digest_pieces(const farm_rows &tensor) {
  const int64_t pieces = (tensor.row_bytes + kPiece - 1) / kPiece;
  const int lane = threadIdx.x % 32;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; i < tensor.rows * pieces; i += gridDim.x * kWarps) {
    const int64_t row = i / pieces, piece = i % pieces;
    const char *start = static_cast<const char *>(tensor.data) + row * tensor.row_stride;
    Digest mine;
    add_loads<kAligned>(&mine, start, tensor.row_bytes, piece * kPiece + lane * 16, 32 * 16);
    add_lanes(&mine);
    unsigned long long *sum = static_cast<unsigned long long *>(tensor.digests) + 2 * row;
    if (lane < 2) atomicAdd(sum + lane, static_cast<unsigned long long>(lane ? mine.high : mine.low));
  }
}

// blockIdx.y is the tensor; the warps of its blocks stride over pieces of its rows.
__global__ void __launch_bounds__(kThreads) digest_tensors(const __grid_constant__ Tensors tensors) {
  const farm_rows &tensor = tensors.of[blockIdx.y];
  aligned(tensor) ? digest_pieces<true>(tensor) : digest_pieces<false>(tensor);
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

int check_rows(const farm_rows &tensor) {
  if (!tensor.data || !tensor.digests) return fail(FARM_INVALID_ARGUMENT, "a pointer is NULL");
  if (tensor.rows < 1 || tensor.row_bytes < 1 || tensor.row_stride < tensor.row_bytes)
    return fail(FARM_INVALID_ARGUMENT, "rows is " + std::to_string(tensor.rows) + " and row_bytes " +
                                           std::to_string(tensor.row_bytes) + " (allowed: 1 or more), row_stride " +
                                           std::to_string(tensor.row_stride) + " (at least row_bytes)");
  return FARM_OK;
}

}  // namespace
}  // namespace farm

using namespace farm;

extern "C" int farm_digest_rows(const void *data, int64_t rows, int64_t row_bytes, int64_t row_stride, void *digests,
                                void *stream) {
  const farm_rows tensor = {data, rows, row_bytes, row_stride, digests};
  if (const int status = check_rows(tensor)) return status;
  Device device;
  if (const int status = current_device(&device)) return status;
  const int64_t chunks = (row_bytes + kChunk - 1) / kChunk;
  const int64_t most = int64_t{device.sm_count} * kWaves;
  const dim3 grid(static_cast<unsigned>(std::min(chunks, std::max<int64_t>(1, most / rows))),
                  static_cast<unsigned>(std::min(rows, most)));
  (aligned(tensor) ? digest_rows<true> : digest_rows<false>)<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const char *>(data), rows, row_bytes, row_stride, static_cast<unsigned long long *>(digests));
  return launched("farm_digest_rows");
}

extern "C" int farm_digest_tensors(const farm_rows *tensors, int32_t count, void *stream) {
  if (!tensors || count < 1 || count > FARM_MOST_TENSORS)
    return fail(FARM_INVALID_ARGUMENT, "count is " + std::to_string(count) + " (allowed: 1 to " +
                                           std::to_string(FARM_MOST_TENSORS) + "), and tensors must not be NULL");
  Tensors all;
  int64_t most = 1;
  for (int32_t i = 0; i < count; ++i) {
    const farm_rows &tensor = all.of[i] = tensors[i];
    if (const int status = check_rows(tensor)) return status;
    most = std::max(most, tensor.rows * ((tensor.row_bytes + kPiece - 1) / kPiece));
  }
  Device device;
  if (const int status = current_device(&device)) return status;
  // Most tensors are small: blocks that find nothing to do cost less than large tensors that wait for a few.
  const int64_t blocks = std::min((most + kWarps - 1) / kWarps, int64_t{device.sm_count} * kWaves / 4);
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(count));
  digest_tensors<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(all);
  return launched("farm_digest_tensors");
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
