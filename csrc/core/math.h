// Elementary functions for formulas: one branch-free text for a lane, a SIMD pack, and a CUDA thread.
//
// V is float, double, or a pack of them (cpu/simd.h), for which the overloads of the first section
// exist with the same names. Measured error bounds: tests/native/math_ulp.cpp.
#pragma once

#include <float.h>
#include <math.h>

#include "core/dtypes.h"
#include "core/macros.h"

FUSESTEP_TARGET_BEGIN

// ---- primitives on one lane -------------------------------------------------------------------

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
// Defined for negative numbers too, unlike the operator.
FUSESTEP_HD int32_t shift_left(int32_t x, int bits) { return int32_t(uint32_t(x) << bits); }
FUSESTEP_HD int64_t shift_left(int64_t x, int bits) { return int64_t(uint64_t(x) << bits); }
FUSESTEP_HD float to_floating(int32_t x) { return float(x); }
FUSESTEP_HD double to_floating(int64_t x) { return double(x); }

// ---- host-side double precision, for what is computed once per step ------------------------------

FUSESTEP_HD double pow(double base, double exponent) { return ::pow(base, exponent); }

// ---- from here on: any V ------------------------------------------------------------------------

// max and min keep NaN whichever side it is on, as torch.maximum does and fmax does not.
template <class V>
FUSESTEP_HD V max(V a, V b) {
  return select(a != a, a, select(a > b, a, b));
}
template <class V>
FUSESTEP_HD V min(V a, V b) {
  return select(a != a, a, select(a < b, a, b));
}

template <class V>
FUSESTEP_HD V infinity() {
  return V(scalar_of<V>(INFINITY));
}

namespace detail {

template <class T>
struct Format;
template <>
struct Format<float> {
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float magic = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exp_lowest = -104.0f, exp_highest = 89.0f;
};
template <>
struct Format<double> {
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double magic = 0x1.8p52;
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double exp_lowest = -746.0, exp_highest = 710.0;
};

// (exp(r) - 1 - r) / r^2 for |r| <= ln(2)/2. float: minimax, relative error 3.1e-9 of exp(r)
// (Remez exchange); double: the Taylor series, first omitted term 4e-18.
template <class V>
FUSESTEP_HD V exp_tail(V r, float) {
  V p = V(0x1.6a2352p-10f);
  p = mul_add(p, r, V(0x1.123a6cp-7f));
  p = mul_add(p, r, V(0x1.5558f4p-5f));
  p = mul_add(p, r, V(0x1.55549p-3f));
  return mul_add(p, r, V(0x1.fffffcp-2f));
}
template <class V>
FUSESTEP_HD V exp_tail(V r, double) {
  V p = V(1.0 / 6227020800.0);
  p = mul_add(p, r, V(1.0 / 479001600.0));
  p = mul_add(p, r, V(1.0 / 39916800.0));
  p = mul_add(p, r, V(1.0 / 3628800.0));
  p = mul_add(p, r, V(1.0 / 362880.0));
  p = mul_add(p, r, V(1.0 / 40320.0));
  p = mul_add(p, r, V(1.0 / 5040.0));
  p = mul_add(p, r, V(1.0 / 720.0));
  p = mul_add(p, r, V(1.0 / 120.0));
  p = mul_add(p, r, V(1.0 / 24.0));
  p = mul_add(p, r, V(1.0 / 6.0));
  return mul_add(p, r, V(1.0 / 2.0));
}

// (2 atanh(s) - 2 s) / s^3 as a polynomial in z = s^2, for log(1+f) with s = f / (2+f),
// |s| <= 0.1716. float: minimax, relative error 8.4e-10 of the logarithm; double: the series.
template <class V>
FUSESTEP_HD V log_tail(V z, float) {
  V p = V(0x1.32063ap-2f);
  p = mul_add(p, z, V(0x1.995d84p-2f));
  return mul_add(p, z, V(0x1.55557cp-1f));
}
template <class V>
FUSESTEP_HD V log_tail(V z, double) {
  V p = V(2.0 / 25.0);
  p = mul_add(p, z, V(2.0 / 23.0));
  p = mul_add(p, z, V(2.0 / 21.0));
  p = mul_add(p, z, V(2.0 / 19.0));
  p = mul_add(p, z, V(2.0 / 17.0));
  p = mul_add(p, z, V(2.0 / 15.0));
  p = mul_add(p, z, V(2.0 / 13.0));
  p = mul_add(p, z, V(2.0 / 11.0));
  p = mul_add(p, z, V(2.0 / 9.0));
  p = mul_add(p, z, V(2.0 / 7.0));
  p = mul_add(p, z, V(2.0 / 5.0));
  return mul_add(p, z, V(2.0 / 3.0));
}

}  // namespace detail

