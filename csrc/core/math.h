// Elementary functions for formulas: one branch-free text for a lane, a SIMD pack, and a CUDA thread.
//
// V is float, double, or a pack of them (cpu/simd.h), for which the primitives of core/lanes.h exist
// with the same names. Measured error bounds: tests/native/math_ulp.cpp.
#pragma once

#include "core/series.h"

FUSESTEP_TARGET_BEGIN

// max and min keep NaN whichever side it is on, as torch.maximum does and fmax does not.
template <class V>
FUSESTEP_HD V max(V a, V b) {
  return select(a != a, a, select(a > b, a, b));
}
template <class V>
FUSESTEP_HD V min(V a, V b) {
  return select(a != a, a, select(a < b, a, b));
}

// 1, 0 or -1; 0 for NaN.
template <class V>
FUSESTEP_HD V sign(V x) {
  using T = scalar_of<V>;
  return select(x > V(T(0)), V(T(1)), select(x < V(T(0)), V(T(-1)), V(T(0))));
}

// a + weight (b − a), from the nearer end: b itself for a weight of 1, and as exact next to it. One weight
// for all lanes. Source: torch.lerp.
template <class V>
FUSESTEP_HD V lerp(V a, V b, scalar_of<V> weight) {
  using T = scalar_of<V>;
  return weight < T(0.5) ? mul_add(V(weight), b - a, a) : mul_add(a - b, V(T(1) - weight), b);
}

template <class V>
FUSESTEP_HD V infinity() {
  return V(scalar_of<V>(INFINITY));
}

// 2^power x in two factors, so the result may be denormal or just below overflow. A pack may have an
// instruction for it.
template <class V>
FUSESTEP_HD V scale_by_power(V x, V, integer_of<V> power) {
  using I = integer_of<V>;
  using F = detail::Format<scalar_of<V>>;
  const I half = power >> 1;
  const V first = from_bits(shift_left(half + I(F::bias), F::mantissa));
  const V second = from_bits(shift_left(power - half + I(F::bias), F::mantissa));
  return x * first * second;
}

// a / b, where b and 1/b are normal numbers, or NaN. A pack may have something quicker than a division.
template <class V>
FUSESTEP_HD V quotient(V a, V b) {
  return a / b;
}

