/* The formats of operands and results, bit by bit. Static functions: see micro.h on linkage. */
#ifndef FARM_CPU_NUMBER_FORMATS_H
#define FARM_CPU_NUMBER_FORMATS_H

#include <stdint.h>
#include <string.h>

namespace farm {
namespace {

constexpr uint32_t kNanBits = 0x7fc00000u;
constexpr uint16_t kNanBf16 = 0x7fc0u;
constexpr uint16_t kNanFp16 = 0x7e00u;

inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline bool is_nan(uint32_t bits) { return (bits & 0x7fffffffu) > 0x7f800000u; }

/* OCP e4m3: 1 sign, 4 exponent (bias 7), 3 mantissa; no infinity, 0x7f and 0xff are NaN. */
inline float decode_e4m3(uint8_t code) {
  const uint32_t sign = uint32_t(code & 0x80u) << 24;
  const uint32_t exponent = (code >> 3) & 15u, mantissa = code & 7u;
  if ((code & 0x7fu) == 0x7fu) return float_of(kNanBits);
  if (exponent != 0) return float_of(sign | ((exponent + 120u) << 23) | (mantissa << 20));
  return float_of(sign | bits_of(float(mantissa) * 0x1p-9f));
}

inline uint16_t round_to_bf16(uint32_t bits) {
  if (is_nan(bits)) return kNanBf16;
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline uint16_t round_to_fp16(uint32_t bits) {
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (is_nan(bits)) return kNanFp16;
  if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u); /* 65520 and above round to infinity */
  if (magnitude < 0x33000001u) return sign;                      /* 2^-25 is a tie between 0 and 2^-24: even is 0 */
  if (magnitude >= 0x38800000u) {
    const uint32_t rebiased = magnitude - (112u << 23);
    return uint16_t(sign | ((rebiased + 0xfffu + ((rebiased >> 13) & 1u)) >> 13));
  }
  const uint32_t drop = 126u - (magnitude >> 23); /* subnormal: 14 to 24 bits fall off */
  const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t kept = significand >> drop, rest = significand & ((1u << drop) - 1u), half = 1u << (drop - 1u);
  return uint16_t(sign | (kept + (rest > half || (rest == half && (kept & 1u)) ? 1u : 0u)));
}

}  // namespace
}  // namespace farm
#endif
