/* What an instruction set provides. Every implementation must give the same bits: those of AMX's TDPBF16PS, whose order
 * of additions (Intel SDM, measured too: tests/kernels/test_canonical_order.py) the others follow. In a block of 128,
 *   block = 0
 *   for each 32 of k:  even = odd = 0
 *     for each pair:   even += a[k]*b[k], odd += a[k+1]*b[k+1]
 *     block += even + odd
 *   c = fma(block, sa*sb, c)
 * where every addition rounds to nearest even. It is the same everywhere because
 *   - a product of two e4m3 numbers has at most 8 significant bits and is exact in float, so that "multiply, then add"
 *     and a fused multiply-add round the same sum once; nor is any sum of products subnormal, which AMX would flush;
 *   - each output element has additions of its own: vectors run along n, never along k;
 *   - c begins as +0 and so is never -0, whatever sign a zero before it had: a chain may begin with its first product;
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
constexpr int kChain = 32;      /* K values of which the even and the odd ones make a chain each */
constexpr int kMaxPanel = 64;   /* no instruction set has wider panels than this; tiles start at multiples of it */

struct Micro {
  const char* name;
  int rows;         /* most rows that multiply() takes: a strip */
  int cols;         /* width of a panel; divides kMaxPanel */
  int value_bytes;  /* of a decoded value */

  /* Each thread calls these around any number of calls of the next three. */
  void (*begin)();
  void (*end)();
  /* Decodes rows x 128 codes of A into a strip, 64-byte aligned: the micro-kernel knows the layout. */
  void (*pack_a)(const uint8_t* a, int64_t lda, int rows, void* out);
  /* Decodes cols x 128 codes of B into a panel of 128 x `cols` of the struct; missing columns become zero. */
  void (*pack_b)(const uint8_t* b, int64_t ldb, int cols, void* out);
  /* The sums above, of one strip and one panel, c being a panel wide. */
  void (*multiply)(int rows, const void* a, const void* b, const float* sa, float sb, float* c, int64_t ldc);
  /* Rounds count floats to nearest even into a farm_dtype. */
  void (*store)(const float* from, int count, int dtype, void* to);
};

extern const Micro micro_portable;
#if FARM_X86
extern const Micro micro_avx2;
extern const Micro micro_avx512;
extern const Micro micro_amx;
#endif

}  // namespace farm
#endif
