// Pack<T>: as many lanes of T as the instruction set being compiled for holds in one register.
// With convert.h the only file that has instruction-set #ifdefs. Arithmetic is the compiler's own vector
// extension (GCC and Clang); intrinsics are used where that has no operator.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "core/math.h"
#include "core/view.h"

#if defined(__AVX512F__)
#define FUSESTEP_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define FUSESTEP_VECTOR_BYTES 32
#else
#define FUSESTEP_VECTOR_BYTES 16
#endif

FUSESTEP_TARGET_BEGIN

// The compiler's vector types, spelled out because GCC does not take the attribute on a dependent type.
template <class T>
struct Vectors;
template <>
struct Vectors<float> {
  typedef float floating __attribute__((vector_size(FUSESTEP_VECTOR_BYTES)));
  typedef int32_t integer __attribute__((vector_size(FUSESTEP_VECTOR_BYTES)));
  typedef uint32_t bits __attribute__((vector_size(FUSESTEP_VECTOR_BYTES)));
};
template <>
struct Vectors<double> {
  typedef double floating __attribute__((vector_size(FUSESTEP_VECTOR_BYTES)));
  typedef int64_t integer __attribute__((vector_size(FUSESTEP_VECTOR_BYTES)));
  typedef uint64_t bits __attribute__((vector_size(FUSESTEP_VECTOR_BYTES)));
};

// A lane mask: all bits of a lane set, or none.
template <class T>
struct Mask {
  using native = typename Vectors<T>::integer;
  native v;
  FUSESTEP_HD Mask operator&(Mask o) const { return {v & o.v}; }
  FUSESTEP_HD Mask operator|(Mask o) const { return {v | o.v}; }
};

template <class T>
struct IntegerPack {
  using lane = integer_of<T>;
  using native = typename Vectors<T>::integer;
  using bits = typename Vectors<T>::bits;  // sums wrap around, which they may only without a sign
  native v;
  FUSESTEP_HD IntegerPack(native value) : v(value) {}
  FUSESTEP_HD explicit IntegerPack(lane value) : v(native{} + value) {}
  FUSESTEP_HD IntegerPack operator+(IntegerPack o) const { return native(bits(v) + bits(o.v)); }
  FUSESTEP_HD IntegerPack operator-(IntegerPack o) const { return native(bits(v) - bits(o.v)); }
  FUSESTEP_HD IntegerPack operator>>(int bits) const { return v >> bits; }
  FUSESTEP_HD Mask<T> operator<(IntegerPack o) const { return {v < o.v}; }
  FUSESTEP_HD Mask<T> operator==(IntegerPack o) const { return {v == o.v}; }
  FUSESTEP_HD Mask<T> operator!=(IntegerPack o) const { return {v != o.v}; }
};

template <class T>
struct Pack {
  using native = typename Vectors<T>::floating;
  static constexpr int lanes = FUSESTEP_VECTOR_BYTES / int(sizeof(T));
  native v;
  Pack() = default;
  FUSESTEP_HD Pack(native value) : v(value) {}
  // Subtracting zero changes no value; adding it would turn -0 into +0.
  FUSESTEP_HD explicit Pack(T value) : v(value - native{}) {}
  FUSESTEP_HD Pack operator+(Pack o) const { return v + o.v; }
  FUSESTEP_HD Pack operator-(Pack o) const { return v - o.v; }
  FUSESTEP_HD Pack operator*(Pack o) const { return v * o.v; }
  FUSESTEP_HD Pack operator/(Pack o) const { return v / o.v; }
  FUSESTEP_HD Pack operator-() const { return -v; }
  FUSESTEP_HD Mask<T> operator<(Pack o) const { return {v < o.v}; }
  FUSESTEP_HD Mask<T> operator>(Pack o) const { return {v > o.v}; }
  FUSESTEP_HD Mask<T> operator<=(Pack o) const { return {v <= o.v}; }
  FUSESTEP_HD Mask<T> operator>=(Pack o) const { return {v >= o.v}; }
  FUSESTEP_HD Mask<T> operator==(Pack o) const { return {v == o.v}; }
  FUSESTEP_HD Mask<T> operator!=(Pack o) const { return {v != o.v}; }
};

template <class T>
struct Lanes<Pack<T>> {
  using scalar = T;
  using integer = IntegerPack<T>;
};

