// Cross-entropy of a row of scores x with label y, class weights w and label smoothing ε over C classes:
//
//   loss      = (1−ε) w_y (log S − x_y)  +  (ε/C) Σ_c w_c (log S − x_c),      S = Σ_c exp(x_c)
//   ∂/∂x_c    = p_c ((1−ε) w_y + (ε/C) Σ_k w_k) − (ε/C) w_c − [c = y] (1−ε) w_y,     p_c = exp(x_c)/S
//
// x is taken relative to the row maximum, so nothing overflows (log-sum-exp; Blanchard, Higham & Higham
// 2021). The sum over the classes other than y is kept apart: with it p_y − 1 = −S_others/S has no
// cancellation when the prediction is right, and log S − x_y = log1p(S_others/exp(x_y)) stays accurate
// as the loss goes to zero. Smoothing: Szegedy et al. 2016. lse_square_scale s adds w_y s (log S)² (z-loss:
// Chowdhery et al. 2023, PaLM); softcap: softcap.h. Source: torch.nn.functional.cross_entropy.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"
#include "formulas/softcap.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct CrossEntropyLoss : RowwiseLoss {
  static constexpr auto hyper = names("label_smoothing", "lse_square_scale", "softcap");
  static constexpr int sums = 3;  // of exp(x), w, and w x; over the classes other than the label

  // torch ignores a negative or NaN smoothing.
  explicit CrossEntropyLoss(Hyper h) : smoothing(h[0] > 0 ? h[0] : 0), square_scale(h[1]), cap(h[2]) {}
  bool is_plain() const { return cap.is_off() && !(smoothing > 0); }
  FUSESTEP_HD void make_plain() { smoothing = 0, cap.turn_off(); }
  FUSESTEP_HD bool uses_sum(int number) const { return number == 0 || smoothing > 0; }
  template <class V>
  FUSESTEP_HD V level(V max, V) const {
    return cap(max);
  }

  template <class V, class Level>
  FUSESTEP_HD V visit(V (&sum)[sums], V x, Level level, V weight) const {
    const V capped = cap(x), d = capped - level, e = exp_difference(capped, level);
    sum[0] = sum[0] + e;
    if (smoothing > 0) {
      sum[1] = sum[1] + weight;
      sum[2] = mul_add(weight, d, sum[2]);
    }
    return e;
  }

  template <class V>
  FUSESTEP_HD Row<V> loss(const V (&sum)[sums], V own, V level, V weight, V classes) const {
    const V capped = cap(own), d = capped - level, e = exp_difference(capped, level), others = sum[0],
            total = others + e, log_total = log(total);
    const V nll = select(e > others, log1p(others / e), log_total - d);
    const V hard = V(T(1 - smoothing)) * weight;
    Row<V> row{hard * nll, -(hard * others / total), hard / total, V(T(0))};
    if (smoothing > 0) {  // without this, a score of −inf would give 0·inf
      const V each = V(T(smoothing)) / classes, weights = sum[1] + weight;
      row.loss = mul_add(each, mul_add(weights, log_total, -mul_add(weight, d, sum[2])), row.loss);
      row.label_grad = mul_add(each / total, sum[1] * e - weight * others, row.label_grad);
      row.scale = mul_add(each, weights / total, row.scale);
      row.shift = each;
    }
    if (square_scale != 0) {
      const V lse = level + log_total, z = weight * V(T(square_scale)) * lse, pull = (z + z) / total;
      row.loss = mul_add(z, lse, row.loss);
      row.label_grad = mul_add(pull, e, row.label_grad);
      row.scale = row.scale + pull;
    }
    row.label_grad = cap.chain(row.label_grad, own);
    return row;
  }

  template <class V>
  FUSESTEP_HD V grad(const Row<V>& row, V x, V kept, V weight) const {
    V result = kept * row.scale;
    if (smoothing > 0) result = result - weight * row.shift;  // else its class may be absent, its weight ∞
    return cap.chain(result, x);
  }

  double smoothing, square_scale;
  Softcap<T> cap;
};

FUSESTEP_TARGET_END
