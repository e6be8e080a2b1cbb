// Poisson(x, t):  e^x − t x          ∂/∂x: e^x − t            ∂/∂t: −x               (log_input)
//                 x − t log(x+ε)     ∂/∂x: 1 − t/(x+ε)        ∂/∂t: −log(x+ε)        (else)
// full adds Stirling's approximation of log t!, where t > 1:  t log t − t + log(2πt)/2.
// Source: torch.nn.functional.poisson_nll_loss.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct PoissonNLLLoss : PointwiseLoss {
  static constexpr auto hyper = names("log_input", "full", "eps");

  explicit PoissonNLLLoss(Hyper h) : log_input(h[0] != 0), full(h[1] != 0), eps(T(h[2])) {}

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 2> operator()(V input, V target) const {
    const V rate = log_input ? exp(input) : input;
    const V score = log_input ? input : log(input + V(eps));
    const V grad = log_input ? rate - target : V(T(1)) - target / (input + V(eps));
    PointwiseResult<V, 2> r = {rate - target * score, {grad, -score}};
    if (full) {
      const V zero = V(T(0)), half = V(T(0.5)), entropy = log(target);
      const V stirling = target * entropy - target + half * (entropy + V(T(1.8378770664093453)));  // log 2π
      const auto counts = target > V(T(1));
      r.loss = r.loss + select(counts, stirling, zero);
      r.grad[1] = r.grad[1] + select(counts, entropy + half / target, zero);
    }
    return r;
  }

  bool log_input, full;
  T eps;
};

FUSESTEP_TARGET_END
