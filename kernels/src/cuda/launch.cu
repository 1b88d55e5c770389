#include "launch.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

namespace farm {
namespace {

thread_local std::string last_error;

int fail_cuda(int status, const char *what, cudaError_t error) {
  cudaGetLastError();  // so that it is not reported once more, by the next call of whoever shares this context
  return fail(status, std::string(what) + ": " + cudaGetErrorString(error));
}

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

EncodeTiled encode_tiled() {
  static const EncodeTiled encode = [] {
    void *f = nullptr;
    cudaDriverEntryPointQueryResult found;
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
    return reinterpret_cast<EncodeTiled>(f);
  }();
  return encode;
}

struct CachedMap {
  Matrix matrix{};
  Box box{};
  CUtensorMap map;
};

bool same(const Matrix &x, const Matrix &y) {
  return x.data == y.data && x.rows == y.rows && x.columns == y.columns && x.ld == y.ld &&
         x.element_bytes == y.element_bytes;
}

bool same(const Box &x, const Box &y) { return x.rows == y.rows && x.columns == y.columns; }

// A block may only use more than 48 KiB of shared memory once this has been asked for.
cudaError_t allow_shared_memory(const Device &device, const void *kernel, int bytes) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void *>, int> allowed;
  const std::lock_guard lock(mutex);
  int &current = allowed[{device.id, kernel}];
  if (bytes <= current) return cudaSuccess;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess) current = bytes;
  return error;
}

struct LaunchConfig {
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};

  explicit LaunchConfig(const Launch &launch) {
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim = {static_cast<unsigned>(launch.cluster), 1, 1};
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = launch.grid;
    config.blockDim = dim3(launch.threads);
    config.dynamicSmemBytes = launch.smem_bytes;
    config.stream = launch.stream;
    config.attrs = attributes;
    config.numAttrs = launch.after_kernel ? 2 : 1;
  }
};

}  // namespace

int fail(int status, const std::string &what) {
  last_error = what;
  return status;
}

int current_device(Device *device) {
  constexpr int kMaxDevices = 64;
  static std::array<int, kMaxDevices> sm_counts{};
  if (const cudaError_t error = cudaGetDevice(&device->id)) return fail_cuda(FARM_UNSUPPORTED, "no CUDA device", error);
  if (device->id >= kMaxDevices) return fail(FARM_UNSUPPORTED, "device index over 63");
  int &sm_count = sm_counts[device->id];  // an int written twice with one value does no harm
  if (sm_count == 0) {
    int major = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device->id);
    if (major != 9)
      return fail(FARM_UNSUPPORTED,
                  "needs a Hopper GPU (compute capability 9.0), found " + std::to_string(major) + ".x");
    cudaDeviceGetAttribute(&sm_count, cudaDevAttrMultiProcessorCount, device->id);
  }
  device->sm_count = sm_count;
  return FARM_OK;
}

int tensor_map(CUtensorMap *map, const Matrix &matrix, const Box &box) {
  constexpr size_t kSlots = 256;
  thread_local std::array<CachedMap, kSlots> cache;
  size_t hash = reinterpret_cast<uintptr_t>(matrix.data) >> 4;
  hash = (hash ^ matrix.rows * size_t(40503) ^ matrix.columns * size_t(131) ^ box.rows) * 0x9E3779B97F4A7C15ull;
  CachedMap &slot = cache[hash >> 56];
  if (!same(slot.box, box) || !same(slot.matrix, matrix)) {
    if (!encode_tiled()) return fail(FARM_UNSUPPORTED, "the CUDA driver has no cuTensorMapEncodeTiled");
    const cuuint64_t sizes[2] = {cuuint64_t(matrix.columns), cuuint64_t(matrix.rows)};
    const cuuint64_t strides[1] = {cuuint64_t(matrix.ld * matrix.element_bytes)};
    const cuuint32_t counts[2] = {cuuint32_t(box.columns), cuuint32_t(box.rows)}, steps[2] = {1, 1};
    const int row_bytes = box.columns * matrix.element_bytes;
    const CUresult result = encode_tiled()(
        &slot.map, matrix.element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 2,
        const_cast<void *>(matrix.data), sizes, strides, counts, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
        row_bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B
                         : row_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_32B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) {
      slot.box = {};
      return fail(FARM_LAUNCH_FAILED, "cuTensorMapEncodeTiled returned " + std::to_string(result));
    }
    slot.matrix = matrix;
    slot.box = box;
  }
  *map = slot.map;
  return FARM_OK;
}

int launch(const Device &device, const void *kernel, const Launch &config, void **args) {
  cudaError_t error = allow_shared_memory(device, kernel, config.smem_bytes);
  if (error == cudaSuccess) {
    LaunchConfig full(config);
    error = cudaLaunchKernelExC(&full.config, kernel, args);
  }
  return error == cudaSuccess ? FARM_OK : fail_cuda(FARM_LAUNCH_FAILED, "launch", error);
}

int resident_clusters(const Device &device, const void *kernel, const Launch &config, int sm_count, int *clusters) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void *>, int> known;
  if (const cudaError_t error = allow_shared_memory(device, kernel, config.smem_bytes))
    return fail_cuda(FARM_LAUNCH_FAILED, "shared memory", error);
  const std::lock_guard lock(mutex);
  int &most = known[{device.id, kernel}];
  if (most == 0) {
    LaunchConfig full(config);
    full.config.gridDim = dim3(device.sm_count / config.cluster * config.cluster);
    if (const cudaError_t error = cudaOccupancyMaxActiveClusters(&most, kernel, &full.config))
      return fail_cuda(FARM_LAUNCH_FAILED, "occupancy", error);
    if (most < 1) return fail(FARM_LAUNCH_FAILED, "no cluster of this kernel fits on the device");
  }
  *clusters = std::max(1, std::min(most, sm_count / config.cluster));
  return FARM_OK;
}

}  // namespace farm

extern "C" const char *farm_last_error(void) { return farm::last_error.c_str(); }
