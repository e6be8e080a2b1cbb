// Weight decay λ, added to the gradient or, decoupled, shrinking the parameter (Loshchilov & Hutter 2019):
//
//   decoupled: p ← p (1 − lr λ);    else g ← g + λ p
#pragma once

#include "core/math.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct WeightDecay {
  FUSESTEP_HD WeightDecay(double lr, double rate, bool decoupled)
      : l2(T(decoupled ? 0 : rate)), keep(T(decoupled ? 1 - lr * rate : 1)) {}

  template <class V>
  FUSESTEP_HD void operator()(V& param, V& grad) const {
    if (keep != 1) param = param * V(keep);
    if (l2 != 0) grad = mul_add(V(l2), param, grad);
  }

  T l2, keep;
};

FUSESTEP_TARGET_END
