// Adamax (Kingma & Ba 2015, section 7), g after L2 weight decay, at step t:
//
//   m ← m + (1−β₁)(g − m);    u ← max(β₂ u, |g| + ε);    p ← p − lr/(1−β₁ᵗ) · m / u
//
// A NaN in the gradient stays in u. Source: torch.optim.Adamax.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct Adamax : UpdateRule {
  static constexpr auto hyper = names("lr", "beta1", "beta2", "eps", "weight_decay");
  static constexpr auto states = names("exp_avg", "exp_inf");
  static constexpr auto asked_by = names("", "");

  FUSESTEP_HD Adamax(Hyper h, const Count* number)
      : step_size(T(h[0] / (1 - pow(h[1], number[0].after)))),
        rest1(T(1 - h[1])),
        beta2(T(h[2])),
        eps(T(h[3])),
        weight_decay(T(h[4])) {}

  template <unsigned, class V>
  FUSESTEP_HD void operator()(V& param, V grad, V (&state)[2]) const {
    if (weight_decay != 0) grad = mul_add(V(weight_decay), param, grad);
    state[0] = lerp(state[0], grad, rest1);
    state[1] = max(V(beta2) * state[1], abs(grad) + V(eps));
    param = mul_add(V(-step_size), state[0] / state[1], param);
  }

  T step_size, rest1, beta2, eps, weight_decay;
};

FUSESTEP_TARGET_END
