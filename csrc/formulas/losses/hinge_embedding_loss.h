// HingeEmbedding(x, t):  x where t = 1,  max(0, m − x) where t = −1,  as in torch both for any other t
// ∂/∂x                :  1               −1 if x ≤ m                  t is a label: it has no gradient
// Source: torch.nn.functional.hinge_embedding_loss.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct HingeEmbeddingLoss : PointwiseLoss {
  static constexpr auto hyper = names("margin");

  explicit HingeEmbeddingLoss(Hyper h) : margin(T(h[0])) {}

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 2> operator()(V input, V target) const {
    const V zero = V(T(0)), one = V(T(1)), z = V(margin) - input;
    const auto alike = target == one, different = target == -one;
    const V hinge = select(alike, zero, max(z, zero)), self = select(different, zero, input);
    const V pushed = select(alike, zero, select(z >= zero, -one, zero));
    return {hinge + self, {pushed + select(different, zero, one), zero}};
  }

  T margin;
};

FUSESTEP_TARGET_END
