// The approximations under core/math.h: what a number of each format is, and polynomials and fractions
// good on the short interval that a function is reduced to.
#pragma once

#include "core/lanes.h"

FUSESTEP_TARGET_BEGIN

namespace detail {

template <class T>
struct Format;
template <>
struct Format<float> {
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float magic = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exp_lowest = -104.0f, exp_highest = 89.0f;  // exp is 0 below, infinite above
};
template <>
struct Format<double> {
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double magic = 0x1.8p52;
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double exp_lowest = -746.0, exp_highest = 710.0;
};

template <class V>
struct Ratio {
  V above, below;
};

// (exp(r) - 1 - r) / r^2 for |r| <= ln(2)/2. float: minimax, relative error 4.2e-10 of exp(r) - 1/2
// (Remez exchange), because tanh takes 1 from it; double: the Taylor series, first omitted term 4e-18.
template <class V>
FUSESTEP_HD V exp_tail(V r, float) {
  const V z = r * r;  // in pairs: half as long a chain of dependent operations (Estrin 1960)
  const V high = mul_add(V(0x1.85f3bap-13f), r, V(0x1.6d4732p-10f));
  const V middle = mul_add(V(0x1.1124acp-7f), r, V(0x1.5554eep-5f));
  return mul_add(mul_add(high, z, middle), z, mul_add(V(0x1.555548p-3f), r, V(0.5f)));
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

// 1 - tanh(x)/x as a ratio, in z = x^2: Lambert's continued fraction tanh(x) = x/(1 + z/(3 + z/(5 + ...)))
// (1761) cut off after z/11 (float) or z/17 (double). For |x| <= 25/32 the relative error of tanh is
// 2.7e-11 or 3.7e-19.
template <class V>
FUSESTEP_HD Ratio<V> tanh_ratio(V z, float) {
  const V above = mul_add(z + V(189.0f), z, V(3465.0f));
  return {z * above, mul_add(mul_add(z + V(210.0f), z, V(4725.0f)), z, V(10395.0f))};
}
template <class V>
FUSESTEP_HD Ratio<V> tanh_ratio(V z, double) {
  V above = mul_add(V(44.0), z, V(12870.0));
  above = mul_add(mul_add(above, z, V(810810.0)), z, V(11486475.0));
  V below = mul_add(mul_add(V(45.0), z, V(13860.0)), z, V(945945.0));
  below = mul_add(mul_add(below, z, V(16216200.0)), z, V(34459425.0));
  return {z * above, below};
}

// (cosh(x) - 1 - z/2) / (z^2/2) for z = x^2, |x| <= 0.7. float: minimax, relative error 3.3e-10 of
// cosh(x) - 1 (Remez exchange); double: the series, first omitted term 1.1e-18 of it.
template <class V>
FUSESTEP_HD V cosh_tail(V z, float) {
  V p = V(0x1.a456bap-15f);
  p = mul_add(p, z, V(0x1.6c122ep-9f));
  return mul_add(p, z, V(0x1.555558p-4f));
}
template <class V>
FUSESTEP_HD V cosh_tail(V z, double) {
  V p = V(1.0 / 10461394944000.0);
  p = mul_add(p, z, V(1.0 / 43589145600.0));
  p = mul_add(p, z, V(1.0 / 239500800.0));
  p = mul_add(p, z, V(1.0 / 1814400.0));
  p = mul_add(p, z, V(1.0 / 20160.0));
  p = mul_add(p, z, V(1.0 / 360.0));
  return mul_add(p, z, V(1.0 / 12.0));
}

}  // namespace detail

FUSESTEP_TARGET_END
