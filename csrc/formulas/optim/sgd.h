// SGD, g the gradient after L2 weight decay, μ momentum, τ dampening (Sutskever et al. 2013):
//
//   b ← μ b + (1−τ) g, from b = 0 and without τ at the first step
//   g ← g + μ b (Nesterov), or b;    p ← p − lr g
//
// Without momentum there is no b. Source: torch.optim.SGD.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct SGD : UpdateRule {
  static constexpr auto hyper = names("lr", "momentum", "dampening", "weight_decay", "nesterov");
  static constexpr auto numbers = names();
  static constexpr auto states = names("momentum_buffer");
  static constexpr auto asked_by = names("momentum");

  FUSESTEP_HD SGD(Hyper h, const Count* number)
      : lr(T(h[0])),
        momentum(T(h[1])),
        undamped(T(number[0].after == 1 ? 1 : 1 - h[2])),
        weight_decay(T(h[3])),
        nesterov(h[4] != 0) {}

  template <unsigned Present, class V>
  FUSESTEP_HD void operator()(V& param, V grad, V (&state)[1]) const {
    if (weight_decay != 0) grad = mul_add(V(weight_decay), param, grad);
    if constexpr (has_state(Present, 0)) {
      state[0] = mul_add(V(momentum), state[0], V(undamped) * grad);
      grad = nesterov ? mul_add(V(momentum), state[0], grad) : state[0];
    }
    param = mul_add(V(-lr), grad, param);
  }

  T lr, momentum, undamped, weight_decay;
  bool nesterov;
};

FUSESTEP_TARGET_END
