// The four shapes a formula can have, and what each must supply. An engine owns memory, loops,
// threads, tails, dtypes and reductions; a formula owns mathematics, written once on a value type V
// that is a SIMD pack on the CPU and a plain number in a CUDA thread.
//
// Every formula is a template over its compute type T (float; double for double) and derives from the
// base of its shape, whose defaults it overrides by declaring the same name. All may declare
//
//   static constexpr auto hyper = names("lr", "eps");   // hyper-parameters, in the order of `Hyper`
//
// Branches are `select(mask, a, b)`; a plain `if` is for values that are the same for all elements.
#pragma once

#include <type_traits>

#include "core/count.h"
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

// ---- pointwise: one element of each operand ---------------------------------------------------------
//
//   explicit F(Hyper);
//   PointwiseResult<V, N> operator()(V input, V target) const;       // N = operands.size
//   auto inside(V input, V target) const;                            // only with a `domain`: a mask

struct PointwiseLoss {
  static constexpr auto hyper = names();
  static constexpr auto operands = names("input", "target");  // one that the caller leaves out is 1
  static constexpr bool weighted_mean = false;    // a mean under sample weights divides by their sum
  static constexpr const char* domain = nullptr;  // what must hold of the operands, if not everything may
};

template <class V, int N>
struct PointwiseResult {
  V loss;
  V grad[N];  // with respect to each operand
};

// The formula of an array of operands.
template <class F, class V>
FUSESTEP_HD PointwiseResult<V, F::operands.size> evaluate(const F& formula, const V* x) {
  if constexpr (F::operands.size == 2) {
    return formula(x[0], x[1]);
  } else {
    return formula(x[0], x[1], x[2]);
  }
}
template <class F, class V>
FUSESTEP_HD auto is_inside(const F& formula, const V* x) {
  if constexpr (F::operands.size == 2) {
    return formula.inside(x[0], x[1]);
  } else {
    return formula.inside(x[0], x[1], x[2]);
  }
}

// ---- rows: what both shapes of them know -------------------------------------------------------------

// An engine may compile a formula twice, once without the code for options that few use: `make_plain` sets
// them to what `is_plain` has found them to be. One that has no such options leaves both out.
struct RowFormula {
  static constexpr auto hyper = names();

  bool is_plain() const { return true; }
  FUSESTEP_HD void make_plain() {}
};
template <class F>
constexpr bool always_plain = std::is_same<decltype(&F::is_plain), bool (RowFormula::*)() const>::value;

// The level of scores with so few digits that a difference of two is exact in V, or tiny beside the larger.
template <class V>
struct Rough {
  V value;
  FUSESTEP_HD operator V() const { return value; }
};

template <class V>
FUSESTEP_HD V exp_difference(V x, Rough<V> level) {
  return rough_exp(x - level.value);
}

template <bool rough, class V>
FUSESTEP_HD auto level_for(V level) {
  if constexpr (rough) {
    return Rough<V>{level};
  } else {
    return level;
  }
}

// ---- rowwise: one row of class scores against a label ----------------------------------------------
// The lanes of V are classes of one row, or one class of several rows: a formula does not know.
//
//   static constexpr int sums;                 // how many partial sums over the classes a row needs
//   explicit F(Hyper);
//   bool uses_sum(int number) const;                                  // all of them, by default
//   V level(V max, V own) const;                                      // the maximum, by default
//       once a row, what its scores are compared with; `own` is the label's score.
//   V visit(V (&sum)[sums], V x, Level level, V weight) const;        // Level: V or Rough<V>
//       adds one class, other than the label's, to the sums. Returns what `grad` wants to see again;
//       the engine keeps it where the gradient will be, so no class costs a second exponential.
//   Row<V> loss(const V (&sum)[sums], V own, V level, V weight, V classes) const;
//       the label's own score and weight complete the row.
//   V grad(const Row<V>&, V x, V kept, V weight) const;
//       the gradient of a class other than the label's.

struct RowwiseLoss : RowFormula {
  static constexpr auto operands = names("input", "target");
  static constexpr bool weighted_mean = true;  // a mean divides by the weights of the labels
  static constexpr bool reads_row = true;      // false: the label's score is all it needs
  static constexpr bool finds_max = true;      // false: `level` gets 0 for it

  FUSESTEP_HD bool uses_sum(int) const { return true; }

  template <class V>
  FUSESTEP_HD V level(V max, V) const {
    return max;
  }
};

template <class V>
struct Row {
  V loss;
  V label_grad;  // gradient of the label's own class
  V scale;       // two numbers of the formula's choice, for `grad`
  V shift;
};

// ---- dense: a row of class scores, alone or against another row, class by class --------------------
// For targets that are probabilities, for softmax and for its gradient.
//
//   static constexpr int sums;
//   explicit F(Hyper, double classes);
//   V level(V max) const;                                             // the maximum, by default
//   V visit(V (&sum)[sums], V x, V t, Level level, V weight) const;   // every class; returns `kept`
//   DenseRow<V> row(const V (&sum)[sums], V level) const;
//   DenseResult<V> operator()(const DenseRow<V>&, V x, V t, V kept, V level, V weight) const;

