// LogCosh(x, t):  log(cosh(d))          with d = x − t
// ∂/∂x         :  tanh(d)               second derivative: 1/cosh²(d)
// About d²/2 near zero and |d| − log 2 far from it, without the cancellation of either form (core/math.h).
// Source: none in torch; keras.losses.LogCosh and optax.losses.log_cosh have the function.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct LogCoshLoss : PointwiseLoss {
  explicit LogCoshLoss(Hyper) {}

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 2> operator()(V input, V target) const {
    const LogCosh<V> log_cosh(input - target);
    return {log_cosh.value, {log_cosh.slope, -log_cosh.slope}};
  }
};

FUSESTEP_TARGET_END
