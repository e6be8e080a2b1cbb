// One row at a time, the lanes of a pack being classes: for rows of many classes.
#pragma once

#include "cpu/blocks.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

constexpr int64_t kBatchClasses = 3072;  // of all rows of a RowBatch
constexpr int64_t kShort = 512;  // classes; up to here a branch for the label is mispredicted too often

template <class T, class S>
T row_max(const S* x, int64_t classes) {
  using V = Pack<T>;
  constexpr int L = V::lanes;
  V best[4] = {-infinity<V>(), -infinity<V>(), -infinity<V>(), -infinity<V>()};
  int64_t c = 0;
  for (; c + 4 * L <= classes; c += 4 * L) {
    for (int k = 0; k < 4; ++k) {
      const V v = load_as<T>(x + c + k * L);
      best[k] = select(v > best[k], v, best[k]);  // a NaN shows up again in the sums
    }
  }
  for (; c < classes; c += L) {
    const int rest = classes - c < L ? int(classes - c) : L;
    const V v = load_part_as<T>(x + c, rest, T(-INFINITY));
    best[0] = select(v > best[0], v, best[0]);
  }
  return max_lanes(max(max(best[0], best[1]), max(best[2], best[3])));
}

// Rows so long that the next one cannot be in the second cache beside a row and what is kept of it: it is
// asked for when the row is done with.
template <class S>
bool is_long_row(int64_t classes) {
  return classes * int64_t(sizeof(S)) > 256 * 1024;
}

// Rows between their sums and their gradients. What a row needs once, mostly logarithms, is computed for
// all of them together, the lanes of a pack being rows; a lane without a row computes on zeros.
template <class T, class F>
struct RowBatch {
  static constexpr int size = Pack<T>::lanes;
  T sums[F::sums][size], own[size], level[size], weight[size];
  T loss[size], label_grad[size], scale[size], shift[size];
  int64_t label[size];

  // As many as stay in the first cache until their gradients are computed.
  static int rows_for(int64_t classes) {
    const int64_t wish = kBatchClasses / (classes > 0 ? classes : 1);
    return wish < 1 ? 1 : wish > size ? size : int(wish);
  }

  void finish(const F& formula, int64_t classes) {
    using V = Pack<T>;
    V sum[F::sums];
    for (int k = 0; k < F::sums; ++k) sum[k] = load_pack(sums[k]);
    const Row<V> row = formula.loss(sum, load_pack(own), load_pack(level), load_pack(weight), V(T(classes)));
    store_pack(loss, row.loss);
    store_pack(label_grad, row.label_grad);
    store_pack(scale, row.scale);
    store_pack(shift, row.shift);
  }

  Row<T> row(int i) const { return {loss[i], label_grad[i], scale[i], shift[i]}; }
};

