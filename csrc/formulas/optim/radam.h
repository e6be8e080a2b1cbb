// RAdam (Liu et al. 2020): Adam whose adaptive step starts once the variance of v can be told, at step t:
//
//   ρ∞ = 2/(1−β₂) − 1,    ρ = ρ∞ − 2 t β₂ᵗ/(1−β₂ᵗ)
//   ρ > 5: p ← p − lr r √(1−β₂ᵗ)/(1−β₁ᵗ) · m / (√v + ε),  r² = (ρ−4)(ρ−2)ρ∞ / ((ρ∞−4)(ρ∞−2)ρ)
//   else:  p ← p − lr/(1−β₁ᵗ) · m
//
// after weight decay (weight_decay.h) and moments m, v (moments.h). Unlike Adam's, the root that ε is added
// to is not corrected. Source: torch.optim.RAdam.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"
#include "formulas/moments.h"
#include "formulas/weight_decay.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct RAdam : UpdateRule {
  static constexpr auto hyper =
      names("lr", "beta1", "beta2", "eps", "weight_decay", "decoupled_weight_decay");
  static constexpr auto states = names("exp_avg", "exp_avg_sq");
  static constexpr auto asked_by = names("", "");

  FUSESTEP_HD RAdam(Hyper h, const Count* number)
      : decay(h[0], h[4], h[5] != 0), moments(h[1], h[2]), eps(T(h[3])) {
    const double step = number[0].after, power = pow(h[2], step), correction2 = 1 - power;
    const double longest = 2 / (1 - h[2]) - 1, length = longest - 2 * step * power / correction2;
    rectified = length > 5.0;
    double size = h[0] / (1 - pow(h[1], step));
    if (rectified) {
      size *= sqrt(correction2) *
              sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length));
    }
    step_size = T(size);
  }

  template <unsigned, class V>
  FUSESTEP_HD void operator()(V& param, V grad, V (&state)[2]) const {
    decay(param, grad);
    moments(state[0], state[1], grad);
    const V direction = rectified ? state[0] / (sqrt(state[1]) + V(eps)) : state[0];
    param = mul_add(V(-step_size), direction, param);
  }

  WeightDecay<T> decay;
  Moments<T> moments;
  T eps, step_size;
  bool rectified;
};

FUSESTEP_TARGET_END