namespace detail {

constexpr int negligible = -45;  // exp of this, added to 1, is lost in either precision

// exp(x) = 2^power exp(r) with power = round(x / ln 2), and r = x - power ln 2 = high + low in two parts
// (Cody & Waite 1980) of which `high` is exact. x is kept between `lowest` and `highest`.
template <class V>
struct Exponential {
  V high, low, r;
  V n;  // the power, in both forms
  integer_of<V> power;
};
template <class V>
FUSESTEP_HD Exponential<V> split_exp(V x, scalar_of<V> lowest, scalar_of<V> highest) {
  using T = scalar_of<V>;
  using I = integer_of<V>;
  using F = Format<T>;
  x = clamp(x, lowest, highest);
  const V shifted = mul_add(x, V(T(1.4426950408889634)), V(F::magic));
  const V n = shifted - V(F::magic);
  const V high = mul_add(n, V(-F::ln2_high), x), low = n * V(-F::ln2_low);
  return {high, low, high + low, n, to_bits(shifted) - I(to_bits(F::magic))};
}

// exp(r) - 1 - high, where low = r - high. r rounds, and exp(r) - 1 feels that in its small terms only.
template <class V>
FUSESTEP_HD V curve(V r, V low) {
  return mul_add(exp_tail(r, scalar_of<V>(0)), r * r, low);
}

// x = 2^power (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), for a positive normal x; s = f / (2+f).
template <class V>
struct Logarithm {
  V f, s, power;
  integer_of<V> exponent;  // of 2^power, in place
};
template <class V>
FUSESTEP_HD Logarithm<V> split_log(V x) {
  using T = scalar_of<V>;
  using I = integer_of<V>;
  using F = Format<T>;
  const I power = subtract(to_bits(x), I(to_bits(T(0.70710678118654752)))) >> F::mantissa;
  const I exponent = shift_left(power, F::mantissa);
  const V f = from_bits(subtract(to_bits(x), exponent)) - V(T(1));
  return {f, quotient(f, V(T(2)) + f), to_floating(power), exponent};
}

// power ln2_high + log(1+f) + low, where log(1+f) = 2 atanh(s) and s = f / (2+f).
template <class V>
FUSESTEP_HD V join_log(V f, V s, V power, V low) {
  using T = scalar_of<V>;
  using F = Format<T>;
  const V z = s * s;
  const V half_square = f * f * V(T(0.5));
  const V tail = mul_add(s, mul_add(log_tail(z, T(0)), z, half_square), low);
  return mul_add(power, V(F::ln2_high), f - (half_square - tail));
}

// 1 / (1 + exp(x)) = above / below, above = 2^-n and below = (1 + 2^-n) + (exp(r) - 1), rounded once.
template <class V>
FUSESTEP_HD Ratio<V> logistic_ratio(V x) {
  using T = scalar_of<V>;
  using I = integer_of<V>;
  const Exponential<V> e = split_exp(x, T(negligible), -Format<T>::exp_lowest);
  const V one = V(T(1)), above = scale_by_power(one, -e.n, I(0) - e.power), whole = above + one,
          sum = whole + e.high;
  const V lost = (whole - sum + e.high) + ((one - whole) + above);
  return {above, sum + (lost + curve(e.r, e.low))};
}

// log(a + b) for a finite positive sum, |a| >= |b|: the sum rounds to u and loses c (Dekker 1971), and
// log(u + c) = log(u) + c/u (Hewlett-Packard 1982, after Goldberg 1991, theorem 4). c is half a unit in the
// last place at most, so of `inverse`(log) = 1/u a few per cent are enough.
template <class V, class Inverse>
FUSESTEP_HD V log_of_sum(V a, V b, Inverse&& inverse) {
  using T = scalar_of<V>;
  const V sum = a + b, lost = b - (sum - a);
  const Logarithm<V> log = split_log(sum);
  const V low = mul_add(log.power, V(Format<T>::ln2_low), lost * inverse(log));
  return join_log(log.f, log.s, log.power, low);
}

// Without a division: 1/u = 2^-power (1-s)/(1+s), and (1-s)/(1+s) is within 2% of 1 - 2s + 2s^2. Twice
// 2^-power has a representation for any float.
template <class V>
FUSESTEP_HD V log_of_sum(V a, V b) {
  using T = scalar_of<V>;
  using I = integer_of<V>;
  return log_of_sum(a, b, [](const Logarithm<V>& log) {
    const V twice = from_bits(subtract(I(to_bits(T(2))), log.exponent));
    return twice * mul_add(log.s, log.s - V(T(1)), V(T(0.5)));
  });
}

}  // namespace detail

// log(0) = -inf, log of a negative number is NaN, log(inf) = inf.
template <class V>
FUSESTEP_HD V log(V x) {
  using T = scalar_of<V>;
  using I = integer_of<V>;
  const T smallest = sizeof(T) == 4 ? T(FLT_MIN) : T(DBL_MIN);
  const T lift = sizeof(T) == 4 ? T(0x1p25) : T(0x1p54);
  const auto denormal = x < V(smallest);
  const detail::Logarithm<V> log = detail::split_log(select(denormal, x * V(lift), x));
  const V power = log.power - select(denormal, V(sizeof(T) == 4 ? T(25) : T(54)), V(T(0)));
  const V finite = detail::join_log(log.f, log.s, power, power * V(detail::Format<T>::ln2_low));
  const V positive = select(x == infinity<V>(), x, finite);
  return select(x > V(T(0)), positive, select(x == V(T(0)), -infinity<V>(), from_bits(I(to_bits(T(NAN))))));
}

