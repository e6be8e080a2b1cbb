// MSE(x, t):  d²          with d = x − t
// ∂/∂x     :  2d          ∂/∂t: −2d
// Source: torch.nn.functional.mse_loss.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct MSELoss : PointwiseLoss {
  static constexpr bool weighted_mean = true;

  explicit MSELoss(Hyper) {}

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 2> operator()(V input, V target) const {
    const V d = input - target, grad = d + d;
    return {d * d, {grad, -grad}};
  }
};

FUSESTEP_TARGET_END
