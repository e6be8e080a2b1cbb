// RMSprop (Tieleman & Hinton 2012; centered: Graves 2013), g after L2 weight decay:
//
//   v ← α v + (1−α) g²;    centered: a ← a + (1−α)(g − a), v̂ = v − a²;    else v̂ = v
//   b ← μ b + g / (√v̂ + ε),  p ← p − lr b;    without momentum p ← p − lr g / (√v̂ + ε)
//
// v − a² is a variance, but rounds to less than zero when gradients are constant; torch then yields
// NaN. Here it is clamped at zero: a documented departure. Source: torch.optim.RMSprop.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct RMSprop : UpdateRule {
  static constexpr auto hyper = names("lr", "alpha", "eps", "weight_decay", "momentum");
  static constexpr auto states = names("square_avg", "momentum_buffer", "grad_avg");
  static constexpr auto asked_by = names("", "momentum", "centered");

  FUSESTEP_HD RMSprop(Hyper h, const Count*)
      : lr(T(h[0])),
        alpha(T(h[1])),
        rest(T(1 - h[1])),
        eps(T(h[2])),
        weight_decay(T(h[3])),
        momentum(T(h[4])) {}

  template <unsigned Present, class V>
  FUSESTEP_HD void operator()(V& param, V grad, V (&state)[3]) const {
    if (weight_decay != 0) grad = mul_add(V(weight_decay), param, grad);
    V variance = state[0] = mul_add(V(alpha), state[0], V(rest) * grad * grad);
    if constexpr (has_state(Present, 2)) {
      state[2] = lerp(state[2], grad, rest);
      variance = max(variance - state[2] * state[2], V(T(0)));
    }
    V step = grad / (sqrt(variance) + V(eps));
    if constexpr (has_state(Present, 1)) step = state[1] = mul_add(V(momentum), state[1], step);
    param = mul_add(V(-lr), step, param);
  }

  T lr, alpha, rest, eps, weight_decay, momentum;
};

FUSESTEP_TARGET_END
