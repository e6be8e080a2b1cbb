// L1(x, t):  |d|          with d = x − t
// ∂/∂x    :  sign(d), 0 at d = 0 and, as in torch, where d is NaN          ∂/∂t: −sign(d)
// Source: torch.nn.functional.l1_loss.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct L1Loss : PointwiseLoss {
  static constexpr bool weighted_mean = true;

  explicit L1Loss(Hyper) {}

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 2> operator()(V input, V target) const {
    const V d = input - target, grad = sign(d);
    return {abs(d), {grad, -grad}};
  }
};

FUSESTEP_TARGET_END
