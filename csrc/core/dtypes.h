// Storage types, what each computes in, and the one switch from a run-time dtype to a C++ type.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/macros.h"

namespace fusestep {

enum class DType : uint8_t { f32, f64, bf16, f16, i8, i16, i32, i64, u8, u16, u32, u64 };

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

}  // namespace fusestep

FUSESTEP_TARGET_BEGIN

FUSESTEP_HD constexpr bool is_floating(DType dtype) { return dtype <= DType::f16; }

FUSESTEP_HD constexpr int size_of(DType dtype) {
  switch (dtype) {
    case DType::i8:
    case DType::u8:
      return 1;
    case DType::bf16:
    case DType::f16:
    case DType::i16:
    case DType::u16:
      return 2;
    case DType::f64:
    case DType::i64:
    case DType::u64:
      return 8;
    default:
      return 4;
  }
}

template <class T>
struct Tag {
  using type = T;
};

// NOTE [dispatch]: `visit` is called with Tag<S> for the storage type S of `dtype`.
template <class Visit>
FUSESTEP_HD void dispatch_floating(DType dtype, Visit&& visit) {
  switch (dtype) {
    case DType::f64:
      return visit(Tag<double>{});
    case DType::bf16:
      return visit(Tag<BFloat16>{});
    case DType::f16:
      return visit(Tag<Float16>{});
    default:
      return visit(Tag<float>{});
  }
}

template <class To, class From>
FUSESTEP_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs types of equal size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// A CUDA device has instructions for these, which give the same bits, but for those of a NaN.
//
// Widening is exact. bfloat16 is the upper half of a float.
FUSESTEP_HD float widen(float x) { return x; }
FUSESTEP_HD double widen(double x) { return x; }
FUSESTEP_HD float widen(BFloat16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }
FUSESTEP_HD float widen(Float16 x) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
#else
  // Shifted into a float's fields the value is too small by the difference of the exponent biases,
  // 2^(127-15); multiplying puts that right and turns half denormals into normal floats.
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, magnitude = uint32_t(x.bits & 0x7fffu) << 13;
  const uint32_t finite = bit_cast<uint32_t>(bit_cast<float>(magnitude) * 0x1p112f);
  return bit_cast<float>(sign | (magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite));
#endif
}

// Narrowing rounds once, to nearest even (IEEE 754); NaN stays NaN.
FUSESTEP_HD void narrow(float x, float& to) { to = x; }
FUSESTEP_HD void narrow(double x, double& to) { to = x; }
FUSESTEP_HD void narrow(double x, float& to) { to = float(x); }
FUSESTEP_HD void narrow(float x, double& to) { to = x; }
// Of the bits of floats (one, or a vector of them): their upper halves become those of the nearest bfloat16.
template <class U>
FUSESTEP_HD U round_to_upper_half(U bits) {
  const U rounded = bits + 0x7fffu + ((bits >> 16) & 1u), nan = bits | 0x400000u;
  return (bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded;
}
FUSESTEP_HD void narrow(float x, BFloat16& to) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
  to.bits = uint16_t(round_to_upper_half(bit_cast<uint32_t>(x)) >> 16);
#endif
}
FUSESTEP_HD void narrow(float x, Float16& to) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
  const uint32_t bits = bit_cast<uint32_t>(x), magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // 0.5f has the spacing of half denormals, so the addition itself rounds to them.
  const uint32_t denormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - bit_cast<uint32_t>(0.5f);
  const uint32_t small = magnitude < 0x38800000u ? denormal : normal;  // below 2^-14
  const uint32_t finite = magnitude >= 0x477ff000u ? 0x7c00u : small;  // from 65520 on: inf
  const uint32_t value = magnitude > 0x7f800000u ? 0x7e00u : finite;   // NaN
  to.bits = uint16_t(((bits >> 16) & 0x8000u) | value);
#endif
}
// Through float the value would round twice. Rounding to odd first keeps every bit that matters.
template <class Half>
FUSESTEP_HD void narrow(double x, Half& to) {
  float nearest = float(x);
  if (double(nearest) != x && nearest == nearest && nearest - nearest == 0.0f) {
    uint32_t bits = bit_cast<uint32_t>(nearest);
    const bool away = x > 0 ? double(nearest) > x : double(nearest) < x;  // from zero
    bits = (away ? bits - 1u : bits) | 1u;
    nearest = bit_cast<float>(bits);
  }
  narrow(nearest, to);
}

FUSESTEP_TARGET_END
