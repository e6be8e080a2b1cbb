// softmax of a row:  y_c = exp(x_c) / Σ_k exp(x_k)
// x is taken relative to the row maximum, so nothing overflows.
// Source: torch.nn.functional.softmax.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct Softmax : DenseRows {
  static constexpr auto operands = names("input");
  static constexpr int sums = 1;
  static constexpr bool has_loss = false;

  explicit Softmax(Hyper, double) {}

  template <class V, class Level>
  FUSESTEP_HD V visit(V (&sum)[sums], V x, V, Level level, V) const {
    const V e = exp_difference(x, level);
    sum[0] = sum[0] + e;
    return e;
  }

  template <class V>
  FUSESTEP_HD DenseRow<V> row(const V (&sum)[sums], V) const {
    return {V(T(0)), sum[0], V(T(1)) / sum[0], V(T(0)), V(T(0))};
  }

  template <class V>
  FUSESTEP_HD DenseResult<V> operator()(const DenseRow<V>& row, V, V, V kept, V, V) const {
    // kept / row.a with one division a row: by way of its reciprocal, and what that left over.
    const V share = kept * row.b, rest = mul_add(-share, row.a, kept);
    return {mul_add(rest, row.b, share), V(T(0))};
  }
};

FUSESTEP_TARGET_END
