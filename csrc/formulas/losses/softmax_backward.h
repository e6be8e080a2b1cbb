// The gradient of softmax from its result y and the gradient g of that result:  y_c (g_c − Σ_k g_k y_k)
// Source: torch.nn.functional.softmax.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct SoftmaxBackward : DenseRows {
  static constexpr auto operands = names("output", "grad_output");
  static constexpr int sums = 1;
  static constexpr bool finds_max = false, has_loss = false;

  explicit SoftmaxBackward(Hyper, double) {}

  template <class V, class Level>
  FUSESTEP_HD V visit(V (&sum)[sums], V y, V g, Level, V) const {
    sum[0] = mul_add(g, y, sum[0]);
    return y;
  }

  template <class V>
  FUSESTEP_HD DenseRow<V> row(const V (&sum)[sums], V) const {
    return {V(T(0)), sum[0], V(T(0)), V(T(0)), V(T(0))};
  }

  template <class V>
  FUSESTEP_HD DenseResult<V> operator()(const DenseRow<V>& row, V y, V g, V, V, V) const {
    return {y * (g - row.a), V(T(0))};
  }
};

FUSESTEP_TARGET_END