// Sums over all classes but `label`, and in `kept` (if not null) what the formula wants back.
template <bool rough, class T, class S, class F>
void row_sums(const F& formula, const S* x, const T* weight, int64_t classes, int64_t label, T level, T* kept,
              S* grad, T (&total)[F::sums]) {
  using V = Pack<T>;
  constexpr int L = V::lanes, K = F::sums, unroll = 2;
  V sum[unroll][K];
  for (auto& part : sum) {
    for (V& s : part) s = V(T(0));
  }
  const auto pack_at = [&](int64_t c, V(&into)[K]) {
    const V w = weight != nullptr ? load_pack(weight + c) : V(T(1));
    const V k = formula.visit(into, load_as<T>(x + c), level_for<rough>(V(level)), w);
    if (kept != nullptr) store_pack(kept + c, k);
  };
  using Lane = typename IntegerPack<T>::lane;
  const auto label_lane = [&](int64_t c) {
    return IntegerPack<T>(label >= c && label < c + L ? Lane(label - c) : Lane(L));
  };
  // A pack that may hold the label, which does not count.
  const auto careful_pack_at = [&](int64_t c, V(&into)[K]) {
    V next[K];
    for (int k = 0; k < K; ++k) next[k] = into[k];
    pack_at(c, next);
    const auto label_here = lane_numbers<T>() == label_lane(c);
    for (int k = 0; k < K; ++k) into[k] = select(label_here, into[k], next[k]);
  };
  // And one that may be cut short by the end of the row.
  const auto last_pack_at = [&](int64_t c, V(&into)[K]) {
    const int rest = classes - c < L ? int(classes - c) : L;
    V next[K];
    for (int k = 0; k < K; ++k) next[k] = into[k];
    const V w = weight != nullptr ? load_part(weight + c, rest, T(0)) : V(T(1));
    const V k = formula.visit(next, load_part_as<T>(x + c, rest, T(0)), level_for<rough>(V(level)), w);
    if (kept != nullptr) store_part(kept + c, k, rest);
    const auto lanes = lane_numbers<T>();
    const auto counts = (lanes < IntegerPack<T>(Lane(rest))) & (lanes != label_lane(c));
    for (int k2 = 0; k2 < K; ++k2) into[k2] = select(counts, next[k2], into[k2]);
  };

  const bool in_place = static_cast<const void*>(kept) == static_cast<const void*>(grad);
  const int64_t step = unroll * L, whole = classes / step * step, label_at = label / step * step;
  const bool late = grad != nullptr && is_long_row<S>(classes);
  const auto run = [&](int64_t from, int64_t to) {
    for (int64_t c = from; c < to; c += step) {
      for (int u = 0; u < unroll; ++u) {
        const int64_t at = c + u * L;
        if (starts_line<S>(u * L)) {                              // see NOTE [prefetch] in blocks.h
          if (!late) __builtin_prefetch(x + classes + at, 0, 2);  // the next row
          if (grad != nullptr) prefetch_to_write(grad + at, in_place ? kAhead : 0);
        }
        pack_at(at, sum[u]);
      }
    }
  };
  const auto careful_run = [&](int64_t from, int64_t to) {
    for (int64_t c = from; c < to; c += step) {
      for (int u = 0; u < unroll; ++u) careful_pack_at(c + u * L, sum[u]);
    }
  };
  if (classes <= kShort) {
    careful_run(0, whole);
  } else if (label_at < whole) {
    run(0, label_at);
    careful_run(label_at, label_at + step);
    run(label_at + step, whole);
  } else {
    run(0, whole);
  }
  for (int u = 0; u < unroll && whole + u * L < classes; ++u) last_pack_at(whole + u * L, sum[u]);
  for (int k = 0; k < K; ++k) {
    total[k] = formula.uses_sum(k) ? T(sum_lanes(sum[0][k] + sum[1][k])) : T(0);
  }
}

// Into `grad`, which may be `kept`.
template <class T, class S, class F>
void row_grad(const F& formula, const Row<T>& one, const S* x, const T* kept, const T* weight,
              int64_t classes, int64_t label, T scale, S* grad) {
  using V = Pack<T>;
  constexpr int L = V::lanes;
  const Row<V> row{V(one.loss), V(one.label_grad), V(one.scale), V(one.shift)};
  int64_t c = 0;
  const bool late = is_long_row<S>(classes);
  for (; c + L <= classes; c += L) {
    if (late && starts_line<S>(int(c))) __builtin_prefetch(x + classes + c, 0, 2);
    const V w = weight != nullptr ? load_pack(weight + c) : V(T(1));
    store_as(grad + c, formula.grad(row, load_as<T>(x + c), load_pack(kept + c), w) * V(scale));
  }
  if (c < classes) {
    const int rest = int(classes - c);
    const V w = weight != nullptr ? load_part(weight + c, rest, T(1)) : V(T(1));
    const V own = load_part_as<T>(x + c, rest, T(0)), k = load_part(kept + c, rest, T(0));
    store_part_as(grad + c, formula.grad(row, own, k, w) * V(scale), rest);
  }
  store<S>(grad + label, one.label_grad * scale);
}

FUSESTEP_TARGET_END
