/* Products by the tile unit: e4m3 values are exact in bfloat16, and TDPBF16PS adds their products in the order that
 * micro.h lays down for all instruction sets. */
#include <immintrin.h>

#include "farm_kernels.h"
#include "micro.h"
#include "number_formats.h"

namespace farm {
namespace {

#include "store_x86.inl"

constexpr int kTile = 16;          /* rows of a tile register, and floats or pairs of bfloat16 in a row of it */
constexpr int kRows = 2 * kTile;   /* 2 x 2 tiles of sums, 2 of A and 2 of B fill the 8 registers */
constexpr int kWidth = 4 * kTile;
constexpr int kStep = 2 * kTile;   /* K values of one instruction */
constexpr int kValueBytes = 2;

/* As LDTILECFG reads it. Static, since GCC's intrinsic tells the optimiser of the first eight bytes only. */
struct TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
alignas(64) constexpr TileConfig kAllTilesWhole = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {kTile, kTile, kTile, kTile, kTile, kTile, kTile, kTile}};

void begin() { _tile_loadconfig(&kAllTilesWhole); }

void end() { _tile_release(); }

/* The bfloat16 of the codes 0..127, low and high bytes apart: the vector unit looks 64 codes up at once. */
struct Decoder {
  alignas(64) uint8_t low[128], high[128];
  Decoder() {
    for (int code = 0; code < 128; ++code) {
      const uint32_t bits = bits_of(decode_e4m3(uint8_t(code))) >> 16;
      low[code] = uint8_t(bits);
      high[code] = uint8_t(bits >> 8);
    }
  }
};

struct Lookup {
  __m512i low[2], high[2];

  Lookup() {
    static const Decoder decoder;
    for (int half = 0; half < 2; ++half) {
      low[half] = _mm512_load_si512(decoder.low + 64 * half);
      high[half] = _mm512_load_si512(decoder.high + 64 * half);
    }
  }
  /* Codes of each 128-bit lane become bfloat16 in place: the first 8 of a lane into `first`, the last 8 into `last`. */
  void decode(__m512i codes, __m512i* first, __m512i* last) const {
    const __m512i lower = _mm512_permutex2var_epi8(low[0], codes, low[1]);
    const __m512i upper = _mm512_permutex2var_epi8(high[0], codes, high[1]);
    /* upper | (codes & 0x80) */
    const __m512i sign = _mm512_ternarylogic_epi32(upper, codes, _mm512_set1_epi8(int8_t(0x80)), 0xf8);
    *first = _mm512_unpacklo_epi8(lower, sign);
    *last = _mm512_unpackhi_epi8(lower, sign);
  }
};

/* A strip is [kRows][kBlock], K contiguous. Rows up to the next whole tile are zeros. */
void pack_a(const uint8_t* a, int64_t lda, int rows, void* out) {
  const Lookup lookup;
  auto* to = static_cast<char*>(out);
  /* The order of 8-byte pieces that decode() undoes. */
  const __m512i pieces = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (int i = 0; i < rows; ++i, a += lda)
    for (int k = 0; k < kBlock; k += 64, to += 128) {
      __m512i first, last;
      /* The masked form: the plain one of GCC 12 warns of itself. */
      const __m512i codes = _mm512_maskz_permutexvar_epi64(0xff, pieces, _mm512_loadu_si512(a + k));
      lookup.decode(codes, &first, &last);
      _mm512_store_si512(to, first);
      _mm512_store_si512(to + 64, last);
    }
  const int missing = (kTile - rows % kTile) % kTile;
  memset(to, 0, size_t(missing) * kBlock * kValueBytes);
}

/* 16 columns x 16 codes to out[8 pairs][kWidth][2]. Lane q of codes[i] holds column 4q + i. */
inline void pack_16x16(const uint8_t (*columns)[kBlock], const Lookup& lookup, char* out) {
  __m512i codes[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const auto lane = [&](int q) { return _mm_load_si128(reinterpret_cast<const __m128i*>(columns[4 * q + i])); };
    codes[i] = _mm512_castsi128_si512(lane(0));
    codes[i] = _mm512_mask_broadcast_i32x4(codes[i], 0x00f0, lane(1));
    codes[i] = _mm512_mask_broadcast_i32x4(codes[i], 0x0f00, lane(2));
    codes[i] = _mm512_mask_broadcast_i32x4(codes[i], 0xf000, lane(3));
  }
  const __m512i low02 = _mm512_unpacklo_epi16(codes[0], codes[2]), high02 = _mm512_unpackhi_epi16(codes[0], codes[2]);
  const __m512i low13 = _mm512_unpacklo_epi16(codes[1], codes[3]), high13 = _mm512_unpackhi_epi16(codes[1], codes[3]);
  const __m512i pairs[4] = {_mm512_unpacklo_epi16(low02, low13), _mm512_unpackhi_epi16(low02, low13),
                            _mm512_unpacklo_epi16(high02, high13), _mm512_unpackhi_epi16(high02, high13)};
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    __m512i first, last;
    lookup.decode(pairs[i], &first, &last);
    _mm512_store_si512(out + (2 * i) * kWidth * 4, first);
    _mm512_store_si512(out + (2 * i + 1) * kWidth * 4, last);
  }
}

