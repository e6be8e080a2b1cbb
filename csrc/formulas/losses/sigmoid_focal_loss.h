// Focal(x, t):  a q^γ b                     b: binary cross-entropy of the logit x
//   q = p (1−t) + (1−p) t,  p = σ(x)        how far the prediction is from the target; a sum, so exact near 0
//   a = α t + (1−α) (1−t), or 1 if α < 0
// ∂/∂x = a (q^γ (p − t) + γ q^(γ−1) p (1−p) (1−2t) b)
// ∂/∂t = a (γ q^(γ−1) (1−2p) b − q^γ x) + (2α−1) q^γ b
// Lin et al. 2017. Source: torchvision.ops.sigmoid_focal_loss.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"
#include "formulas/logit.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct SigmoidFocalLoss : PointwiseLoss {
  static constexpr auto hyper = names("alpha", "gamma");

  explicit SigmoidFocalLoss(Hyper h) : alpha(T(h[0])), gamma(T(h[1])), balanced(h[0] >= 0) {}

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 2> operator()(V input, V target) const {
    const V zero = V(T(0)), one = V(T(1)), unlike = one - target, tilt = unlike - target;
    const Logit<V> logit(input);
    const V p = logit.p, rest = logit.rest, b = target * logit.yes() + unlike * logit.no();
    const V q = mul_add(p, unlike, rest * target);
    const V less = gamma == T(2) ? q : power(q, V(gamma - T(1)));  // q^(γ−1); γ is mostly 2
    const V focus = gamma > T(0) ? select(q == zero, zero, q * less) : power(q, V(gamma));
    // γ q^(γ−1) b; b vanishes with q, while its factor may be infinite.
    const V steep = gamma == T(0) ? zero : select(q > zero, V(gamma) * less * b, zero);
    const V a = balanced ? mul_add(V(alpha), target, V(T(1) - alpha) * unlike) : one;
    const V da = balanced ? V(alpha + alpha - T(1)) : zero;
    const V pull = p * unlike - rest * target;  // p − t
    const V grad = a * mul_add(focus, pull, steep * p * rest * tilt);
    const V grad_target = mul_add(a, steep * (rest - p) - focus * input, da * focus * b);
    return {a * focus * b, {grad, grad_target}};
  }

  T alpha, gamma;
  bool balanced;
};

FUSESTEP_TARGET_END
