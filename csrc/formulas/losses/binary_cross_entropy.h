// BCE(x, t):  −t log x − (1−t) log(1−x),   each logarithm at least −100
// ∂/∂x     :  (x − t) / max(x (1−x), 1e-12)          ∂/∂t: log(1−x) − log x
// The clamps keep the loss and its gradient finite at x = 0 and 1, as in torch.
// Source: torch.nn.functional.binary_cross_entropy.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct BCELoss : PointwiseLoss {
  static constexpr const char* domain = "all elements of `input` and `target` must be between 0 and 1";

  explicit BCELoss(Hyper) {}

  template <class V>
  FUSESTEP_HD auto inside(V input, V target) const {
    const V zero = V(T(0)), one = V(T(1));
    return (input >= zero) & (input <= one) & (target >= zero) & (target <= one);
  }

  template <class V>
  FUSESTEP_HD PointwiseResult<V, 2> operator()(V input, V target) const {
    const V one = V(T(1)), lowest = V(T(-100));
    const V yes = log(input), no = log1p(-input);
    const V loss = (target - one) * max(no, lowest) - target * max(yes, lowest);
    const V grad = (input - target) / max((one - input) * input, V(T(1e-12)));
    return {loss, {grad, no - yes}};
  }
};

FUSESTEP_TARGET_END
