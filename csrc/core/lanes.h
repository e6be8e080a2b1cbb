// Primitives on one lane, under the names that a SIMD pack has too (cpu/simd.h): what core/math.h is
// written in.
#pragma once

#include <float.h>
#include <math.h>

#include "core/dtypes.h"
#include "core/macros.h"

FUSESTEP_TARGET_BEGIN

template <class V>
struct Lanes;  // scalar type and the integer of the same width
template <>
struct Lanes<float> {
  using scalar = float;
  using integer = int32_t;
};
template <>
struct Lanes<double> {
  using scalar = double;
  using integer = int64_t;
};
template <class V>
using scalar_of = typename Lanes<V>::scalar;
template <class V>
using integer_of = typename Lanes<V>::integer;

FUSESTEP_HD float select(bool mask, float a, float b) { return mask ? a : b; }
FUSESTEP_HD double select(bool mask, double a, double b) { return mask ? a : b; }
FUSESTEP_HD int32_t select(bool mask, int32_t a, int32_t b) { return mask ? a : b; }
FUSESTEP_HD int64_t select(bool mask, int64_t a, int64_t b) { return mask ? a : b; }
// NaN stays NaN.
FUSESTEP_HD float clamp(float x, float lowest, float highest) {
  return x < lowest ? lowest : x > highest ? highest : x;
}
FUSESTEP_HD double clamp(double x, double lowest, double highest) {
  return x < lowest ? lowest : x > highest ? highest : x;
}
FUSESTEP_HD float abs(float x) { return fabsf(x); }
FUSESTEP_HD double abs(double x) { return fabs(x); }
FUSESTEP_HD float sqrt(float x) { return sqrtf(x); }
FUSESTEP_HD double sqrt(double x) { return ::sqrt(x); }
#if defined(__FMA__) || defined(__CUDA_ARCH__) || defined(__aarch64__)
FUSESTEP_HD float mul_add(float a, float b, float c) { return fmaf(a, b, c); }
FUSESTEP_HD double mul_add(double a, double b, double c) { return fma(a, b, c); }
#else
FUSESTEP_HD float mul_add(float a, float b, float c) { return a * b + c; }
FUSESTEP_HD double mul_add(double a, double b, double c) { return a * b + c; }
#endif
FUSESTEP_HD int32_t to_bits(float x) { return bit_cast<int32_t>(x); }
FUSESTEP_HD int64_t to_bits(double x) { return bit_cast<int64_t>(x); }
FUSESTEP_HD float from_bits(int32_t x) { return bit_cast<float>(x); }
FUSESTEP_HD double from_bits(int64_t x) { return bit_cast<double>(x); }
// Defined whatever the bits, unlike the operators, which may not overflow.
FUSESTEP_HD int32_t shift_left(int32_t x, int bits) { return int32_t(uint32_t(x) << bits); }
FUSESTEP_HD int64_t shift_left(int64_t x, int bits) { return int64_t(uint64_t(x) << bits); }
FUSESTEP_HD int32_t subtract(int32_t a, int32_t b) { return int32_t(uint32_t(a) - uint32_t(b)); }
FUSESTEP_HD int64_t subtract(int64_t a, int64_t b) { return int64_t(uint64_t(a) - uint64_t(b)); }
template <class I>
FUSESTEP_HD I subtract(I a, I b) {
  return a - b;
}
FUSESTEP_HD float to_floating(int32_t x) { return float(x); }
FUSESTEP_HD double to_floating(int64_t x) { return double(x); }

// Exponentials that a target has of its own: of float a CUDA device has one within 2 ULP, and one of two
// instructions, within 2 + 1.2 |x| ULP, whose denormal results are zero. Source: CUDA C++ Programming Guide,
// "Mathematical functions".
template <class V>
constexpr bool has_exp = false;
#if defined(__CUDA_ARCH__)
template <>
constexpr bool has_exp<float> = true;
FUSESTEP_HD float own_exp(float x) { return expf(x); }
FUSESTEP_HD float own_rough_exp(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x * 1.4426950408889634f));
  return result;
}
#endif

// Double precision, for what is computed once per step.
FUSESTEP_HD double pow(double base, double exponent) { return ::pow(base, exponent); }

FUSESTEP_TARGET_END
