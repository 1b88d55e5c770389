/* The part that AVX2 and AVX-512 share, multiplication being written over a vector type V: included by both, each with
 * its own flags and inside its own anonymous namespace (see micro.h on linkage). */

/* Decoding goes through fp16. A code in the upper byte of a 16-bit lane, shifted right by one with its sign, is the
 * fp16 of 2^-8 times its value (the biases are 7 and 15), subnormals included; the conversion from fp16 is exact and,
 * unlike float arithmetic on subnormals, neither slow nor subject to FTZ and DAZ. NaN comes out as 480 and is mended
 * after: it is rare. */
constexpr int16_t kFp16Mask = int16_t(0xbfff);
constexpr float kFp16Gap = 256.0f;

inline bool is_nan_code(uint8_t code) { return (code & 0x7f) == 0x7f; }

void mend_nans_a(const uint8_t* row, float* out) {
  for (int k = 0; k < kBlock; ++k)
    if (is_nan_code(row[k])) out[k] = float_of(kNanBits);
}

/* What the vectors left over: columns from `first` on, zeros beyond cols, and NaN where there was any. */
void finish_b(const uint8_t* b, int64_t ldb, int first, int cols, int width, bool any_nan, float* out) {
  for (int j = first; j < width; ++j)
    for (int k = 0; k < kBlock; ++k) out[k * width + j] = j < cols ? decode_e4m3(b[j * ldb + k]) : 0.0f;
  for (int j = 0; any_nan && j < first; ++j)
    for (int k = 0; k < kBlock; ++k)
      if (is_nan_code(b[j * ldb + k])) out[k * width + j] = float_of(kNanBits);
}

inline __m256i to_fp16(__m256i code_in_upper_byte) {
  return _mm256_and_si256(_mm256_srai_epi16(code_in_upper_byte, 1), _mm256_set1_epi16(kFp16Mask));
}

inline __m256 decode(__m128i fp16) { return _mm256_mul_ps(_mm256_cvtph_ps(fp16), _mm256_set1_ps(kFp16Gap)); }

inline __m256i nan_codes(__m256i codes) {
  const __m256i magnitude = _mm256_set1_epi8(0x7f);
  return _mm256_cmpeq_epi8(_mm256_and_si256(codes, magnitude), magnitude);
}

inline __m256i load_codes(const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }

void nothing() {}

void pack_a(const uint8_t* a, int64_t lda, int rows, void* strip) {
  auto* out = static_cast<float*>(strip);
  for (int i = 0; i < rows; ++i, a += lda, out += kBlock) {
    __m256i nans = _mm256_setzero_si256();
    for (int k = 0; k < kBlock; k += 32) {
      const __m256i codes = load_codes(a + k);
      nans = _mm256_or_si256(nans, nan_codes(codes));
      for (int half = 0; half < 2; ++half) {
        const __m128i part = half ? _mm256_extracti128_si256(codes, 1) : _mm256_castsi256_si128(codes);
        const __m256i fp16 = to_fp16(_mm256_slli_epi16(_mm256_cvtepu8_epi16(part), 8));
        _mm256_storeu_ps(out + k + half * 16, decode(_mm256_castsi256_si128(fp16)));
        _mm256_storeu_ps(out + k + half * 16 + 8, decode(_mm256_extracti128_si256(fp16, 1)));
      }
    }
    if (!_mm256_testz_si256(nans, nans)) mend_nans_a(a, out);
  }
}

/* 16 columns x 32 codes to out[32][Width]: four rounds of the perfect shuffle turn the address (column, k) into
 * (k, column) in both 128-bit lanes. Returns the NaN found. */
