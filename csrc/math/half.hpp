// The 16-bit formats, as bits, to and from float32: rounding to nearest even, every NaN to the one quiet NaN.
#pragma once

#include "math/ops.hpp"

namespace fastmap::FM_ISA {

FM_INLINE float widen_bfloat16(std::uint16_t h) { return from_bits(std::uint32_t(h) << 16); }

FM_INLINE std::uint16_t narrow_bfloat16(float x) {
  const std::uint32_t u = bits(x), even = (u >> 16) & 1;
  return std::uint16_t(is_nan(x) ? 0x7fc0u : (u + 0x7fffu + even) >> 16);
}

FM_INLINE float widen_float16(std::uint16_t bits16) {
  const std::uint32_t h = bits16, sign = (h & 0x8000u) << 16, rest = (h & 0x7fffu) << 13;
  // The exponent is biased by 15 instead of 127; the product is exact, subnormals included.
  const std::uint32_t finite = bits(from_bits(rest) * 0x1p112f);
  return from_bits(sign | (rest >= 0x0f800000u ? rest | 0x7f800000u : finite));
}

FM_INLINE std::uint16_t narrow_float16(float x) {
  const std::uint32_t u = bits(x), a = u & 0x7fffffffu, sign = (u >> 16) & 0x8000u;
  const std::uint32_t normal = (a - 0x38000000u + 0xfffu + ((a >> 13) & 1)) >> 13;  // may carry to infinity
  const std::uint32_t subnormal = bits(from_bits(a) + 0.5f) - 0x3f000000u;  // the adder rounds to 2^-24
  const std::uint32_t finite = a < 0x38800000u ? subnormal : normal;
  const std::uint32_t large = a > 0x7f800000u ? 0x7e00u : 0x7c00u;
  return std::uint16_t((a > 0x7f800000u ? 0 : sign) | (a >= 0x47800000u ? large : finite));
}

}  // namespace fastmap::FM_ISA
