// GaussianNLL(x, t, v):  (log v + d²/v) / 2          with d = x − t and v = max(var, ε)
// ∂/∂x                :  d/v         ∂/∂t: −d/v         ∂/∂var: (1 − d²/v) / (2v), where clamped too
// full adds log(2π)/2. Nix & Weigend 1994. Source: torch.nn.functional.gaussian_nll_loss.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct GaussianNLLLoss : PointwiseLoss {
  static constexpr auto operands = names("input", "target", "var");
  static constexpr auto hyper = names("full", "eps");
  static constexpr const char* domain = "var has negative entry/entries; `var` must be at least 0";

  explicit GaussianNLLLoss(Hyper h) : constant(h[0] != 0 ? T(0.91893853320467274) : T(0)), eps(T(h[1])) {}

  template <class V>
  FUSESTEP_HD auto inside(V, V, V var) const {
    return (var >= V(T(0))) | (var != var);
  }

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 3> operator()(V input, V target, V var) const {
    const V half = V(T(0.5)), v = max(var, V(eps)), d = input - target, pull = d / v, squares = d * pull;
    const V loss = half * (log(v) + squares) + V(constant);
    return {loss, {pull, -pull, half * (V(T(1)) - squares) / v}};
  }

  T constant, eps;
};

FUSESTEP_TARGET_END
