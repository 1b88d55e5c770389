/* Rounding into D, shared by all x86 instruction sets: included by each, with its own flags and inside its own anonymous
 * namespace (see micro.h on linkage). */

inline __m256i nan_floats(__m256 value) { return _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q)); }

inline __m128i bf16_of(__m256 value) {
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i upper = _mm256_srli_epi32(rounded, 16);
  const __m256i kept = _mm256_blendv_epi8(upper, _mm256_set1_epi32(kNanBf16), nan_floats(value));
  return _mm_packus_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1));
}

inline __m128i fp16_of(__m256 value) {
  const __m256i canonical = _mm256_blendv_epi8(_mm256_castps_si256(value), _mm256_set1_epi32(int(kNanBits)),
                                               nan_floats(value));
  return _mm256_cvtps_ph(_mm256_castsi256_ps(canonical), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* count is a multiple of 8, because n is. */
void store(const float* from, int count, int dtype, void* to) {
  for (int j = 0; j < count; j += 8) {
    const __m256 value = _mm256_loadu_ps(from + j);
    if (dtype == FARM_FP32) {
      const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(int(kNanBits)));
      const __m256 canonical = _mm256_blendv_ps(value, nan, _mm256_castsi256_ps(nan_floats(value)));
      _mm256_storeu_ps(static_cast<float*>(to) + j, canonical);
    } else {
      const __m128i rounded = dtype == FARM_BF16 ? bf16_of(value) : fp16_of(value);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<uint16_t*>(to) + j), rounded);
    }
  }
}
