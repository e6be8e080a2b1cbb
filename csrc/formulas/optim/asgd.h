// ASGD (Polyak & Juditsky 1992; Bottou 2010), g after L2 weight decay, at step t:
//
//   p ← p (1 − λη) − η g;    a ← a + μ (p − a), which is p while μ = 1
//   then η ← lr/(1 + λ lr t)^α,    μ ← 1/max(1, t − t₀)
//
// η, which starts as lr, and μ, which starts as 1, are numbers of each tensor: a new lr is felt one step
// late. Source: torch.optim.ASGD.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct ASGD : UpdateRule {
  static constexpr auto hyper = names("lr", "lambd", "alpha", "t0", "weight_decay");
  static constexpr auto numbers = names("step", "eta", "mu");
  static constexpr auto states = names("ax");
  static constexpr auto asked_by = names("");
  static constexpr auto starts_at = names("", "lr", "1", "");

  FUSESTEP_HD static void advance(Hyper h, Count* number) {
    const double beyond = number[0].after - h[3];
    number[1].after = h[0] / pow(1 + h[1] * h[0] * number[0].after, h[2]);
    number[2].after = 1 / (beyond > 1 ? beyond : 1);
  }

  FUSESTEP_HD ASGD(Hyper h, const Count* number)
      : eta(T(number[1].before)),
        keep(T(1 - h[1] * number[1].before)),
        mu(T(number[2].before)),
        weight_decay(T(h[4])) {}

  template <unsigned, class V>
  FUSESTEP_HD void operator()(V& param, V grad, V (&state)[1]) const {
    if (weight_decay != 0) grad = mul_add(V(weight_decay), param, grad);
    param = mul_add(V(-eta), grad, param * V(keep));
    state[0] = mu == 1 ? param : mul_add(V(mu), param - state[0], state[0]);
  }

  T eta, keep, mu, weight_decay;
};

FUSESTEP_TARGET_END