template <class T>
FUSESTEP_HD Pack<T> select(Mask<T> mask, Pack<T> a, Pack<T> b) {
  return mask.v ? a.v : b.v;
}
template <class T>
FUSESTEP_HD IntegerPack<T> to_bits(Pack<T> x) {
  return bit_cast<typename IntegerPack<T>::native>(x.v);
}
template <class T>
FUSESTEP_HD Pack<T> from_bits(IntegerPack<T> x) {
  return bit_cast<typename Pack<T>::native>(x.v);
}
template <class T>
FUSESTEP_HD IntegerPack<T> shift_left(IntegerPack<T> x, int bits) {
  return x.v << bits;
}
template <class T>
FUSESTEP_HD Pack<T> to_floating(IntegerPack<T> x) {
  return __builtin_convertvector(x.v, typename Pack<T>::native);
}
template <class T>
FUSESTEP_HD Pack<T> abs(Pack<T> x) {
  const T sign_bit = T(-0.0);
  return bit_cast<typename Pack<T>::native>(to_bits(x).v & ~to_bits(Pack<T>(sign_bit)).v);
}

// min and max of x86 give the second operand if one is NaN.
#if defined(__AVX512F__)
FUSESTEP_HD Pack<float> clamp(Pack<float> x, float lowest, float highest) {
  return _mm512_min_ps(_mm512_set1_ps(highest), _mm512_max_ps(_mm512_set1_ps(lowest), x.v));
}
FUSESTEP_HD Pack<double> clamp(Pack<double> x, double lowest, double highest) {
  return _mm512_min_pd(_mm512_set1_pd(highest), _mm512_max_pd(_mm512_set1_pd(lowest), x.v));
}
#elif defined(__AVX2__)
FUSESTEP_HD Pack<float> clamp(Pack<float> x, float lowest, float highest) {
  return _mm256_min_ps(_mm256_set1_ps(highest), _mm256_max_ps(_mm256_set1_ps(lowest), x.v));
}
FUSESTEP_HD Pack<double> clamp(Pack<double> x, double lowest, double highest) {
  return _mm256_min_pd(_mm256_set1_pd(highest), _mm256_max_pd(_mm256_set1_pd(lowest), x.v));
}
#else
template <class T>
FUSESTEP_HD Pack<T> clamp(Pack<T> x, T lowest, T highest) {
  x = select(x < Pack<T>(lowest), Pack<T>(lowest), x);
  return select(x > Pack<T>(highest), Pack<T>(highest), x);
}
#endif

#if defined(__AVX512F__)
// x 2^n, rounded once, for a whole number n.
FUSESTEP_HD Pack<float> scale_by_power(Pack<float> x, Pack<float> n, IntegerPack<float>) {
  return _mm512_scalef_ps(x.v, n.v);
}
FUSESTEP_HD Pack<double> scale_by_power(Pack<double> x, Pack<double> n, IntegerPack<double>) {
  return _mm512_scalef_pd(x.v, n.v);
}
#endif

#if defined(__AVX512F__)
// One step of Newton's makes 28 bits of the 14 that the instruction has.
FUSESTEP_HD Pack<float> quotient(Pack<float> a, Pack<float> b) {
  const __m512 rough = _mm512_rcp14_ps(b.v), rest = _mm512_fnmadd_ps(b.v, rough, _mm512_set1_ps(1.0f));
  return _mm512_mul_ps(a.v, _mm512_fmadd_ps(rough, rest, rough));
}
#endif

