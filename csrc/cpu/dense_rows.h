// Rows of classes with a second operand for each class, or none: the two loops of the dense shape. The
// lanes of a pack are classes of one row (wide), or rows (narrow).
#pragma once

#include "cpu/narrow_rows.h"
#include "cpu/wide_rows.h"

FUSESTEP_TARGET_BEGIN

// One row in dense memory. `target` and `weight` may be null; so may `first` and `second`, where the
// results go. `kept` is memory for what `visit` returns; it may be `first`.
template <class T, class S>
struct DenseLine {
  const S *x, *target;
  const T* weight;
  T* kept;
  S *first, *second;
  int64_t classes;
};

// Returns the row's loss.
template <bool rough, class T, class S, class F>
T wide_dense(const F& formula, const DenseLine<T, S>& line, T scale) {
  using V = Pack<T>;
  constexpr int L = V::lanes, K = F::sums, unroll = 2;
  const int64_t classes = line.classes;
  const V level = V(formula.level(F::finds_max ? row_max<T>(line.x, classes) : T(0)));
  V sum[unroll][K];
  for (auto& part : sum) {
    for (V& s : part) s = V(T(0));
  }
  const auto whole = [&](const auto* from, int64_t c, T absent) {
    return from != nullptr ? load_as<T>(from + c) : V(absent);
  };
  const auto partly = [&](const auto* from, int64_t c, int rest, T absent) {
    return from != nullptr ? load_part_as<T>(from + c, rest, absent) : V(absent);
  };
  // See NOTE [prefetch] in blocks.h. The next row is asked for, and what will be written.
  const bool in_place = static_cast<const void*>(line.kept) == static_cast<const void*>(line.first);
  const auto prefetch = [&](int64_t c) {
    __builtin_prefetch(line.x + classes + c, 0, 2);
    if (line.target != nullptr) __builtin_prefetch(line.target + classes + c, 0, 2);
    if (line.first != nullptr) prefetch_to_write(line.first + c, in_place ? kAhead : 0);
    if (line.second != nullptr) prefetch_to_write(line.second + c, 0);
  };
  int64_t c = 0;
  for (; c + unroll * L <= classes; c += unroll * L) {
    for (int u = 0; u < unroll; ++u) {
      const int64_t at = c + u * L;
      if (starts_line<S>(u * L)) prefetch(at);
      const V kept = formula.visit(sum[u], load_as<T>(line.x + at), whole(line.target, at, T(0)),
                                   level_for<rough>(level), whole(line.weight, at, T(1)));
      if (line.kept != nullptr) store_pack(line.kept + at, kept);
    }
  }
  for (; c < classes; c += L) {
    const int rest = classes - c < L ? int(classes - c) : L;
    V next[K];
    for (int k = 0; k < K; ++k) next[k] = sum[0][k];
    const V kept =
        formula.visit(next, load_part_as<T>(line.x + c, rest, T(0)), partly(line.target, c, rest, T(0)),
                      level_for<rough>(level), partly(line.weight, c, rest, T(1)));
    if (line.kept != nullptr) store_part(line.kept + c, kept, rest);
    const auto counts = lane_numbers<T>() < IntegerPack<T>(typename IntegerPack<T>::lane(rest));
    for (int k = 0; k < K; ++k) sum[0][k] = select(counts, next[k], sum[0][k]);
  }
  T total[K];
  for (int k = 0; k < K; ++k) total[k] = T(sum_lanes(sum[0][k]) + sum_lanes(sum[1][k]));
  const DenseRow<T> one = formula.row(total, T(level.v[0]));
  if (line.first == nullptr && line.second == nullptr) return one.loss;

  const DenseRow<V> row{V(one.loss), V(one.a), V(one.b), V(one.c), V(one.d)};
  const auto finish = [&](int64_t at, auto&& read, auto&& write) {
    const auto r = formula(row, read(line.x, at, T(0)), read(line.target, at, T(0)),
                           read(line.kept, at, T(0)), level, read(line.weight, at, T(1)));
    if (line.first != nullptr) write(line.first + at, r.first * V(scale));
    if (line.second != nullptr) write(line.second + at, r.second * V(scale));
  };
  for (c = 0; c + L <= classes; c += L) finish(c, whole, [](S* to, V pack) { store_as(to, pack); });
  if (c < classes) {
    const int rest = int(classes - c);
    finish(
        c, [&](const auto* from, int64_t at, T absent) { return partly(from, at, rest, absent); },
        [rest](S* to, V pack) { store_part_as(to, pack, rest); });
  }
  return one.loss;
}

// Tiles of kTileRows rows, class by class, as NarrowTile.
template <class T>
struct DenseTile {
  T x[kNarrow * kTileRows], target[kNarrow * kTileRows], first[kNarrow * kTileRows],
      second[kNarrow * kTileRows];
  T loss[kTileRows], scale[kTileRows];
};

template <bool rough, class T, class F>
void narrow_dense(const F& formula, DenseTile<T>& tile, const T* weight, int64_t classes, int rows,
                  bool with_results) {
  using V = Pack<T>;
  constexpr int L = V::lanes, K = F::sums;
  for (int r = 0; r < rows; r += L) {
    const auto at = [&](const T* values, int64_t c) { return load_pack(values + c * kTileRows + r); };
    const auto weight_at = [&](int64_t c) { return weight != nullptr ? V(weight[c]) : V(T(1)); };
    V top = F::finds_max ? -infinity<V>() : V(T(0));
    for (int64_t c = 0; F::finds_max && c < classes; ++c) {
      const V x = at(tile.x, c);
      top = select(x > top, x, top);  // a NaN shows up again in the sums
    }
    const V level = formula.level(top);
    V sum[K];
    add_up(classes, sum, [&](int64_t c, V(&part)[K]) {
      const V kept =
          formula.visit(part, at(tile.x, c), at(tile.target, c), level_for<rough>(level), weight_at(c));
      if (with_results) store_pack(tile.first + c * kTileRows + r, kept);
    });
    const DenseRow<V> row = formula.row(sum, level);
    store_pack(tile.loss + r, row.loss);
    if (!with_results) continue;
    const V scale = load_pack(tile.scale + r);
    for (int64_t c = 0; c < classes; ++c) {
      const auto result =
          formula(row, at(tile.x, c), at(tile.target, c), at(tile.first, c), level, weight_at(c));
      store_pack(tile.first + c * kTileRows + r, result.first * scale);
      store_pack(tile.second + c * kTileRows + r, result.second * scale);
    }
  }
}

FUSESTEP_TARGET_END
