// KL(x, t):  t (log t − x),  0 at t = 0          x: logarithms of probabilities
// ∂/∂x    :  −t              ∂/∂t: log t + 1 − x (at t = 0 NaN, as in torch)
// with log_target, t being logarithms:  e^t (t − x),  ∂/∂x: −e^t,  ∂/∂t: e^t (t − x + 1)
// Kullback & Leibler 1951. Source: torch.nn.functional.kl_div.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct KLDivLoss : PointwiseLoss {
  static constexpr auto hyper = names("log_target");

  explicit KLDivLoss(Hyper h) : log_target(h[0] != 0) {}

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 2> operator()(V input, V target) const {
    const V one = V(T(1));
    if (log_target) {
      const V p = exp(target), ratio = target - input;
      return {p * ratio, {-p, p * (ratio + one)}};
    }
    const auto absent = target == V(T(0));
    const V ratio = log(target) - input;
    // 0 x, not 0: an input of −∞ makes it NaN.
    return {select(absent, -(target * input), target * ratio), {-target, ratio + target / target}};
  }

  bool log_target;
};

FUSESTEP_TARGET_END
