// log-softmax of a row:  y_c = x_c − log Σ_k exp(x_k)
// x is taken relative to the row maximum, whose exponential is exactly 1; log1p of the rest keeps y
// accurate where it is close to zero. Source: torch.nn.functional.log_softmax.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct LogSoftmax : DenseRows {
  static constexpr auto operands = names("input");
  static constexpr int sums = 2;  // of exp(x) below the maximum, and scores at the maximum
  static constexpr bool has_loss = false;

  explicit LogSoftmax(Hyper, double) {}

  template <class V, class Level>
  FUSESTEP_HD V visit(V (&sum)[sums], V x, V, Level level, V) const {
    const V zero = V(T(0)), d = x - level;
    const auto largest = d == zero;
    sum[0] = sum[0] + select(largest, zero, exp(d));
    sum[1] = sum[1] + select(largest, V(T(1)), zero);
    return d;
  }

  template <class V>
  FUSESTEP_HD DenseRow<V> row(const V (&sum)[sums], V) const {
    return {V(T(0)), log1p(sum[1] - V(T(1)) + sum[0]), V(T(0)), V(T(0)), V(T(0))};
  }

  template <class V>
  FUSESTEP_HD DenseResult<V> operator()(const DenseRow<V>& row, V, V, V kept, V, V) const {
    return {kept - row.a, V(T(0))};
  }
};

FUSESTEP_TARGET_END