template <int Width>
inline __m256i pack_16x32(const uint8_t* b, int64_t ldb, float* out) {
  __m256i x[16], y[16], nans = _mm256_setzero_si256();
#pragma GCC unroll 16
  for (int j = 0; j < 16; ++j) {
    x[j] = load_codes(b + j * ldb);
    nans = _mm256_or_si256(nans, nan_codes(x[j]));
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
#pragma GCC unroll 16
  for (int k = 0; k < 16; ++k) {
    const __m256i left = to_fp16(_mm256_unpacklo_epi8(_mm256_setzero_si256(), x[k]));
    const __m256i right = to_fp16(_mm256_unpackhi_epi8(_mm256_setzero_si256(), x[k]));
    float* at = out + k * Width;
    _mm256_storeu_ps(at, decode(_mm256_castsi256_si128(left)));
    _mm256_storeu_ps(at + 8, decode(_mm256_castsi256_si128(right)));
    _mm256_storeu_ps(at + 16 * Width, decode(_mm256_extracti128_si256(left, 1)));
    _mm256_storeu_ps(at + 16 * Width + 8, decode(_mm256_extracti128_si256(right, 1)));
  }
  return nans;
}

template <int Width>
void pack_b(const uint8_t* b, int64_t ldb, int cols, void* panel) {
  auto* out = static_cast<float*>(panel);
  /* At such a stride all columns meet in one set of the first-level cache, which has fewer ways than there are columns:
   * then they are first gathered, in whole lines. */
  const bool crowded = ldb % 4096 == 0;
  alignas(64) uint8_t gathered[16 * kBlock];
  __m256i nans = _mm256_setzero_si256();
  int j = 0;
  for (; j + 16 <= cols; j += 16) {
    const uint8_t* codes = crowded ? gathered : b + j * ldb;
    for (int column = 0; crowded && column < 16; ++column)
      memcpy(gathered + column * kBlock, b + (j + column) * ldb, kBlock);
    for (int k = 0; k < kBlock; k += 32)
      nans = _mm256_or_si256(nans, pack_16x32<Width>(codes + k, crowded ? kBlock : ldb, out + k * Width + j));
  }
  finish_b(b, ldb, j, cols, Width, !_mm256_testz_si256(nans, nans), out);
}

/* sum = the products of k = 0, 2, ..., kChain-2, R rows and C vectors wide: R*C sums stay in registers. */
template <class V, int R, int C>
inline __attribute__((always_inline)) void add_chain(const float* a, const float* b, V (&sum)[R][C]) {
  V right[C];
#pragma GCC unroll 8
  for (int j = 0; j < C; ++j) right[j] = V::load(b + j * V::width);
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
    const V left = V::all(a[i * kBlock]);
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) sum[i][j] = V::product(left, right[j]);
  }
#pragma GCC unroll 1
  for (int k = 2; k < kChain; k += 2) {
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) right[j] = V::load(b + (k * C + j) * V::width);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const V left = V::all(a[i * kBlock + k]);
#pragma GCC unroll 8
      for (int j = 0; j < C; ++j) sum[i][j] = V::fma(left, right[j], sum[i][j]);
    }
  }
}

/* One chain at a time has all registers; the sum of the other and that of the block wait in the first-level cache. */
template <class V, int R, int C>
void multiply_rows(const float* a, const float* b, const float* sa, float sb, float* c, int64_t ldc) {
  V sum[R][C];
  alignas(64) float even[R][C][V::width], block[R][C][V::width] = {};
  for (int first = 0; first < kBlock; first += kChain) {
    const float *left = a + first, *right = b + first * C * V::width;
    add_chain<V, R, C>(left, right, sum);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < C; ++j) sum[i][j].store(even[i][j]);
    add_chain<V, R, C>(left + 1, right + C * V::width, sum);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < C; ++j) {
        sum[i][j] = V::sum(V::load(even[i][j]), sum[i][j]);
        sum[i][j] = V::sum(V::load(block[i][j]), sum[i][j]);
        sum[i][j].store(block[i][j]);
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
void multiply(int rows, const void* strip, const void* panel, const float* sa, float sb, float* c, int64_t ldc) {
  const auto *a = static_cast<const float*>(strip), *b = static_cast<const float*>(panel);
  switch (rows) {
    case 1: return multiply_rows<V, 1, C>(a, b, sa, sb, c, ldc);
    case 2: return multiply_rows<V, 2, C>(a, b, sa, sb, c, ldc);
    case 3: return multiply_rows<V, 3, C>(a, b, sa, sb, c, ldc);
    case 4: return multiply_rows<V, 4, C>(a, b, sa, sb, c, ldc);
    case 5: return multiply_rows<V, 5, C>(a, b, sa, sb, c, ldc);
    default: return multiply_rows<V, 6, C>(a, b, sa, sb, c, ldc);
  }
}
