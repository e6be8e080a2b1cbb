// NLL of a row of log-probabilities x with label y and class weights w:  −w_y x_y
// ∂/∂x_y = −w_y, and 0 for the other classes.
// Source: torch.nn.functional.nll_loss.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct NLLLoss : RowwiseLoss {
  static constexpr int sums = 1;
  static constexpr bool reads_row = false, finds_max = false;

  explicit NLLLoss(Hyper) {}

  template <class V>
  FUSESTEP_HD Row<V> loss(const V (&)[sums], V own, V, V weight, V) const {
    return {-(weight * own), -weight, V(T(0)), V(T(0))};
  }
};

FUSESTEP_TARGET_END