struct DenseRows : RowFormula {
  static constexpr auto operands = names("input", "target");  // or one name: then t is 0
  static constexpr bool finds_max = true;
  static constexpr bool has_loss = true;  // one for each row; without it, `first` is the result

  template <class V>
  FUSESTEP_HD V level(V max) const {
    return max;
  }
};

template <class V>
struct DenseRow {
  V loss;
  V a, b, c, d;  // numbers of the formula's choice
};

template <class V>
struct DenseResult {
  V first;   // the result or, where there is a loss, its gradient with respect to x
  V second;  // the gradient with respect to t
};

// ---- update: one element of a parameter, its gradient and its states ----------------------------------
//
//   static constexpr auto states = names(...);    // torch's state keys, tensors like the parameter
//   static constexpr auto asked_by = names(...);  // for each, the option that asks for it; "" if always
//   FUSESTEP_HD F(Hyper, const Count* number);    // once per tensor and step; a device may do it
//       The tensor's `numbers`; number[0].after is the step being taken, 1 at first (for a formula that
//       has none, too, and 2 ever after).
//   void operator()<Present>(V& param, V grad, V (&state)[states.size]) const;
//       Present: bit i tells whether states[i] is there.

struct UpdateRule {
  static constexpr auto hyper = names();
  static constexpr auto numbers = names("step");  // torch's states that are one number, `step` first
  static constexpr auto starts_at = names();      // numbers, then states: an option, a number, or "" for 0
  static constexpr bool by_rows = false;          // takes sparse gradients, and updates the rows they have

  // Sets `after` of the numbers behind `step`.
  FUSESTEP_HD static void advance(Hyper, Count*) {}
};

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
struct HasSums : std::false_type {};
template <template <class> class F>
struct HasSums<F, std::void_t<decltype(F<float>::sums)>> : std::true_type {};

template <class F, class = void>
struct PointwiseCall : std::false_type {};
template <class F>
struct PointwiseCall<F, std::enable_if_t<F::operands.size == 2>>
    : std::is_invocable_r<PointwiseResult<float, 2>, const F&, float, float> {};
template <class F>
struct PointwiseCall<F, std::enable_if_t<F::operands.size == 3>>
    : std::is_invocable_r<PointwiseResult<float, 3>, const F&, float, float, float> {};

template <template <class> class F, class = void>
struct HasStates : std::false_type {};
template <template <class> class F>
struct HasStates<F, std::void_t<decltype(F<float>::states.size + F<float>::asked_by.size)>> : std::true_type {
};

}  // namespace detail

template <template <class> class F>
constexpr bool check_pointwise() {
  static_assert(std::is_base_of<PointwiseLoss, F<float>>::value,
                "a pointwise formula derives from PointwiseLoss; see losses/mse_loss.h");
  static_assert(std::is_constructible<F<float>, Hyper>::value,
                "a pointwise formula needs a constructor from Hyper; see losses/mse_loss.h");
  static_assert(
      detail::PointwiseCall<F<float>>::value,
      "a pointwise formula needs `PointwiseResult<V, N> operator()(V input, V target) const` with a "
      "V for each of its N `operands`; see losses/mse_loss.h");
  return true;
}

template <template <class> class F>
constexpr bool check_rowwise() {
  static_assert(std::is_base_of<RowwiseLoss, F<float>>::value,
                "a rowwise formula derives from RowwiseLoss; see losses/cross_entropy.h");
  static_assert(detail::HasSums<F>::value,
                "a rowwise formula needs `static constexpr int sums`; see losses/cross_entropy.h");
  static_assert(std::is_constructible<F<float>, Hyper>::value,
                "a rowwise formula needs a constructor from Hyper; see losses/cross_entropy.h");
  return true;
}

template <template <class> class F>
constexpr bool check_dense() {
  static_assert(std::is_base_of<DenseRows, F<float>>::value,
                "a dense formula derives from DenseRows; see losses/softmax.h");
  static_assert(detail::HasSums<F>::value,
                "a dense formula needs `static constexpr int sums`; see losses/softmax.h");
  static_assert(std::is_constructible<F<float>, Hyper, double>::value,
                "a dense formula needs a constructor from (Hyper, double classes); see losses/softmax.h");
  return true;
}

template <template <class> class F>
constexpr bool check_update() {
  static_assert(std::is_base_of<UpdateRule, F<float>>::value,
                "an update formula derives from UpdateRule; see optim/sgd.h");
  static_assert(detail::HasStates<F>::value,
                "an update formula needs `states` and `asked_by`; see optim/sgd.h");
  static_assert(int(F<float>::states.size) == int(F<float>::asked_by.size),
                "`asked_by` names one option, or \"\", for each of `states`; see optim/rmsprop.h");
  static_assert(F<float>::starts_at.size == 0 ||
                    F<float>::starts_at.size == F<float>::numbers.size + F<float>::states.size,
                "`starts_at` has one text for each of `numbers` and `states`; see optim/nadam.h");
  static_assert(std::is_constructible<F<float>, Hyper, const Count*>::value,
                "an update formula needs a constructor from (Hyper, const Count* number); see optim/sgd.h");
  return true;
}

FUSESTEP_TARGET_END
