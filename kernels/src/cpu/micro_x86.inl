/* The part that AVX2 and AVX-512 share, written over a vector type V: included by both, each with its own flags and
 * inside its own anonymous namespace (see micro.h on linkage). */

/* e4m3 in the upper byte of a 16-bit lane, shifted right by one with its sign, is fp16 times 2^-8 (the biases are 7 and
 * 15), subnormals included; the conversion from fp16 is exact and, unlike float arithmetic, ignores FTZ and DAZ. */
inline __m256i to_fp16_bits(__m256i code_in_upper_byte) {
  return _mm256_and_si256(_mm256_srai_epi16(code_in_upper_byte, 1), _mm256_set1_epi16(int16_t(0xbfff)));
}

inline __m256 decode8(__m128i fp16_bits) { return _mm256_mul_ps(_mm256_cvtph_ps(fp16_bits), _mm256_set1_ps(256.0f)); }

/* All ones in the bytes that are NaN. Those decode to 480 above and are mended afterwards: they are rare. */
inline __m256i nan_bytes(__m256i codes) {
  const __m256i magnitude = _mm256_set1_epi8(0x7f);
  return _mm256_cmpeq_epi8(_mm256_and_si256(codes, magnitude), magnitude);
}

void pack_a(const uint8_t* a, int64_t lda, int rows, float* out) {
  for (int i = 0; i < rows; ++i, out += kBlock) {
    const uint8_t* row = a + i * lda;
    __m256i nans = _mm256_setzero_si256();
    for (int k = 0; k < kBlock; k += 32) {
      const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + k));
      nans = _mm256_or_si256(nans, nan_bytes(codes));
      for (int half = 0; half < 2; ++half) {
        const __m128i part = half ? _mm256_extracti128_si256(codes, 1) : _mm256_castsi256_si128(codes);
        const __m256i bits = to_fp16_bits(_mm256_slli_epi16(_mm256_cvtepu8_epi16(part), 8));
        _mm256_storeu_ps(out + k + half * 16, decode8(_mm256_castsi256_si128(bits)));
        _mm256_storeu_ps(out + k + half * 16 + 8, decode8(_mm256_extracti128_si256(bits, 1)));
      }
    }
    if (!_mm256_testz_si256(nans, nans))
      for (int k = 0; k < kBlock; ++k)
        if ((row[k] & 0x7f) == 0x7f) out[k] = float_of(kNanBits);
  }
}

/* 16 columns x 32 codes to out[32][width]: four rounds of the perfect shuffle turn the address (column, k) into
 * (k, column) in both 128-bit lanes. Returns whether a code was NaN. */
template <int Width>
inline bool pack_16x32(const uint8_t* b, int64_t ldb, float* out) {
  __m256i x[16], y[16], nans = _mm256_setzero_si256();
#pragma GCC unroll 16
  for (int j = 0; j < 16; ++j) {
    x[j] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + j * ldb));
    nans = _mm256_or_si256(nans, nan_bytes(x[j]));
  }
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      y[2 * j] = _mm256_unpacklo_epi8(x[j], x[j + 8]);
      y[2 * j + 1] = _mm256_unpackhi_epi8(x[j], x[j + 8]);
    }
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) x[j] = y[j];
  }
  const __m256i zero = _mm256_setzero_si256();
#pragma GCC unroll 16
  for (int k = 0; k < 16; ++k) {
    const __m256i low = to_fp16_bits(_mm256_unpacklo_epi8(zero, x[k]));
    const __m256i high = to_fp16_bits(_mm256_unpackhi_epi8(zero, x[k]));
    _mm256_storeu_ps(out + k * Width, decode8(_mm256_castsi256_si128(low)));
    _mm256_storeu_ps(out + k * Width + 8, decode8(_mm256_castsi256_si128(high)));
    _mm256_storeu_ps(out + (k + 16) * Width, decode8(_mm256_extracti128_si256(low, 1)));
    _mm256_storeu_ps(out + (k + 16) * Width + 8, decode8(_mm256_extracti128_si256(high, 1)));
  }
  return !_mm256_testz_si256(nans, nans);
}

template <int Width>
void pack_b(const uint8_t* b, int64_t ldb, int cols, float* out) {
  bool any_nan = false;
  int j = 0;
  for (; j + 16 <= cols; j += 16)
    for (int k = 0; k < kBlock; k += 32) any_nan |= pack_16x32<Width>(b + j * ldb + k, ldb, out + k * Width + j);
  for (; j < Width; ++j)
    for (int k = 0; k < kBlock; ++k) out[k * Width + j] = j < cols ? decode_e4m3(b[j * ldb + k]) : 0.0f;
  if (any_nan)
    for (int column = 0; column < cols; ++column)
      for (int k = 0; k < kBlock; ++k)
        if ((b[column * ldb + k] & 0x7f) == 0x7f) out[k * Width + column] = float_of(kNanBits);
}

/* R rows, C vectors wide: R*C accumulators stay in registers for the whole block. */
template <class V, int R, int C>
void multiply_rows(const float* a, const float* b, const float* sa, float sb, float* c, int64_t ldc) {
  V sum[R][C];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) sum[i][j] = V::zero();
#pragma GCC unroll 2
  for (int k = 0; k < kBlock; ++k) {
    V right[C];
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) right[j] = V::load(b + (k * C + j) * V::width);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const V left = V::all(a[i * kBlock + k]);
#pragma GCC unroll 8
      for (int j = 0; j < C; ++j) sum[i][j] = V::fma(left, right[j], sum[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
    const V scale = V::all(sa[i] * sb);
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) {
      float* at = c + i * ldc + j * V::width;
      V::fma(sum[i][j], scale, V::load(at)).store(at);
    }
  }
}

template <class V, int C>
void multiply(int rows, const float* a, const float* b, const float* sa, float sb, float* c, int64_t ldc) {
  switch (rows) {
    case 1: return multiply_rows<V, 1, C>(a, b, sa, sb, c, ldc);
    case 2: return multiply_rows<V, 2, C>(a, b, sa, sb, c, ldc);
    case 3: return multiply_rows<V, 3, C>(a, b, sa, sb, c, ldc);
    case 4: return multiply_rows<V, 4, C>(a, b, sa, sb, c, ldc);
    case 5: return multiply_rows<V, 5, C>(a, b, sa, sb, c, ldc);
    default: return multiply_rows<V, 6, C>(a, b, sa, sb, c, ldc);
  }
}

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
