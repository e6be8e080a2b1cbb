// Two<X>: two packs (or masks, or packs of integers) that every operation is done to in turn.
//
// The operations of a long formula wait for each other, and a processor looks no further ahead for others
// than some hundred instructions: about one pack. With two, there are two chains in its sight. Needs twice
// the registers, so it pays where there are 32 of them.
#pragma once

#include <type_traits>

#include "cpu/convert.h"

FUSESTEP_TARGET_BEGIN

template <class X>
struct Two {
  X a, b;
  Two() = default;
  FUSESTEP_HD Two(X first, X second) : a(first), b(second) {}
  template <class Number>
  FUSESTEP_HD explicit Two(Number number) : a(number), b(number) {}
};

template <class T>
struct Lanes<Two<Pack<T>>> {
  using scalar = T;
  using integer = Two<IntegerPack<T>>;
};

// What a formula is evaluated on.
template <class T>
using Batch = std::conditional_t<FUSESTEP_VECTOR_BYTES == 64, Two<Pack<T>>, Pack<T>>;

template <class X>
constexpr int lanes_of = X::lanes;
template <class X>
constexpr int lanes_of<Two<X>> = 2 * X::lanes;

template <class X>
FUSESTEP_HD Two<X> two(X a, X b) {
  return {a, b};
}

template <class X>
FUSESTEP_HD auto operator+(Two<X> x, Two<X> y) {
  return two(x.a + y.a, x.b + y.b);
}
template <class X>
FUSESTEP_HD auto operator-(Two<X> x, Two<X> y) {
  return two(x.a - y.a, x.b - y.b);
}
template <class X>
FUSESTEP_HD auto operator*(Two<X> x, Two<X> y) {
  return two(x.a * y.a, x.b * y.b);
}
template <class X>
FUSESTEP_HD auto operator/(Two<X> x, Two<X> y) {
  return two(x.a / y.a, x.b / y.b);
}
template <class X>
FUSESTEP_HD auto operator-(Two<X> x) {
  return two(-x.a, -x.b);
}
template <class X>
FUSESTEP_HD auto operator<(Two<X> x, Two<X> y) {
  return two(x.a < y.a, x.b < y.b);
}
template <class X>
FUSESTEP_HD auto operator>(Two<X> x, Two<X> y) {
  return two(x.a > y.a, x.b > y.b);
}
template <class X>
FUSESTEP_HD auto operator<=(Two<X> x, Two<X> y) {
  return two(x.a <= y.a, x.b <= y.b);
}
template <class X>
FUSESTEP_HD auto operator>=(Two<X> x, Two<X> y) {
  return two(x.a >= y.a, x.b >= y.b);
}
template <class X>
FUSESTEP_HD auto operator==(Two<X> x, Two<X> y) {
  return two(x.a == y.a, x.b == y.b);
}
template <class X>
FUSESTEP_HD auto operator!=(Two<X> x, Two<X> y) {
  return two(x.a != y.a, x.b != y.b);
}
template <class X>
FUSESTEP_HD auto operator&(Two<X> x, Two<X> y) {
  return two(x.a & y.a, x.b & y.b);
}
template <class X>
FUSESTEP_HD auto operator|(Two<X> x, Two<X> y) {
  return two(x.a | y.a, x.b | y.b);
}
template <class X>
FUSESTEP_HD auto operator>>(Two<X> x, int bits) {
  return two(x.a >> bits, x.b >> bits);
}

template <class M, class X>
FUSESTEP_HD Two<X> select(Two<M> mask, Two<X> x, Two<X> y) {
  return {select(mask.a, x.a, y.a), select(mask.b, x.b, y.b)};
}
template <class X>
FUSESTEP_HD auto to_bits(Two<X> x) {
  return two(to_bits(x.a), to_bits(x.b));
}
template <class X>
FUSESTEP_HD auto from_bits(Two<X> x) {
  return two(from_bits(x.a), from_bits(x.b));
}
template <class X>
FUSESTEP_HD auto shift_left(Two<X> x, int bits) {
  return two(shift_left(x.a, bits), shift_left(x.b, bits));
}
template <class X>
FUSESTEP_HD auto to_floating(Two<X> x) {
  return two(to_floating(x.a), to_floating(x.b));
}
template <class X>
FUSESTEP_HD auto abs(Two<X> x) {
  return two(abs(x.a), abs(x.b));
}
template <class X>
FUSESTEP_HD auto sqrt(Two<X> x) {
  return two(sqrt(x.a), sqrt(x.b));
}
template <class X, class T>
FUSESTEP_HD auto clamp(Two<X> x, T lowest, T highest) {
  return two(clamp(x.a, lowest, highest), clamp(x.b, lowest, highest));
}
template <class X>
FUSESTEP_HD auto mul_add(Two<X> x, Two<X> y, Two<X> z) {
  return two(mul_add(x.a, y.a, z.a), mul_add(x.b, y.b, z.b));
}
template <class X>
FUSESTEP_HD auto quotient(Two<X> x, Two<X> y) {
  return two(quotient(x.a, y.a), quotient(x.b, y.b));
}
template <class X, class I>
FUSESTEP_HD auto scale_by_power(Two<X> x, Two<X> n, Two<I> power) {
  return two(scale_by_power(x.a, n.a, power.a), scale_by_power(x.b, n.b, power.b));
}

template <class S, class T>
FUSESTEP_HD void convert(const S* from, Two<Pack<T>>& to) {
  convert(from, to.a);
  convert(from + Pack<T>::lanes, to.b);
}
template <class T, class S>
FUSESTEP_HD void convert(Two<Pack<T>> from, S* to) {
  convert(from.a, to);
  convert(from.b, to + Pack<T>::lanes);
}

template <class T>
FUSESTEP_HD bool any_above_zero(Pack<T> x) {
  return max_lanes(x) > T(0);
}
template <class X>
FUSESTEP_HD bool any_above_zero(Two<X> x) {
  return any_above_zero(x.a) || any_above_zero(x.b);
}

FUSESTEP_TARGET_END