#if defined(__AVX512F__)
FUSESTEP_HD Pack<float> sqrt(Pack<float> x) { return _mm512_sqrt_ps(x.v); }
FUSESTEP_HD Pack<double> sqrt(Pack<double> x) { return _mm512_sqrt_pd(x.v); }
FUSESTEP_HD Pack<float> mul_add(Pack<float> a, Pack<float> b, Pack<float> c) {
  return _mm512_fmadd_ps(a.v, b.v, c.v);
}
FUSESTEP_HD Pack<double> mul_add(Pack<double> a, Pack<double> b, Pack<double> c) {
  return _mm512_fmadd_pd(a.v, b.v, c.v);
}
#elif defined(__AVX2__)
FUSESTEP_HD Pack<float> sqrt(Pack<float> x) { return _mm256_sqrt_ps(x.v); }
FUSESTEP_HD Pack<double> sqrt(Pack<double> x) { return _mm256_sqrt_pd(x.v); }
FUSESTEP_HD Pack<float> mul_add(Pack<float> a, Pack<float> b, Pack<float> c) {
  return _mm256_fmadd_ps(a.v, b.v, c.v);
}
FUSESTEP_HD Pack<double> mul_add(Pack<double> a, Pack<double> b, Pack<double> c) {
  return _mm256_fmadd_pd(a.v, b.v, c.v);
}
#elif defined(__x86_64__)
FUSESTEP_HD Pack<float> sqrt(Pack<float> x) { return _mm_sqrt_ps(x.v); }
FUSESTEP_HD Pack<double> sqrt(Pack<double> x) { return _mm_sqrt_pd(x.v); }
template <class T>
FUSESTEP_HD Pack<T> mul_add(Pack<T> a, Pack<T> b, Pack<T> c) {
  return a * b + c;
}
#elif defined(__aarch64__)
FUSESTEP_HD Pack<float> sqrt(Pack<float> x) {
  return bit_cast<Pack<float>::native>(vsqrtq_f32(bit_cast<float32x4_t>(x.v)));
}
FUSESTEP_HD Pack<double> sqrt(Pack<double> x) {
  return bit_cast<Pack<double>::native>(vsqrtq_f64(bit_cast<float64x2_t>(x.v)));
}
FUSESTEP_HD Pack<float> mul_add(Pack<float> a, Pack<float> b, Pack<float> c) {
  return bit_cast<Pack<float>::native>(
      vfmaq_f32(bit_cast<float32x4_t>(c.v), bit_cast<float32x4_t>(a.v), bit_cast<float32x4_t>(b.v)));
}
FUSESTEP_HD Pack<double> mul_add(Pack<double> a, Pack<double> b, Pack<double> c) {
  return bit_cast<Pack<double>::native>(
      vfmaq_f64(bit_cast<float64x2_t>(c.v), bit_cast<float64x2_t>(a.v), bit_cast<float64x2_t>(b.v)));
}
#else
template <class T>
FUSESTEP_HD Pack<T> sqrt(Pack<T> x) {
  for (int i = 0; i < Pack<T>::lanes; ++i) x.v[i] = sqrt(T(x.v[i]));
  return x;
}
template <class T>
FUSESTEP_HD Pack<T> mul_add(Pack<T> a, Pack<T> b, Pack<T> c) {
  return a * b + c;
}
#endif

template <class T>
FUSESTEP_HD Pack<T> load_pack(const T* from) {
  Pack<T> pack;
  memcpy(&pack.v, from, sizeof(pack.v));
  return pack;
}

template <class T>
FUSESTEP_HD void store_pack(T* to, Pack<T> pack) {
  memcpy(to, &pack.v, sizeof(pack.v));
}

// Lanes 0, 1, 2, …
template <class T>
FUSESTEP_HD IntegerPack<T> lane_numbers() {
  typename IntegerPack<T>::native v{};
  for (int i = 0; i < Pack<T>::lanes; ++i) v[i] = i;
  return v;
}

// combine(a, b) of N numbers, in a fixed order: the first half with the second, as long as there are two.
template <int N, class T, class Combine>
FUSESTEP_HD T fold(T* numbers, Combine&& combine) {
  if constexpr (N > 1) {
    for (int i = 0; i < N / 2; ++i) numbers[i] = combine(numbers[i], numbers[i + N / 2]);
    return fold<N / 2>(numbers, combine);
  }
  return numbers[0];
}

template <class T>
FUSESTEP_HD double sum_lanes(Pack<T> pack) {
  double lanes[Pack<T>::lanes];
  for (int i = 0; i < Pack<T>::lanes; ++i) lanes[i] = double(pack.v[i]);
  return fold<Pack<T>::lanes>(lanes, [](double a, double b) { return a + b; });
}

template <class T>
FUSESTEP_HD T max_lanes(Pack<T> pack) {
  T lanes[Pack<T>::lanes];
  store_pack(lanes, pack);
  return fold<Pack<T>::lanes>(lanes, [](T a, T b) { return max(a, b); });
}

FUSESTEP_TARGET_END
