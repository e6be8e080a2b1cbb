// Cross-entropy of a row of scores x against probabilities t, with class weights w and smoothing ε:
//
//   loss     = Σ_c u_c (log S − x_c),     u_c = w_c ((1−ε) t_c + ε/C),     S = Σ_c exp(x_c)
//   ∂/∂x_c   = p_c Σ_k u_k − u_c,         p_c = exp(x_c)/S
//   ∂/∂t_c   = (1−ε) w_c (log S − x_c)
//
// x is taken relative to the row maximum m, whose exponential is exactly 1. S − 1 is kept apart from it:
// log S = log1p(S − 1), and p_m Σu − u_m = (Σu − u_m) − Σu (S − 1)/S where p_m > 1/2: neither cancels when
// the prediction is confident. z-loss and softcap: cross_entropy.h. Source: torch's cross_entropy.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"
#include "formulas/softcap.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct SoftCrossEntropyLoss : DenseRows {
  static constexpr auto hyper = names("label_smoothing", "lse_square_scale", "softcap");
  static constexpr int sums = 4;  // of exp(x) below the maximum, scores at the maximum, u, and u x

  explicit SoftCrossEntropyLoss(Hyper h, double classes)
      : keep(T(h[0] > 0 ? 1 - h[0] : 1)),
        each(T(h[0] > 0 ? h[0] / classes : 0)),
        square_scale(h[1]),
        cap(h[2]) {}
  bool is_plain() const { return cap.is_off(); }
  FUSESTEP_HD void make_plain() { cap.turn_off(); }

  template <class V>
  FUSESTEP_HD V level(V max) const {
    return cap(max);
  }

  template <class V, class Level>
  FUSESTEP_HD V visit(V (&sum)[sums], V x, V t, Level level, V weight) const {
    const V zero = V(T(0)), capped = cap(x), d = capped - level, e = exp_difference(capped, level),
            u = mass(t, weight);
    const auto largest = d == zero;
    sum[0] = sum[0] + select(largest, zero, e);
    sum[1] = sum[1] + select(largest, V(T(1)), zero);
    sum[2] = sum[2] + u;
    sum[3] = mul_add(u, d, sum[3]);
    return e;
  }

  template <class V>
  FUSESTEP_HD DenseRow<V> row(const V (&sum)[sums], V level) const {
    const V one = V(T(1)), above = sum[1] - one + sum[0], total = one + above, log_total = log1p(above);
    DenseRow<V> row{mul_add(sum[2], log_total, -sum[3]), sum[2], sum[2] / total, sum[2] * above / total,
                    log_total};
    if (square_scale != 0) {
      const V lse = level + log_total, z = V(T(square_scale)) * lse, pull = (z + z) / total;
      row.loss = mul_add(z, lse, row.loss);
      row.b = row.b + pull;
      row.c = row.c - pull;
    }
    return row;
  }

  template <class V>
  FUSESTEP_HD DenseResult<V> operator()(const DenseRow<V>& row, V x, V t, V kept, V level, V weight) const {
    const V d = cap(x) - level, u = mass(t, weight);
    const auto confident = (d == V(T(0))) & (row.d < V(T(0.69314718055994531)));  // p_m > 1/2
    const V grad = select(confident, (row.a - u) - row.c, mul_add(kept, row.b, -u));
    return {cap.chain(grad, x), V(keep) * weight * (row.d - d)};
  }

  template <class V>
  FUSESTEP_HD V mass(V t, V weight) const {
    return weight * mul_add(V(keep), t, V(each));
  }

  T keep, each;
  double square_scale;
  Softcap<T> cap;
};

FUSESTEP_TARGET_END
