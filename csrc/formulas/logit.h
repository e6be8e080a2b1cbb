// What a logit x says of a probability p = σ(x): p, 1 − p, −log p and −log(1 − p), from one exponential.
//
//   −log p = softplus(−x) = max(−x, 0) + log1p(exp(−|x|)),     −log(1 − p) = softplus(x)
//
// All are sums and quotients of terms of one sign, so nothing cancels where the logit is large.
#pragma once

#include "core/math.h"

FUSESTEP_TARGET_BEGIN

template <class V>
struct Logit {
  V p, rest;               // σ(x) and σ(−x)
  V below, above, common;  // max(−x, 0), max(x, 0) and log1p(exp(−|x|)); of NaN the first two are numbers

  FUSESTEP_HD explicit Logit(V x) {
    const V zero = V(scalar_of<V>(0)), one = V(scalar_of<V>(1)), e = exp(-abs(x));
    const V large = quotient(one, one + e), small = e * large;  // σ(|x|), σ(−|x|)
    const auto up = x > zero;
    p = select(up, large, small);
    rest = select(up, small, large);
    below = select(up, zero, -x);
    above = select(up, x, zero);
    common = detail::log_of_sum(one, e, [&](auto&&) { return large; });
  }

  FUSESTEP_HD V yes() const { return below + common; }  // −log p
  FUSESTEP_HD V no() const { return above + common; }   // −log(1 − p)
};

FUSESTEP_TARGET_END
