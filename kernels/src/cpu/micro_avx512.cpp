#include <immintrin.h>

#include "farm_kernels.h"
#include "micro.h"
#include "number_formats.h"

namespace farm {
namespace {

#include "micro_x86.inl"
#include "store_x86.inl"

struct Vector {
  static constexpr int width = 16;
  __m512 value;
  static Vector all(float x) { return {_mm512_set1_ps(x)}; }
  static Vector load(const float* from) { return {_mm512_loadu_ps(from)}; }
  static Vector fma(Vector x, Vector y, Vector z) { return {_mm512_fmadd_ps(x.value, y.value, z.value)}; }
  static Vector product(Vector x, Vector y) { return {_mm512_mul_ps(x.value, y.value)}; }
  static Vector sum(Vector x, Vector y) { return {_mm512_add_ps(x.value, y.value)}; }
  void store(float* to) const { _mm512_storeu_ps(to, value); }
};

constexpr int kVectors = 4; /* 6 x 4 sums, 4 of B and 1 of A of the 32 registers; one row alone has 4 chains */
constexpr int kWidth = kVectors * Vector::width;

}  // namespace

const Micro micro_avx512 = {"avx512", 6, kWidth, sizeof(float), nothing, nothing,
                           pack_a, pack_b<kWidth>, multiply<Vector, kVectors>, store};

}  // namespace farm
