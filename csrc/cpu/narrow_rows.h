// Several rows at a time, the lanes of a pack being rows: for rows too short to fill packs of classes.
#pragma once

#include "cpu/row_memory.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

constexpr int64_t kNarrow = 128;  // classes; a bound on the length alone, so that layout changes no bits

// Tiles of kTileRows rows, class by class: x[c * kTileRows + r]. A row without a label has label -1.
template <class T>
struct NarrowTile {
  T x[kNarrow * kTileRows], grad[kNarrow * kTileRows];
  T loss[kTileRows], scale[kTileRows];
  integer_of<T> label[kTileRows];
};

// sum[k] = what add(class, part) adds to part[k], over all classes; in parts, because the error of a sum
// grows with the number of its terms.
template <int K, class V, class Add>
void add_up(int64_t classes, V (&sum)[K], Add&& add) {
  constexpr int64_t terms = 16;
  for (V& s : sum) s = V(0);
  for (int64_t from = 0; from < classes; from += terms) {
    V part[K];
    for (V& p : part) p = V(0);
    const int64_t to = from + terms < classes ? from + terms : classes;
    for (int64_t c = from; c < to; ++c) add(c, part);
    for (int k = 0; k < K; ++k) sum[k] = sum[k] + part[k];
  }
}

// Losses of all rows of the tile and, if wanted, their gradients times `scale`.
template <bool rough, class T, class F>
void narrow_rows(const F& formula, NarrowTile<T>& tile, const T* weight, int64_t classes, int rows,
                 bool with_grad) {
  using V = Pack<T>;
  using I = IntegerPack<T>;
  constexpr int L = V::lanes, K = F::sums;
  for (int r = 0; r < rows; r += L) {
    typename I::native numbers;
    memcpy(&numbers, tile.label + r, sizeof(numbers));
    const I label(numbers);
    V top = F::finds_max ? -infinity<V>() : V(T(0)), own = V(T(0)), own_weight = V(T(1));
    for (int64_t c = 0; c < classes; ++c) {
      const V x = load_pack(tile.x + c * kTileRows + r);
      if (F::finds_max) top = select(x > top, x, top);  // a NaN shows up again in the sums
      const auto here = label == I(typename I::lane(c));
      own = select(here, x, own);
      if (weight != nullptr) own_weight = select(here, V(weight[c]), own_weight);
    }
    const V level = formula.level(top, own);
    V sum[K];
    add_up(classes, sum, [&](int64_t c, V(&part)[K]) {
      const V x = load_pack(tile.x + c * kTileRows + r);
      const V w = weight != nullptr ? V(weight[c]) : V(T(1));
      V next[K];
      for (int k = 0; k < K; ++k) next[k] = part[k];
      const V kept = formula.visit(next, x, level_for<rough>(level), w);
      const auto here = label == I(typename I::lane(c));
      for (int k = 0; k < K; ++k) part[k] = select(here, part[k], next[k]);
      if (with_grad) store_pack(tile.grad + c * kTileRows + r, kept);
    });
    const Row<V> row = formula.loss(sum, own, level, own_weight, V(T(classes)));
    const auto ignored = label < I(typename I::lane(0));
    store_pack(tile.loss + r, select(ignored, V(T(0)), row.loss));
    if (!with_grad) continue;
    const V scale = load_pack(tile.scale + r);
    for (int64_t c = 0; c < classes; ++c) {
      T* at = tile.grad + c * kTileRows + r;
      const V w = weight != nullptr ? V(weight[c]) : V(T(1));
      const V other = formula.grad(row, load_pack(tile.x + c * kTileRows + r), load_pack(at), w);
      const V grad = select(label == I(typename I::lane(c)), row.label_grad, other) * scale;
      store_pack(at, select(ignored, V(T(0)), grad));
    }
  }
}

FUSESTEP_TARGET_END
