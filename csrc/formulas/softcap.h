// Softcap of a score:  k tanh(x/k), which stays within ±k; the score itself if k is not positive.
// derivative:          1 − tanh²(x/k)
// Source: Gemma 2 (Gemma Team 2024).
#pragma once

#include "core/math.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct Softcap {
  explicit Softcap(double k) : cap(T(k)) {}

  bool is_off() const { return !(cap > T(0)); }
  FUSESTEP_HD void turn_off() { cap = T(0); }

  template <class V>
  FUSESTEP_HD V operator()(V x) const {
    if (!(cap > T(0))) return x;
    return V(cap) * tanh(x / V(cap));
  }

  // The gradient with respect to the score, from that with respect to the capped score.
  template <class V>
  FUSESTEP_HD V chain(V grad, V x) const {
    if (!(cap > T(0))) return grad;
    const V t = tanh(x / V(cap));
    return grad * (V(T(1)) - t * t);
  }

  T cap;
};

FUSESTEP_TARGET_END
