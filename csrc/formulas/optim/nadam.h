// NAdam (Dozat 2016): Adam with Nesterov's momentum, whose β₁ grows along a schedule ψ, at step t:
//
//   μₜ = β₁ (1 − ½·0.96^(tψ)),    Π ← Π μₜ
//   p ← p − lr ((1−μₜ)/(1−Π) · g + μₜ₊₁/(1−Π μₜ₊₁) · m) / (√(v/(1−β₂ᵗ)) + ε)
//
// after weight decay (weight_decay.h) and moments m, v (moments.h). Π is a number of each tensor. Source:
// torch.optim.NAdam.
#pragma once

#include "core/math.h"
#include "formulas/contracts.h"
#include "formulas/moments.h"
#include "formulas/weight_decay.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct NAdam : UpdateRule {
  static constexpr auto hyper =
      names("lr", "beta1", "beta2", "eps", "weight_decay", "momentum_decay", "decoupled_weight_decay");
  static constexpr auto numbers = names("step", "mu_product");
  static constexpr auto states = names("exp_avg", "exp_avg_sq");
  static constexpr auto asked_by = names("", "");
  static constexpr auto starts_at = names("", "1", "", "");

  FUSESTEP_HD static double mu(Hyper h, double step) { return h[1] * (1 - 0.5 * pow(0.96, step * h[5])); }
  FUSESTEP_HD static void advance(Hyper h, Count* number) {
    number[1].after = number[1].before * mu(h, number[0].after);
  }

  FUSESTEP_HD NAdam(Hyper h, const Count* number)
      : decay(h[0], h[4], h[6] != 0), moments(h[1], h[2]), eps(T(h[3])) {
    const double step = number[0].after, product = number[1].after;
    const double now = mu(h, step), next = mu(h, step + 1);
    grad_size = T(h[0] * (1 - now) / (1 - product));
    mean_size = T(h[0] * next / (1 - product * next));
    inverse2 = T(1 / (1 - pow(h[2], step)));
  }

  template <unsigned, class V>
  FUSESTEP_HD void operator()(V& param, V grad, V (&state)[2]) const {
    decay(param, grad);
    moments(state[0], state[1], grad);
    const V denominator = sqrt(state[1] * V(inverse2)) + V(eps);
    param = param - mul_add(V(grad_size), grad, V(mean_size) * state[0]) / denominator;
  }

  WeightDecay<T> decay;
  Moments<T> moments;
  T eps, grad_size, mean_size, inverse2;
};

FUSESTEP_TARGET_END
