/* The reference for the bits, in plain C++ for any architecture. */
#include "micro.h"

#include <math.h>

#include "farm_kernels.h"
#include "number_formats.h"

namespace farm {
namespace {

constexpr int kRows = 4, kCols = 8;

struct Decoder {
  float value[256];
  Decoder() {
    for (int code = 0; code < 256; ++code) value[code] = decode_e4m3(uint8_t(code));
  }
};

const float* decoded() {
  static const Decoder table;
  return table.value;
}

void nothing() {}

void pack_a(const uint8_t* a, int64_t lda, int rows, void* strip) {
  const float* value = decoded();
  auto* out = static_cast<float*>(strip);
  for (int i = 0; i < rows; ++i)
    for (int k = 0; k < kBlock; ++k) out[i * kBlock + k] = value[a[i * lda + k]];
}

void pack_b(const uint8_t* b, int64_t ldb, int cols, void* panel) {
  const float* value = decoded();
  auto* out = static_cast<float*>(panel);
  for (int j = 0; j < kCols; ++j)
    for (int k = 0; k < kBlock; ++k) out[k * kCols + j] = j < cols ? value[b[j * ldb + k]] : 0.0f;
}

template <int R>
void multiply_rows(const float* a, const float* b, const float* sa, float sb, float* c, int64_t ldc) {
  float sum[R][kCols] = {};
  for (int first = 0; first < kBlock; first += kChain) {
    float chain[2][R][kCols] = {};
    for (int k = first; k < first + kChain; ++k)
      for (int i = 0; i < R; ++i)
        for (int j = 0; j < kCols; ++j) chain[k % 2][i][j] += a[i * kBlock + k] * b[k * kCols + j];
    for (int i = 0; i < R; ++i)
      for (int j = 0; j < kCols; ++j) sum[i][j] += chain[0][i][j] + chain[1][i][j];
  }
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < kCols; ++j) c[i * ldc + j] = fmaf(sum[i][j], sa[i] * sb, c[i * ldc + j]);
}

void multiply(int rows, const void* strip, const void* panel, const float* sa, float sb, float* c, int64_t ldc) {
  const auto *a = static_cast<const float*>(strip), *b = static_cast<const float*>(panel);
  switch (rows) {
    case 1: return multiply_rows<1>(a, b, sa, sb, c, ldc);
    case 2: return multiply_rows<2>(a, b, sa, sb, c, ldc);
    case 3: return multiply_rows<3>(a, b, sa, sb, c, ldc);
    default: return multiply_rows<4>(a, b, sa, sb, c, ldc);
  }
}

void store(const float* from, int count, int dtype, void* to) {
  for (int j = 0; j < count; ++j) {
    const uint32_t bits = bits_of(from[j]);
    if (dtype == FARM_BF16) static_cast<uint16_t*>(to)[j] = round_to_bf16(bits);
    else if (dtype == FARM_FP16) static_cast<uint16_t*>(to)[j] = round_to_fp16(bits);
    else static_cast<float*>(to)[j] = is_nan(bits) ? float_of(kNanBits) : from[j];
  }
}

}  // namespace

const Micro micro_portable = {"portable", kRows, kCols, sizeof(float), nothing, nothing,
                              pack_a, pack_b, multiply, store};

}  // namespace farm
