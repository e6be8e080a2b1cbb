// Rprop (Riedmiller & Braun 1993), with η₋ < 1 < η₊ and b the gradient before:
//
//   s = η₊, η₋ or 1 where g b is positive, negative or neither;    δ ← min(max(δ s, δmin), δmax)
//   g ← 0 where s = η₋;    p ← p − sign(g) δ;    b ← g
//
// δ starts as lr. Source: torch.optim.Rprop.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct Rprop : UpdateRule {
  static constexpr auto hyper = names("eta_minus", "eta_plus", "step_size_min", "step_size_max");
  static constexpr auto states = names("prev", "step_size");
  static constexpr auto asked_by = names("", "");
  static constexpr auto starts_at = names("", "", "lr");

  FUSESTEP_HD Rprop(Hyper h, const Count*)
      : eta_minus(T(h[0])), eta_plus(T(h[1])), least(T(h[2])), most(T(h[3])) {}

  template <unsigned, class V>
  FUSESTEP_HD void operator()(V& param, V grad, V (&state)[2]) const {
    const V zero = V(T(0)), product = grad * state[0];
    const auto turned = product < zero;
    const V factor = select(turned, V(eta_minus), select(product > zero, V(eta_plus), V(T(1))));
    state[1] = min(max(state[1] * factor, V(least)), V(most));
    state[0] = grad = select(turned, zero, grad);
    param = mul_add(-sign(grad), state[1], param);
  }

  T eta_minus, eta_plus, least, most;
};

FUSESTEP_TARGET_END
