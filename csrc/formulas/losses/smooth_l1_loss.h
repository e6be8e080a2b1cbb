// SmoothL1(x, t):  d²/(2β) where |d| < β, else |d| − β/2          with d = x − t
// ∂/∂x          :  d/β     where |d| < β, else sign(d)
// β = 0 is the L1 loss. Girshick 2015, Fast R-CNN. Source: torch.nn.functional.smooth_l1_loss.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct SmoothL1Loss : PointwiseLoss {
  static constexpr auto hyper = names("beta");

  explicit SmoothL1Loss(Hyper h) : beta(T(h[0])) {}

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 2> operator()(V input, V target) const {
    const V d = input - target, size = abs(d), b = V(beta), half = V(T(0.5));
    if (!(beta > T(0))) return {size, {sign(d), -sign(d)}};
    const auto inner = size < b;
    const V slope = d / b, grad = select(inner, slope, select(d != d, d, sign(d)));
    return {select(inner, half * d * slope, size - half * b), {grad, -grad}};
  }

  T beta;
};

FUSESTEP_TARGET_END
