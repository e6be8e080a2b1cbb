// Huber(x, t):  d²/2 where |d| < δ, else δ (|d| − δ/2)          with d = x − t
// ∂/∂x       :  d clamped to [−δ, δ]
// Huber 1964. Source: torch.nn.functional.huber_loss.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct HuberLoss : PointwiseLoss {
  static constexpr auto hyper = names("delta");

  explicit HuberLoss(Hyper h) : delta(T(h[0])) {}

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 2> operator()(V input, V target) const {
    const V d = input - target, size = abs(d), bound = V(delta), half = V(T(0.5));
    const V loss = select(size < bound, half * d * d, bound * (size - half * bound));
    const V grad = select(d > bound, bound, select(d < -bound, -bound, d));
    return {loss, {grad, -grad}};
  }

  T delta;
};

FUSESTEP_TARGET_END
