// Adam (Kingma & Ba 2015), AMSGrad (Reddi et al. 2018) and, with decoupled decay λ, AdamW
// (Loshchilov & Hutter 2019), at step t:
//
//   decoupled: p ← p (1 − lr λ);    else g ← g + λ p
//   m ← m + (1−β₁)(g − m);    v ← β₂ v + (1−β₂) g²;    AMSGrad: u ← max(u, v), else u = v
//   p ← p − lr/(1−β₁ᵗ) · m / (√u / √(1−β₂ᵗ) + ε)
//
// Source: torch.optim.Adam, torch.optim.AdamW.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct Adam {
  static constexpr auto hyper =
      names("lr", "beta1", "beta2", "eps", "weight_decay", "decoupled_weight_decay");
  static constexpr auto states = names("exp_avg", "exp_avg_sq", "max_exp_avg_sq");
  static constexpr auto asked_by = names("", "", "amsgrad");
  static constexpr bool counts_steps = true;

  Adam(Hyper h, double step)
      : step_size(T(h[0] / (1 - pow(h[1], step)))),
        rest1(T(1 - h[1])),
        beta2(T(h[2])),
        rest2(T(1 - h[2])),
        root2(T(sqrt(1 - pow(h[2], step)))),
        eps(T(h[3])),
        l2(T(h[5] != 0 ? 0 : h[4])),
        keep(T(h[5] != 0 ? 1 - h[0] * h[4] : 1)) {}

  template <unsigned Present, class V>
  FUSESTEP_HD void operator()(V& param, V grad, V (&state)[3]) const {
    if (keep != 1) param = param * V(keep);
    if (l2 != 0) grad = mul_add(V(l2), param, grad);
    state[0] = mul_add(V(rest1), grad - state[0], state[0]);
    V square = state[1] = mul_add(V(beta2), state[1], V(rest2) * (grad * grad));
    if constexpr (has_state(Present, 2)) square = state[2] = max(state[2], square);
    const V denominator = sqrt(square) / V(root2) + V(eps);
    param = mul_add(V(-step_size), state[0] / denominator, param);
  }

  T step_size, rest1, beta2, rest2, root2, eps, l2, keep;
};

FUSESTEP_TARGET_END
