// The three shapes a formula can have, and what each must supply. An engine owns memory, loops,
// threads, tails, dtypes and reductions; a formula owns mathematics, written once on a value type V
// that is a SIMD pack on the CPU and a plain number in a CUDA thread.
//
// Every formula is a template over its compute type T (float; double for double) and declares
//
//   static constexpr auto hyper = names("lr", "eps");   // hyper-parameters, in the order of `Hyper`
//
// Branches are `select(mask, a, b)`; a plain `if` is for values that are the same for all elements.
#pragma once

#include <type_traits>

#include "core/math.h"

FUSESTEP_TARGET_BEGIN

// A fixed list of names, readable at compile time and from the bindings.
template <int N>
struct Names {
  const char* name[N > 0 ? N : 1];
  static constexpr int size = N;
};
template <class... S>
constexpr Names<int(sizeof...(S))> names(S... name) {
  return {{name...}};
}
constexpr Names<0> names() { return {{nullptr}}; }

// The values of a formula's `hyper`, in double, as they came from Python.
using Hyper = const double*;

// ---- pointwise: one element of the input against one of the target --------------------------------
//
//   explicit F(Hyper);
//   PointwiseResult<V> operator()(V input, V target) const;

template <class V>
struct PointwiseResult {
  V loss;
  V grad_input;
  V grad_target;
};

// ---- rowwise: one row of class scores against a label ----------------------------------------------
// The lanes of V are classes of one row, or one class of several rows: a formula does not know.
//
//   static constexpr int sums;                 // how many partial sums over the classes a row needs
//   explicit F(Hyper);
//   V visit(V (&sum)[sums], V x, V weight) const;
//       adds one class, other than the label's, to the sums. x is the score minus the row maximum
//       (which the engine finds first, starting at -inf). Returns what `grad` wants to see again;
//       the engine keeps it where the gradient will be, so no class costs a second exponential.
//   Row<V> loss(const V (&sum)[sums], V x, V weight, V classes) const;
//       the label's own score and weight complete the row.
//   V grad(const Row<V>&, V kept, V weight) const;
//       the gradient of a class other than the label's.

template <class V>
struct Row {
  V loss;
  V label_grad;  // gradient of the label's own class
  V scale;       // two numbers of the formula's choice, for `grad`
  V shift;
};

// ---- update: one element of a parameter, its gradient and its states ----------------------------------
//
//   static constexpr auto states = names(...);    // torch's state keys, tensors like the parameter
//   static constexpr auto asked_by = names(...);  // for each, the option that asks for it; "" if always
//   static constexpr bool counts_steps;           // keeps torch's `step` state
//   F(Hyper, double step);                        // once per tensor and step; step is 1 at first
//   void operator()<Present>(V& param, V grad, V (&state)[states.size]) const;
//       Present: bit i tells whether states[i] is there.

template <int N>
constexpr unsigned optional_in(const Names<N>& asked_by) {
  unsigned mask = 0;
  for (int i = 0; i < N; ++i) mask |= asked_by.name[i][0] != '\0' ? 1u << i : 0u;
  return mask;
}

// Bit i tells whether states[i] is optional.
template <class Formula>
constexpr unsigned optional_states = optional_in(Formula::asked_by);

constexpr bool has_state(unsigned present, int index) { return (present >> index & 1u) != 0; }

// ---- the checks: a formula that misses a member is told which, and which file to imitate --------------

namespace detail {

template <template <class> class F, class = void>
struct HasHyper : std::false_type {};
template <template <class> class F>
struct HasHyper<F, std::void_t<decltype(F<float>::hyper.size)>> : std::true_type {};

template <template <class> class F, class = void>
struct HasSums : std::false_type {};
template <template <class> class F>
struct HasSums<F, std::void_t<decltype(F<float>::sums)>> : std::true_type {};

template <template <class> class F, class = void>
struct HasStates : std::false_type {};
template <template <class> class F>
struct HasStates<
    F, std::void_t<decltype(F<float>::states.size + F<float>::asked_by.size + F<float>::counts_steps)>>
    : std::true_type {};

}  // namespace detail

template <template <class> class F>
constexpr bool check_pointwise() {
  static_assert(detail::HasHyper<F>::value,
                "a formula needs `static constexpr auto hyper = names(...)`; see losses/mse_loss.h");
  static_assert(std::is_constructible<F<float>, Hyper>::value,
                "a pointwise formula needs a constructor from Hyper; see losses/mse_loss.h");
  static_assert(std::is_invocable_r<PointwiseResult<float>, const F<float>&, float, float>::value,
                "a pointwise formula needs `PointwiseResult<V> operator()(V input, V target) const`; "
                "see losses/mse_loss.h");
  return true;
}

template <template <class> class F>
constexpr bool check_rowwise() {
  static_assert(detail::HasHyper<F>::value,
                "a formula needs `static constexpr auto hyper = names(...)`; see losses/cross_entropy.h");
  static_assert(detail::HasSums<F>::value,
                "a rowwise formula needs `static constexpr int sums`; see losses/cross_entropy.h");
  static_assert(std::is_constructible<F<float>, Hyper>::value,
                "a rowwise formula needs a constructor from Hyper; see losses/cross_entropy.h");
  return true;
}

template <template <class> class F>
constexpr bool check_update() {
  static_assert(detail::HasHyper<F>::value,
                "a formula needs `static constexpr auto hyper = names(...)`; see optim/sgd.h");
  static_assert(detail::HasStates<F>::value,
                "an update formula needs `states`, `asked_by` and `counts_steps`; see optim/sgd.h");
  static_assert(int(F<float>::states.size) == int(F<float>::asked_by.size),
                "`asked_by` names one option, or \"\", for each of `states`; see optim/rmsprop.h");
  static_assert(std::is_constructible<F<float>, Hyper, double>::value,
                "an update formula needs a constructor from (Hyper, double step); see optim/sgd.h");
  return true;
}

FUSESTEP_TARGET_END
