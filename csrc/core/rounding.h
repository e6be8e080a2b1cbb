// Rounding to a storage type, and at random.
//
// To the nearest value, a weight stops moving once its updates are smaller than half the distance to its
// neighbours. Rounded up or down at random, with the probability that makes the mean right, it moves on
// average as it should (Gupta et al. 2015, "Deep learning with limited numerical precision").
#pragma once

#include "core/dtypes.h"

FUSESTEP_TARGET_BEGIN

// Bits that depend on the seed and the number of the element alone: not on threads, blocks or device.
// The finaliser of SplitMix64 (Steele et al. 2014).
FUSESTEP_HD uint64_t random_bits(uint64_t seed, uint64_t number) {
  uint64_t x = seed + (number + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Uniform in [0, 1), a multiple of 2^-24.
FUSESTEP_HD float random_fraction(uint64_t seed, uint64_t number) {
  return float(int32_t(random_bits(seed, number) >> 40)) * 0x1p-24f;
}

template <class S, class T>
FUSESTEP_HD T rounded_as(T x) {
  S stored;
  narrow(x, stored);
  return T(widen(stored));
}

// Up or down, to one of the two values of S next to x; `fraction` decides.
template <class S, class T>
FUSESTEP_HD T rounded_at_random(T x, float fraction) {
  S nearest;
  narrow(x, nearest);
  const T value = T(widen(nearest)), off = x - value;
  if (!(off - off == T(0)) || off == T(0)) return value;  // not finite, or nothing to round
  // The neighbour on the other side of x: one further from zero if x is, else one nearer.
  const bool outwards = (off > T(0)) == (x > T(0));
  S other{};
  other.bits = uint16_t(outwards ? nearest.bits + 1 : nearest.bits - 1);
  if (value == T(0)) other.bits = x > T(0) ? uint16_t(1) : uint16_t(0x8001);
  const T neighbour = T(widen(other)), gap = neighbour - value;
  if (!(gap - gap == T(0))) return value;  // beyond the largest value
  return T(fraction) < off / gap ? neighbour : value;
}

// `x` as it will be stored in `dtype`, still in the type it was computed in.
template <class T>
FUSESTEP_HD T rounded_to(DType dtype, T x) {
  switch (dtype) {
    case DType::bf16:
      return rounded_as<BFloat16>(x);
    case DType::f16:
      return rounded_as<Float16>(x);
    case DType::f32:
      return T(float(x));
    default:
      return x;
  }
}

template <class T>
FUSESTEP_HD T rounded_at_random_to(DType dtype, T x, uint64_t seed, uint64_t number) {
  switch (dtype) {
    case DType::bf16:
      return rounded_at_random<BFloat16>(x, random_fraction(seed, number));
    case DType::f16:
      return rounded_at_random<Float16>(x, random_fraction(seed, number));
    default:
      return rounded_to(dtype, x);
  }
}

FUSESTEP_TARGET_END
