/* The digest of a row, word by word: one definition for the CPU and the GPU. Everything has internal linkage, since the
 * sources that include it are compiled for different instruction sets. */
#ifndef FARM_ROW_DIGEST_H
#define FARM_ROW_DIGEST_H

#include <stdint.h>

#ifdef __CUDACC__
#define FARM_INLINE __device__ __forceinline__
#else
#define FARM_INLINE inline
#endif

namespace farm {
namespace {

FARM_INLINE uint64_t mix(uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  return x ^ (x >> 32);
}

struct Digest {
  uint64_t low = 0, high = 0;

  /* `place` counts 8-byte words from the start of the row. The step makes equal words at different places differ, and
   * `mix` is one to one, so a single changed word always changes `low`; `high` is another function of the same word. */
  FARM_INLINE void add(uint64_t word, uint64_t place) {
    const uint64_t x = mix(word + (place + 1) * 0x9e3779b97f4a7c15ull);
    low += x;
    high += (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9ull;
  }
};

/* Up to 8 bytes from any address, filled up with zeros. */
FARM_INLINE uint64_t word_at(const char *from, int64_t bytes) {
  uint64_t word = 0;
  for (int i = 0; i < (bytes < 8 ? bytes : 8); ++i) word |= uint64_t{static_cast<unsigned char>(from[i])} << (8 * i);
  return word;
}

}  // namespace
}  // namespace farm
#endif
