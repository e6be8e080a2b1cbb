// Adagrad (Duchi et al. 2011), g after L2 weight decay, at step t:
//
//   s ← s + g²;    p ← p − lr/(1 + (t−1) δ) · g / (√s + ε)
//
// Source: torch.optim.Adagrad.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct Adagrad : UpdateRule {
  static constexpr auto hyper = names("lr", "lr_decay", "eps", "weight_decay");
  static constexpr auto states = names("sum");
  static constexpr auto asked_by = names("");
  static constexpr auto starts_at = names("", "initial_accumulator_value");

  FUSESTEP_HD Adagrad(Hyper h, const Count* number)
      : step_size(T(h[0] / (1 + (number[0].after - 1) * h[1]))), eps(T(h[2])), weight_decay(T(h[3])) {}

  template <unsigned, class V>
  FUSESTEP_HD void operator()(V& param, V grad, V (&state)[1]) const {
    if (weight_decay != 0) grad = mul_add(V(weight_decay), param, grad);
    state[0] = mul_add(grad, grad, state[0]);
    param = mul_add(V(-step_size), grad / (sqrt(state[0]) + V(eps)), param);
  }

  T step_size, eps, weight_decay;
};

FUSESTEP_TARGET_END
