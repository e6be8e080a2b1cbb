// MultiMargin of a row of C scores x with label y and class weights w, p being 1 or 2:
//
//   loss    = w_y/C Σ_{c≠y} h_c^p,               h_c = max(0, m − x_y + x_c)
//   ∂/∂x_c  = w_y/C p h_c^(p−1) where h_c > 0,   ∂/∂x_y = −Σ_{c≠y} ∂/∂x_c
//
// Crammer & Singer 2001. Source: torch.nn.functional.multi_margin_loss.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct MultiMarginLoss : RowwiseLoss {
  static constexpr auto hyper = names("p", "margin");
  static constexpr int sums = 2;  // of h^p and of its derivative
  static constexpr bool weighted_mean = false, finds_max = false;

  explicit MultiMarginLoss(Hyper h) : squared(h[0] == 2), margin(T(h[1])) {}

  template <class V>
  FUSESTEP_HD V level(V, V own) const {
    return V(margin) - own;
  }

  template <class V, class Level>
  FUSESTEP_HD V visit(V (&sum)[sums], V x, Level level, V) const {
    const V zero = V(T(0)), z = x + level;
    const auto violated = z > zero;
    const V h = select(violated, z, zero);
    const V slope = squared ? h + h : select(violated, V(T(1)), zero);
    sum[0] = sum[0] + (squared ? h * h : h);
    sum[1] = sum[1] + slope;
    return slope;
  }

  template <class V>
  FUSESTEP_HD Row<V> loss(const V (&sum)[sums], V, V, V weight, V classes) const {
    const V zero = V(T(0)), each = weight / classes;
    const auto violated = sum[1] > zero;  // else a weight may be infinite
    return {select(violated, sum[0] * each, zero), select(violated, -(sum[1] * each), zero), each, zero};
  }

  template <class V>
  FUSESTEP_HD V grad(const Row<V>& row, V, V kept, V) const {
    return select(kept > V(T(0)), kept * row.scale, V(T(0)));
  }

  bool squared;
  T margin;
};

FUSESTEP_TARGET_END
