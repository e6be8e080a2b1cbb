// Between packs of the compute type T and memory of a storage type S; and runs of elements.
#pragma once

#include <type_traits>

#include "cpu/simd.h"

FUSESTEP_TARGET_BEGIN

template <class S>
FUSESTEP_HD constexpr DType dtype_of() {
  if (std::is_same_v<S, double>) return DType::f64;
  if (std::is_same_v<S, BFloat16>) return DType::bf16;
  return std::is_same_v<S, Float16> ? DType::f16 : DType::f32;
}

// As many 16-bit numbers, or floats, as a pack of the type twice as wide has lanes.
typedef uint16_t HalfBits __attribute__((vector_size(FUSESTEP_VECTOR_BYTES / 2)));
typedef float HalfFloats __attribute__((vector_size(FUSESTEP_VECTOR_BYTES / 2)));

// One pack. What has no instructions goes lane by lane.
template <class S, class T>
FUSESTEP_HD void convert(const S* from, Pack<T>& to) {
  for (int i = 0; i < Pack<T>::lanes; ++i) to.v[i] = T(widen(load<S>(from + i)));
}
template <class T, class S>
FUSESTEP_HD void convert(Pack<T> from, S* to) {
  for (int i = 0; i < Pack<T>::lanes; ++i) {
    S stored;
    narrow(T(from.v[i]), stored);
    memcpy(to + i, &stored, sizeof(S));
  }
}

template <class T>
FUSESTEP_HD void convert(const T* from, Pack<T>& to) {
  to = load_pack(from);
}
template <class T>
FUSESTEP_HD void convert(Pack<T> from, T* to) {
  store_pack(to, from);
}

FUSESTEP_HD void convert(const float* from, Pack<double>& to) {
  HalfFloats narrow;
  memcpy(&narrow, from, sizeof(narrow));
  to.v = __builtin_convertvector(narrow, Pack<double>::native);
}

#if defined(__AVX512BW__)
// One permutation of words instead of the five instructions that the compiler makes of a conversion.
typedef uint16_t Words __attribute__((vector_size(64)));
FUSESTEP_HD void convert(const BFloat16* from, Pack<float>& to) {
  const __m512i halves = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  const Words places = {0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
                        0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
  to.v = _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, __m512i(places), halves));
}
FUSESTEP_HD void convert(Pack<float> from, BFloat16* to) {
  const auto rounded = round_to_upper_half(bit_cast<IntegerPack<float>::bits>(from.v));
  const Words places = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
  const __m512i halves = _mm512_permutexvar_epi16(__m512i(places), __m512i(rounded));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(halves));
}
#else
FUSESTEP_HD void convert(const BFloat16* from, Pack<float>& to) {
  HalfBits halves;
  memcpy(&halves, from, sizeof(halves));
  to.v = bit_cast<Pack<float>::native>(__builtin_convertvector(halves, IntegerPack<float>::bits) << 16);
}
FUSESTEP_HD void convert(Pack<float> from, BFloat16* to) {
  const auto rounded = round_to_upper_half(bit_cast<IntegerPack<float>::bits>(from.v));
  const HalfBits halves = __builtin_convertvector(rounded >> 16, HalfBits);
  memcpy(to, &halves, sizeof(halves));
}
#endif

// These agree bit for bit with core/dtypes.h on everything but NaN payloads.
#if defined(__AVX512F__)
FUSESTEP_HD void convert(const Float16* from, Pack<float>& to) {
  to.v = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
FUSESTEP_HD void convert(Pack<float> from, Float16* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(from.v, 0));
}
#elif defined(__F16C__)
FUSESTEP_HD void convert(const Float16* from, Pack<float>& to) {
  to.v = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
FUSESTEP_HD void convert(Pack<float> from, Float16* to) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(from.v, 0));
}
#endif

template <class T, class S>
FUSESTEP_HD Pack<T> load_as(const S* from) {
  Pack<T> pack;
  convert(from, pack);
  return pack;
}

template <class S, class T>
FUSESTEP_HD void store_as(S* to, Pack<T> pack) {
  convert(pack, to);
}

// The first `count` lanes, the rest `fill`; see NOTE [tail] in simd.h.
template <class T>
FUSESTEP_HD Pack<T> load_part_as(const T* from, int count, T fill) {
  return load_part(from, count, fill);
}
template <class T>
FUSESTEP_HD void store_part_as(T* to, Pack<T> pack, int count) {
  store_part(to, pack, count);
}
template <class T, class S>
FUSESTEP_HD Pack<T> load_part_as(const S* from, int count, T fill) {
  S part[Pack<T>::lanes] = {};
  memcpy(part, from, size_t(count) * sizeof(S));
  const auto there = lane_numbers<T>() < IntegerPack<T>(integer_of<T>(count));
  return select(there, load_as<T>(part), Pack<T>(fill));
}

template <class S, class T>
FUSESTEP_HD void store_part_as(S* to, Pack<T> pack, int count) {
  S part[Pack<T>::lanes];
  store_as(part, pack);
  memcpy(to, part, size_t(count) * sizeof(S));
}

template <class S, class T>
FUSESTEP_HD void widen_run(const S* from, T* to, int64_t count) {
  constexpr int L = Pack<T>::lanes;
  int64_t i = 0;
  for (; i + L <= count; i += L) store_pack(to + i, load_as<T>(from + i));
  for (; i < count; ++i) to[i] = T(widen(load<S>(from + i)));
}

template <class T, class S>
FUSESTEP_HD void narrow_run(const T* from, S* to, int64_t count) {
  constexpr int L = Pack<T>::lanes;
  int64_t i = 0;
  for (; i + L <= count; i += L) store_as(to + i, load_pack(from + i));
  for (; i < count; ++i) {
    S stored;
    narrow(from[i], stored);
    memcpy(to + i, &stored, sizeof(S));
  }
}

FUSESTEP_TARGET_END
