// Lion (Chen et al. 2023), after decoupled weight decay (weight_decay.h):
//
//   p ← p − lr sign(β₁ m + (1−β₁) g);    m ← β₂ m + (1−β₂) g
//
// torch has none; the state is named as in Adam.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"
#include "formulas/weight_decay.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct Lion : UpdateRule {
  static constexpr auto hyper = names("lr", "beta1", "beta2", "weight_decay");
  static constexpr auto numbers = names();
  static constexpr auto states = names("exp_avg");
  static constexpr auto asked_by = names("");

  FUSESTEP_HD Lion(Hyper h, const Count*)
      : decay(h[0], h[3], true),
        lr(T(h[0])),
        beta1(T(h[1])),
        rest1(T(1 - h[1])),
        beta2(T(h[2])),
        rest2(T(1 - h[2])) {}

  template <unsigned, class V>
  FUSESTEP_HD void operator()(V& param, V grad, V (&state)[1]) const {
    decay(param, grad);
    const V direction = mul_add(V(beta1), state[0], V(rest1) * grad);
    param = mul_add(V(-lr), sign(direction), param);
    state[0] = mul_add(V(beta2), state[0], V(rest2) * grad);
  }

  WeightDecay<T> decay;
  T lr, beta1, rest1, beta2, rest2;
};

FUSESTEP_TARGET_END
