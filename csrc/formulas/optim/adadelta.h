// Adadelta (Zeiler 2012), g after L2 weight decay:
//
//   v ← ρ v + (1−ρ) g²;    δ = √(a + ε)/√(v + ε) · g;    a ← ρ a + (1−ρ) δ²;    p ← p − lr δ
//
// Source: torch.optim.Adadelta.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct Adadelta : UpdateRule {
  static constexpr auto hyper = names("lr", "rho", "eps", "weight_decay");
  static constexpr auto states = names("square_avg", "acc_delta");
  static constexpr auto asked_by = names("", "");

  FUSESTEP_HD Adadelta(Hyper h, const Count*)
      : lr(T(h[0])), rho(T(h[1])), rest(T(1 - h[1])), eps(T(h[2])), weight_decay(T(h[3])) {}

  template <unsigned, class V>
  FUSESTEP_HD void operator()(V& param, V grad, V (&state)[2]) const {
    if (weight_decay != 0) grad = mul_add(V(weight_decay), param, grad);
    state[0] = mul_add(V(rho), state[0], V(rest) * grad * grad);
    const V delta = sqrt(state[1] + V(eps)) / sqrt(state[0] + V(eps)) * grad;
    state[1] = mul_add(V(rho), state[1], V(rest) * delta * delta);
    param = mul_add(V(-lr), delta, param);
  }

  T lr, rho, rest, eps, weight_decay;
};

FUSESTEP_TARGET_END
