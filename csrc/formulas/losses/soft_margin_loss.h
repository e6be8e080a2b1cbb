// SoftMargin(x, t):  log(1 + exp(−t x)) = softplus(−t x)          t is 1 or −1
// ∂/∂x            :  −t σ(−t x)                                   ∂/∂t: −x σ(−t x)
// Without overflow for large −t x, where torch's exp is infinite.
// Source: torch.nn.functional.soft_margin_loss.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct SoftMarginLoss : PointwiseLoss {
  explicit SoftMarginLoss(Hyper) {}

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 2> operator()(V input, V target) const {
    const V z = -(target * input), slope = sigmoid(z);
    return {softplus(z), {-(target * slope), -(input * slope)}};
  }
};

FUSESTEP_TARGET_END
