// Adam for the rows that a sparse gradient has values for; the moments of other rows wait:
//
//   m ← m + (1−β₁)(g − m);    v ← v + (1−β₂)(g² − v)
//   p ← p − lr √(1−β₂ᵗ)/(1−β₁ᵗ) · m / (√v + ε)
//
// t counts the steps of the tensor, not of the row. An infinite v becomes NaN, as in torch.
// Source: torch.optim.SparseAdam.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct SparseAdam : UpdateRule {
  static constexpr auto hyper = names("lr", "beta1", "beta2", "eps");
  static constexpr auto states = names("exp_avg", "exp_avg_sq");
  static constexpr auto asked_by = names("", "");
  static constexpr bool by_rows = true;

  FUSESTEP_HD SparseAdam(Hyper h, const Count* number)
      : rest1(T(1 - h[1])), rest2(T(1 - h[2])), eps(T(h[3])) {
    const double step = number[0].after;
    step_size = T(h[0] * sqrt(1 - pow(h[2], step)) / (1 - pow(h[1], step)));
  }

  template <unsigned, class V>
  FUSESTEP_HD void operator()(V& param, V grad, V (&state)[2]) const {
    state[0] = mul_add(V(rest1), grad - state[0], state[0]);
    state[1] = mul_add(V(rest2), grad * grad - state[1], state[1]);
    param = mul_add(V(-step_size), state[0] / (sqrt(state[1]) + V(eps)), param);
  }

  T rest1, rest2, eps, step_size;
};

FUSESTEP_TARGET_END
