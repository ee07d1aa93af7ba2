// E4M3 numbers: a sign, four bits of exponent, three bits of mantissa, and no infinity.
#pragma once
#include <cmath>
#include <cstdint>

static inline float from_float8(uint8_t bits) {
  const int exponent = bits >> 3 & 15, fraction = bits & 7;
  if (exponent == 15 && fraction == 7) return NAN;
  const float value = exponent ? ldexpf(1.0f + (float)fraction / 8.0f, exponent - 7) : ldexpf((float)fraction, -9);
  return bits & 0x80 ? -value : value;
}

// Rounds to the nearest, ties to even, and saturates.
static inline unsigned to_float8(float value) {
  if (value != value) return 0x7f;
  const float size = fabsf(value);
  unsigned best = 0;
  for (unsigned bits = 1; bits < 0x7f; bits++) {
    const float better = fabsf(from_float8((uint8_t)bits) - size), good = fabsf(from_float8((uint8_t)best) - size);
    if (better < good || (better == good && bits % 2 == 0)) best = bits;
  }
  return best | (std::signbit(value) ? 0x80 : 0);
}

static inline float2 from_float8s(unsigned two) {
  return {from_float8((uint8_t)two), from_float8((uint8_t)(two >> 8))};
}
