// Adam (Kingma & Ba 2015), AMSGrad (Reddi et al. 2018) and, with decoupled decay, AdamW
// (Loshchilov & Hutter 2019), at step t, after weight decay (weight_decay.h) and moments m, v (moments.h):
//
//   AMSGrad: u ← max(u, v), else u = v
//   p ← p − lr/(1−β₁ᵗ) · m / (√u / √(1−β₂ᵗ) + ε)
//
// Source: torch.optim.Adam, torch.optim.AdamW.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"
#include "formulas/moments.h"
#include "formulas/weight_decay.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct Adam : UpdateRule {
  static constexpr auto hyper =
      names("lr", "beta1", "beta2", "eps", "weight_decay", "decoupled_weight_decay");
  static constexpr auto states = names("exp_avg", "exp_avg_sq", "max_exp_avg_sq");
  static constexpr auto asked_by = names("", "", "amsgrad");

  FUSESTEP_HD Adam(Hyper h, const Count* number)
      : decay(h[0], h[4], h[5] != 0),
        moments(h[1], h[2]),
        step_size(T(h[0] / (1 - pow(h[1], number[0].after)))),
        root2(T(sqrt(1 - pow(h[2], number[0].after)))),
        eps(T(h[3])) {}

  template <unsigned Present, class V>
  FUSESTEP_HD void operator()(V& param, V grad, V (&state)[3]) const {
    decay(param, grad);
    moments(state[0], state[1], grad);
    V square = state[1];
    if constexpr (has_state(Present, 2)) square = state[2] = max(state[2], square);
    const V denominator = sqrt(square) / V(root2) + V(eps);
    param = mul_add(V(-step_size), state[0] / denominator, param);
  }

  WeightDecay<T> decay;
  Moments<T> moments;
  T step_size, root2, eps;
};

FUSESTEP_TARGET_END