/* A panel is [kBlock / 2][kWidth][2]: pairs of neighbours along K, column by column. */
void pack_b(const uint8_t* b, int64_t ldb, int cols, void* out) {
  const Lookup lookup;
  for (int j = 0; j < kWidth; j += kTile) {
    /* Gathered first, in whole lines: at a stride of 4096 bytes all columns meet in one set of the first-level cache. */
    alignas(64) uint8_t columns[kTile][kBlock];
    for (int column = 0; column < kTile; ++column) {
      if (j + column < cols) memcpy(columns[column], b + (j + column) * ldb, kBlock);
      else memset(columns[column], 0, kBlock);
    }
    for (int k = 0; k < kBlock; k += 16)
      pack_16x16(reinterpret_cast<const uint8_t(*)[kBlock]>(columns[0] + k), lookup,
                 static_cast<char*>(out) + (k / 2 * kWidth + j) * 4);
  }
}

/* sums[RowTiles * 16][32] of one block. */
template <int RowTiles>
inline void multiply_tiles(const char* a, const char* b, float* sums) {
  constexpr int a_row = kBlock * kValueBytes, b_row = kWidth * 4, sums_row = kStep * 4;
  _tile_zero(0);
  _tile_zero(1);
  if (RowTiles == 2) _tile_zero(2);
  if (RowTiles == 2) _tile_zero(3);
#pragma GCC unroll 4
  for (int step = 0; step < kBlock / kStep; ++step, a += kStep * kValueBytes, b += kTile * b_row) {
    _tile_loadd(4, a, a_row);
    _tile_loadd(6, b, b_row);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + 64, b_row);
    _tile_dpbf16ps(1, 4, 7);
    if (RowTiles == 2) {
      _tile_loadd(5, a + kTile * a_row, a_row);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, sums_row);
  _tile_stored(1, sums + kTile, sums_row);
  if (RowTiles == 2) {
    _tile_stored(2, sums + kTile * kStep, sums_row);
    _tile_stored(3, sums + kTile * kStep + kTile, sums_row);
  }
}

void multiply(int rows, const void* a, const void* b, const float* sa, float sb, float* c, int64_t ldc) {
  alignas(64) float sums[2][kRows][kStep];
  alignas(64) float scales[kRows];
  for (int i = 0; i < rows; ++i) scales[i] = sa[i] * sb;
  for (int half = 0; half < 2; ++half, c += kStep) {
    const auto* left = static_cast<const char*>(a);
    const auto* right = static_cast<const char*>(b) + half * kStep * 4;
    if (rows > kTile) multiply_tiles<2>(left, right, sums[half][0]);
    else multiply_tiles<1>(left, right, sums[half][0]);
    for (int i = 0; i < rows; ++i) {
      const __m512 scale = _mm512_set1_ps(scales[i]);
      float* at = c + i * ldc;
      _mm512_storeu_ps(at, _mm512_fmadd_ps(_mm512_load_ps(sums[half][i]), scale, _mm512_loadu_ps(at)));
      _mm512_storeu_ps(at + 16, _mm512_fmadd_ps(_mm512_load_ps(sums[half][i] + 16), scale, _mm512_loadu_ps(at + 16)));
    }
  }
}

}  // namespace

const Micro micro_amx = {"amx", kRows, kWidth, kValueBytes, begin, end, pack_a, pack_b, multiply, store};

}  // namespace farm
