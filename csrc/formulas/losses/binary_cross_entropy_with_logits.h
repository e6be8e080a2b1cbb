// BCEWithLogits(x, t):  p t softplus(−x) + (1−t) softplus(x),          softplus(x) = log(1 + exp(x))
// ∂/∂x               :  (1−t) σ(x) − p t σ(−x)
// ∂/∂t               :  p softplus(−x) − softplus(x)                   ∂/∂p: t softplus(−x)
// p weighs positive targets. For targets in [0, 1] both terms have one sign (logit.h), so a confident
// prediction does not cancel to zero, as x + softplus(−x) does. At x = −∞ the loss is NaN, as in torch.
// Source: torch.nn.functional.binary_cross_entropy_with_logits.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"
#include "formulas/logit.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct BCEWithLogitsLoss : PointwiseLoss {
  static constexpr auto operands = names("input", "target", "pos_weight");

  explicit BCEWithLogitsLoss(Hyper) {}

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 3> operator()(V input, V target, V pos_weight) const {
    const V one = V(T(1)), positive = pos_weight * target, negative = one - target;
    const Logit<V> logit(input);
    const V yes = logit.yes(), sum = positive * yes + negative * logit.no();
    const V loss = select(input == -infinity<V>(), input - input, sum);
    const V grad = negative * logit.p - positive * logit.rest;
    const V grad_target = mul_add(pos_weight - one, logit.common, pos_weight * logit.below - logit.above);
    return {loss, {grad, grad_target, target * yes}};
  }
};

FUSESTEP_TARGET_END
