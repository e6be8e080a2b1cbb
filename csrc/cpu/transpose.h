// Rows of memory into the lanes of packs, and back: squares of as many rows as a pack has lanes.
#pragma once

#include <utility>

#include "cpu/convert.h"

FUSESTEP_TARGET_BEGIN

// Exchanges, in two rows of a square, the lanes whose number differs in the bit `distance`.
template <int distance, class T, int... lane>
FUSESTEP_HD void exchange_lanes(Pack<T>& a, Pack<T>& b, std::integer_sequence<int, lane...>) {
  constexpr int L = Pack<T>::lanes;
  const auto low = __builtin_shufflevector(a.v, b.v, (lane & distance ? L + lane - distance : lane)...);
  b.v = __builtin_shufflevector(a.v, b.v, (lane & distance ? L + lane : lane + distance)...);
  a.v = low;
}

// Transposed by exchanging quarters, then those of each quarter (Eklundh 1972).
template <int distance, class T>
FUSESTEP_HD void transpose_from(Pack<T> (&square)[Pack<T>::lanes]) {
  constexpr int L = Pack<T>::lanes;
  if constexpr (distance < L) {
    for (int i = 0; i < L; ++i) {
      if (i & distance) continue;
      exchange_lanes<distance>(square[i], square[i + distance], std::make_integer_sequence<int, L>());
    }
    transpose_from<2 * distance>(square);
  }
}

// to[c * step + i] = from(i)[c] for as many rows i as a pack has lanes, and `classes` numbers c of each.
template <class T, class From>
void transpose_to_lanes(int64_t classes, T* to, int64_t step, From&& from) {
  constexpr int L = Pack<T>::lanes;
  Pack<T> square[L];
  for (int64_t c = 0; c < classes; c += L) {
    const int rest = classes - c < L ? int(classes - c) : L;
    if (rest == L) {
      for (int i = 0; i < L; ++i) square[i] = load_as<T>(from(i) + c);
    } else {
      for (int i = 0; i < L; ++i) square[i] = load_part_as<T>(from(i) + c, rest, T(0));
    }
    transpose_from<1>(square);
    for (int i = 0; i < rest; ++i) store_pack(to + (c + i) * step, square[i]);
  }
}

// to(i)[c] = from[c * step + i].
template <class T, class To>
void transpose_from_lanes(int64_t classes, const T* from, int64_t step, To&& to) {
  constexpr int L = Pack<T>::lanes;
  Pack<T> square[L];
  for (int64_t c = 0; c < classes; c += L) {
    const int rest = classes - c < L ? int(classes - c) : L;
    for (int i = 0; i < L; ++i) square[i] = load_pack(from + (c + (i < rest ? i : 0)) * step);
    transpose_from<1>(square);
    if (rest == L) {
      for (int i = 0; i < L; ++i) store_as(to(i) + c, square[i]);
    } else {
      for (int i = 0; i < L; ++i) store_part_as(to(i) + c, square[i], rest);
    }
  }
}

FUSESTEP_TARGET_END
