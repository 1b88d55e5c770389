#include <immintrin.h>

#include "farm_kernels.h"
#include "micro.h"
#include "number_formats.h"

namespace farm {
namespace {

#include "micro_x86.inl"
#include "store_x86.inl"

struct Vector {
  static constexpr int width = 8;
  __m256 value;
  static Vector all(float x) { return {_mm256_set1_ps(x)}; }
  static Vector load(const float* from) { return {_mm256_loadu_ps(from)}; }
  static Vector fma(Vector x, Vector y, Vector z) { return {_mm256_fmadd_ps(x.value, y.value, z.value)}; }
  static Vector product(Vector x, Vector y) { return {_mm256_mul_ps(x.value, y.value)}; }
  static Vector sum(Vector x, Vector y) { return {_mm256_add_ps(x.value, y.value)}; }
  void store(float* to) const { _mm256_storeu_ps(to, value); }
};

constexpr int kVectors = 2; /* 6 x 2 sums, 2 of B and 1 of A fill the 16 registers */
constexpr int kWidth = kVectors * Vector::width;

}  // namespace

const Micro micro_avx2 = {"avx2", 6, kWidth, sizeof(float), nothing, nothing,
                           pack_a, pack_b<kWidth>, multiply<Vector, kVectors>, store};

}  // namespace farm
