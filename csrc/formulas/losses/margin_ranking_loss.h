// MarginRanking(x₁, x₂, t):  max(0, z),   z = m − t (x₁ − x₂)          t = 1: x₁ should be larger
// ∂/∂x₁: −t    ∂/∂x₂: t    ∂/∂t: x₂ − x₁,   all where z ≥ 0
// Source: torch.nn.functional.margin_ranking_loss.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct MarginRankingLoss : PointwiseLoss {
  static constexpr auto operands = names("input1", "input2", "target");
  static constexpr auto hyper = names("margin");

  explicit MarginRankingLoss(Hyper h) : margin(T(h[0])) {}

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 3> operator()(V input1, V input2, V target) const {
    const V zero = V(T(0)), d = input1 - input2, z = V(margin) - target * d;
    const V open = select(z >= zero, V(T(1)), zero), pull = open * target;
    return {max(z, zero), {-pull, pull, -(open * d)}};
  }

  T margin;
};

FUSESTEP_TARGET_END
