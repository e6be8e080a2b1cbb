// The gradient of log-softmax from its result y and the gradient g of that result:  g_c − exp(y_c) Σ_k g_k
// Source: torch.nn.functional.log_softmax.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct LogSoftmaxBackward : DenseRows {
  static constexpr auto operands = names("output", "grad_output");
  static constexpr int sums = 1;
  static constexpr bool finds_max = false, has_loss = false;

  explicit LogSoftmaxBackward(Hyper, double) {}

  template <class V, class Level>
  FUSESTEP_HD V visit(V (&sum)[sums], V y, V g, Level, V) const {
    sum[0] = sum[0] + g;
    return y;
  }

  template <class V>
  FUSESTEP_HD DenseRow<V> row(const V (&sum)[sums], V) const {
    return {V(T(0)), sum[0], V(T(0)), V(T(0)), V(T(0))};
  }

  template <class V>
  FUSESTEP_HD DenseResult<V> operator()(const DenseRow<V>& row, V y, V g, V, V, V) const {
    return {g - exp(y) * row.a, V(T(0))};
  }
};

FUSESTEP_TARGET_END
