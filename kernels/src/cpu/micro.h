/* What an instruction set provides. Every implementation must give the same bits, which is possible because
 *   - a product of two e4m3 numbers has at most 8 significant bits and is exact in float, so that "multiply, then add"
 *     and a fused multiply-add round the same sum once: acc + a*b;
 *   - each output element has one chain of additions of its own, in the order of k: vectors run along n, never along k;
 *   - the step from a block's sum to the running sum is one fused multiply-add: c = fma(acc, sa*sb, c);
 *   - every NaN leaves the library as the canonical one, since instruction sets differ in whose payload survives.
 * An element's bits depend neither on its place in a tile nor on the tile being full: padding lanes are computed on
 * zeros and thrown away.
 *
 * These files are compiled with flags of their own, so they must not instantiate anything with external linkage (no
 * std:: containers or algorithms): the linker could then keep the AVX-512 copy of a function that all of them share.
 */
#ifndef FARM_CPU_MICRO_H
#define FARM_CPU_MICRO_H

#include <stdint.h>

namespace farm {

constexpr int kBlock = 128;     /* K values that share a scale */
constexpr int kMaxPanel = 64;   /* no instruction set has wider panels than this; tiles start at multiples of it */

struct Micro {
  const char* name;
  int rows;  /* most rows that multiply() takes */
  int cols;  /* width of a panel; divides kMaxPanel */

  /* Decodes rows x 128 codes of A to out[rows][128]. */
  void (*pack_a)(const uint8_t* a, int64_t lda, int rows, float* out);
  /* Decodes cols x 128 codes of B, transposed, to out[128][width of a panel]; missing columns become zero. */
  void (*pack_b)(const uint8_t* b, int64_t ldb, int cols, float* out);
  /* c[i][j] = fma(sum over k of a[i][k]*b[k][j], sa[i]*sb, c[i][j]) for one block, a panel wide. */
  void (*multiply)(int rows, const float* a, const float* b, const float* sa, float sb, float* c, int64_t ldc);
  /* Rounds count floats to nearest even into a farm_dtype. */
  void (*store)(const float* from, int count, int dtype, void* to);
};

extern const Micro micro_portable;
#if FARM_X86
extern const Micro micro_avx2;
extern const Micro micro_avx512;
#endif

}  // namespace farm
#endif