// exp(x) = 2^n exp(r) with n = round(x / ln 2) and r = x - n ln 2 in two parts (Cody & Waite 1980).
// The scale 2^n is applied in two factors, so the result may be denormal or just below overflow.
template <class V>
FUSESTEP_HD V exp(V x) {
  using T = scalar_of<V>;
  using I = integer_of<V>;
  using F = detail::Format<T>;
  x = select(x < V(F::exp_lowest), V(F::exp_lowest), x);
  x = select(x > V(F::exp_highest), V(F::exp_highest), x);
  const V shifted = mul_add(x, V(T(1.4426950408889634)), V(F::magic));
  const V n = shifted - V(F::magic);
  const V high = mul_add(n, V(-F::ln2_high), x), low = n * V(F::ln2_low), r = high - low;
  // r rounds; added up from its exact upper part, exp(r) - 1 feels that in its small terms only.
  const V p = high + mul_add(detail::exp_tail(r, T(0)) * r, r, -low) + V(T(1));
  const I power = to_bits(shifted) - I(to_bits(F::magic));
  const I half = power >> 1;
  const V first = from_bits(shift_left(half + I(F::bias), F::mantissa));
  const V second = from_bits(shift_left(power - half + I(F::bias), F::mantissa));
  return select(x != x, x, p * first * second);
}

// log(x) = k ln 2 + log(1+f) with 1+f in [sqrt(1/2), sqrt(2)) and log(1+f) = 2 atanh(f / (2+f)).
// log(0) = -inf, log of a negative number is NaN, log(inf) = inf.
template <class V>
FUSESTEP_HD V log(V x) {
  using T = scalar_of<V>;
  using I = integer_of<V>;
  using F = detail::Format<T>;
  const T smallest = sizeof(T) == 4 ? T(FLT_MIN) : T(DBL_MIN);
  const T lift = sizeof(T) == 4 ? T(0x1p25) : T(0x1p54);
  const auto denormal = x < V(smallest);
  const V y = select(denormal, x * V(lift), x);
  const I root = I(to_bits(T(0.70710678118654752)));
  const I exponent = (to_bits(y) - root) >> F::mantissa;
  const V f = from_bits(to_bits(y) - shift_left(exponent, F::mantissa)) - V(T(1));
  const V k = to_floating(exponent) - select(denormal, V(sizeof(T) == 4 ? T(25) : T(54)), V(T(0)));
  const V s = f / (V(T(2)) + f);
  const V z = s * s;
  const V half_square = f * f * V(T(0.5));
  const V tail = mul_add(s, mul_add(detail::log_tail(z, T(0)), z, half_square), k * V(F::ln2_low));
  const V finite = mul_add(k, V(F::ln2_high), f - (half_square - tail));
  const V positive = select(x == infinity<V>(), x, finite);
  return select(x > V(T(0)), positive, select(x == V(T(0)), -infinity<V>(), from_bits(I(to_bits(T(NAN))))));
}

// log(1 + x) for x > -1: the logarithm of the rounded sum plus what the rounding lost (Hewlett-Packard
// 1982, after Goldberg 1991, theorem 4), so that small x keep full relative accuracy.
template <class V>
FUSESTEP_HD V log1p(V x) {
  using T = scalar_of<V>;
  const V sum = V(T(1)) + x;
  const V lost = select(sum > V(T(2)), V(T(1)) - (sum - x), x - (sum - V(T(1))));
  return select(sum == infinity<V>(), sum, select(x == V(T(0)), x, log(sum) + lost / sum));
}

FUSESTEP_TARGET_END
