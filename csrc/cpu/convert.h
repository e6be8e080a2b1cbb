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
  for (int i = 0; i < Pack<T>::lanes; ++i) store<S>(to + i, T(from.v[i]));
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

// Half types agree bit for bit with core/dtypes.h on everything but NaN payloads.
#if defined(__AVX512BW__)
// One permutation of words instead of the five instructions that the compiler makes of a conversion.
typedef uint16_t Words __attribute__((vector_size(64)));
FUSESTEP_HD Pack<float> widen_all(__m256i halves, BFloat16) {
  const Words places = {0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
                        0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
  const __m512i words = _mm512_castsi256_si512(halves);
  return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, __m512i(places), words));
}
FUSESTEP_HD __m256i narrow_all(Pack<float> pack, BFloat16) {
  const auto rounded = round_to_upper_half(bit_cast<IntegerPack<float>::bits>(pack.v));
  const Words places = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
  return _mm512_castsi512_si256(_mm512_permutexvar_epi16(__m512i(places), __m512i(rounded)));
}
FUSESTEP_HD Pack<float> widen_all(__m256i halves, Float16) { return _mm512_cvtph_ps(halves); }
FUSESTEP_HD __m256i narrow_all(Pack<float> pack, Float16) { return _mm512_cvtps_ph(pack.v, 0); }

template <class S>
using if_half = std::enable_if_t<sizeof(S) == sizeof(uint16_t)>;

template <class S, class = if_half<S>>
FUSESTEP_HD void convert(const S* from, Pack<float>& to) {
  to = widen_all(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), S());
}
template <class S, class = if_half<S>>
FUSESTEP_HD void convert(Pack<float> from, S* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow_all(from, S()));
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
#if defined(__F16C__)
FUSESTEP_HD void convert(const Float16* from, Pack<float>& to) {
  to.v = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
FUSESTEP_HD void convert(Pack<float> from, Float16* to) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(from.v, 0));
}
#endif
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

// The first `count` lanes, the rest `fill`. NOTE [tail]: an engine works on whole packs only; the
// last one of a run is loaded and stored through these, so a formula has no scalar twin.
template <class T>
FUSESTEP_HD Pack<T> load_part(const T* from, int count, T fill) {
  Pack<T> pack(fill);
  memcpy(&pack.v, from, size_t(count) * sizeof(T));
  return pack;
}

template <class T>
FUSESTEP_HD void store_part(T* to, Pack<T> pack, int count) {
  memcpy(to, &pack.v, size_t(count) * sizeof(T));
}

// Lanes that a mask leaves out are not touched in memory.
#if defined(__AVX512F__)
FUSESTEP_HD Pack<float> load_part(const float* from, int count, float fill) {
  return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), __mmask16((1u << count) - 1u), from);
}
FUSESTEP_HD void store_part(float* to, Pack<float> pack, int count) {
  _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1u), pack.v);
}
FUSESTEP_HD Pack<double> load_part(const double* from, int count, double fill) {
  return _mm512_mask_loadu_pd(_mm512_set1_pd(fill), __mmask8((1u << count) - 1u), from);
}
FUSESTEP_HD void store_part(double* to, Pack<double> pack, int count) {
  _mm512_mask_storeu_pd(to, __mmask8((1u << count) - 1u), pack.v);
}
#elif defined(__AVX2__)
template <class T>
FUSESTEP_HD __m256i first_lanes(int count) {
  return __m256i((lane_numbers<T>() < IntegerPack<T>(integer_of<T>(count))).v);
}
FUSESTEP_HD Pack<float> load_part(const float* from, int count, float fill) {
  const __m256i lanes = first_lanes<float>(count);
  return _mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(from, lanes), _mm256_castsi256_ps(lanes));
}
FUSESTEP_HD void store_part(float* to, Pack<float> pack, int count) {
  _mm256_maskstore_ps(to, first_lanes<float>(count), pack.v);
}
FUSESTEP_HD Pack<double> load_part(const double* from, int count, double fill) {
  const __m256i lanes = first_lanes<double>(count);
  return _mm256_blendv_pd(_mm256_set1_pd(fill), _mm256_maskload_pd(from, lanes), _mm256_castsi256_pd(lanes));
}
FUSESTEP_HD void store_part(double* to, Pack<double> pack, int count) {
  _mm256_maskstore_pd(to, first_lanes<double>(count), pack.v);
}
#endif

// The same of a storage type.
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

#if defined(__AVX512BW__)
template <class T, class S, class = if_half<S>>
FUSESTEP_HD Pack<float> load_part_as(const S* from, int count, float fill) {
  const __mmask16 lanes = __mmask16((1u << count) - 1u);
  const Pack<float> all = widen_all(_mm256_maskz_loadu_epi16(lanes, from), S());
  return _mm512_mask_blend_ps(lanes, _mm512_set1_ps(fill), all.v);
}
template <class S, class = if_half<S>>
FUSESTEP_HD void store_part_as(S* to, Pack<float> pack, int count) {
  _mm256_mask_storeu_epi16(to, __mmask16((1u << count) - 1u), narrow_all(pack, S()));
}
#endif

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
  for (; i < count; ++i) store<S>(to + i, from[i]);
}

// work(Tag<S>()) with the half type S that lies_in(Tag<S>()), or else with T.
template <class T, class LiesIn, class Work>
auto by_storage(LiesIn&& lies_in, Work&& work) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (lies_in(Tag<BFloat16>())) return work(Tag<BFloat16>());
    if (lies_in(Tag<Float16>())) return work(Tag<Float16>());
  }
  return work(Tag<T>());
}

FUSESTEP_TARGET_END
