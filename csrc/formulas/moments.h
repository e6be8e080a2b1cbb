// Running averages of the gradient and its square, as the family of Adam keeps them:
//
//   m ← m + (1−β₁)(g − m);    v ← β₂ v + (1−β₂) g²
#pragma once

#include "core/math.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct Moments {
  FUSESTEP_HD Moments(double beta1, double beta2_)
      : rest1(T(1 - beta1)), beta2(T(beta2_)), rest2(T(1 - beta2_)) {}

  template <class V>
  FUSESTEP_HD void operator()(V& mean, V& square, V grad) const {
    mean = lerp(mean, grad, rest1);
    square = mul_add(V(beta2), square, V(rest2) * grad * grad);
  }

  T rest1, beta2, rest2;
};

FUSESTEP_TARGET_END