// log(1 + x), to full relative accuracy where x is small. log1p(-1) = -inf, NaN below.
template <class V>
FUSESTEP_HD V log1p(V x) {
  using T = scalar_of<V>;
  using I = integer_of<V>;
  const V one = V(T(1));
  const auto large = x > one;
  const V finite = detail::log_of_sum(select(large, x, one), select(large, one, x));
  const V above = select(x + x == x, x, finite);  // zero, which keeps its sign, and infinity
  return select(x > -one, above, select(x == -one, -infinity<V>(), from_bits(I(to_bits(T(NAN))))));
}

// 0, denormals and infinity are met as computed: exp(-inf) = 0, exp(inf) = inf.
template <class V>
FUSESTEP_HD V exp(V x) {
  if constexpr (has_exp<V>) {
    return own_exp(x);
  } else {
    using T = scalar_of<V>;
    using F = detail::Format<T>;
    const detail::Exponential<V> e = detail::split_exp(x, F::exp_lowest, F::exp_highest);
    return scale_by_power(e.high + detail::curve(e.r, e.low) + V(T(1)), e.n, e.power);
  }
}

// Good enough for a result of 16 bits.
template <class V>
FUSESTEP_HD V rough_exp(V x) {
  if constexpr (has_exp<V>) {
    return own_rough_exp(x);
  } else {
    return exp(x);
  }
}

// exp(x - y). The difference rounds, and exp magnifies its error by its size; what was lost is recovered
// exactly (two-sum; Knuth 1969) and put back: exp(d + e) = exp(d) (1 + e).
template <class V>
FUSESTEP_HD V exp_difference(V x, V y) {
  const V d = x - y, back = d - x, lost = (x - (d - back)) - (y + back), rough = exp(d);
  return select(rough > V(scalar_of<V>(0)), mul_add(rough, lost, rough), rough);
}

// 1 - 2 / (1 + exp(2|x|)) with the sign of x; near zero, where that cancels, a continued fraction.
template <class V>
FUSESTEP_HD V tanh(V x) {
  using T = scalar_of<V>;
  const V a = abs(x), one = V(T(1));
  const auto small = a < V(T(0.78125));
  const detail::Ratio<V> inner = detail::tanh_ratio(x * x, T(0)), outer = detail::logistic_ratio(a + a);
  const V part = quotient(select(small, inner.above, outer.above + outer.above),
                          select(small, inner.below, outer.below));
  const V unit = select(small, x, select(x < V(T(0)), -one, one));
  return select(x == V(T(0)), x, mul_add(-part, unit, unit));
}

// log(cosh(x)) = |x| - ln 2 + log1p(e) and its derivative tanh(|x|) = 1 - 2e / (1 + e) of one exponential
// e = exp(-2|x|). Near zero both cancel: there log1p(cosh(x) - 1), and tanh's continued fraction.
template <class V>
struct LogCosh {
  V value, slope;

  FUSESTEP_HD explicit LogCosh(V x) {
    using T = scalar_of<V>;
    using F = detail::Format<T>;
    const V a = abs(x), zero = V(T(0)), one = V(T(1)), e = exp(-(a + a));
    const auto small = a < V(T(0.7));
    const V z = a * a, half = a * V(T(0.5)) * a;
    const V less_one = mul_add(half * z, detail::cosh_tail(z, T(0)), half);
    const V log = detail::log_of_sum(one, select(small, less_one, e));
    value = select(small, zero, a - V(F::ln2_high)) + (log - select(small, zero, V(F::ln2_low)));
    const detail::Ratio<V> near = detail::tanh_ratio(z, T(0));
    const V part = quotient(select(small, near.above, e + e), select(small, near.below, one + e));
    const V unit = select(small, x, select(x < zero, -one, one));
    slope = select(x == zero, x, mul_add(-part, unit, unit));
  }
};

// a^b for a >= 0, as exp(b log(a)): the error grows to about 1 + 1.5 |b log(a)| ULP, a hundred ULP or
// so in float before the result overflows. a^0 = 1; 0^b = 0 for b > 0.
template <class V>
FUSESTEP_HD V power(V a, V b) {
  using T = scalar_of<V>;
  return select(b == V(T(0)), V(T(1)), exp(b * log(a)));
}

FUSESTEP_TARGET_END
