// SoftMargin(x, t):  log(1 + exp(−t x)) = softplus(−t x)          t is 1 or −1
// ∂/∂x            :  −t σ(−t x)                                   ∂/∂t: −x σ(−t x)
// Without overflow for large −t x, where torch's exp is infinite.
// Source: torch.nn.functional.soft_margin_loss.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"
#include "formulas/logit.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct SoftMarginLoss : PointwiseLoss {
  explicit SoftMarginLoss(Hyper) {}

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 2> operator()(V input, V target) const {
    const Logit<V> logit(-(target * input));
    return {logit.no(), {-(target * logit.p), -(input * logit.p)}};
  }
};

FUSESTEP_TARGET_END
