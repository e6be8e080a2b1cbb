// The rowwise loop: for each row its maximum, then the sums over its classes, then the gradient.
#pragma once

#include "core/op_table.h"
#include "cuda/rows.cuh"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class F>
struct RowwiseParams {
  F formula;
  RowwiseArgs args;
  int team;
  Divisor divisor;  // under mean, of the rows that are not ignored
};

// What the label of a row is: a class, to be ignored, or neither.
struct Label {
  int64_t value;
  bool ignored, known;

  __device__ __forceinline__ Label(const RowwiseArgs& args, int64_t row)
      : value(load_integer(args.target, row)) {
    ignored = args.ignores && value == args.ignore_index;
    known = !ignored && uint64_t(value) < uint64_t(args.classes);
  }
};

// The scores and weights of four classes.
template <class T>
struct Scores {
  Classes<T> x, weight;
};

// The loss and the gradient of a row with a label, by its team.
template <class T, class F>
__device__ __forceinline__ T labelled_row(const RowwiseParams<F>& p, const Run& x, const Run& grad,
                                          const RowWalk& walk, int64_t label, T scale) {
  const int64_t classes = p.args.classes;
  const Run weight = run_of(p.args.weight);
  const T own = read_one<T>(x.data, x.dtype, offset_of(x, label));
  const T own_weight =
      weight.data == nullptr ? T(1) : read_one<T>(weight.data, weight.dtype, offset_of(weight, label));
  const auto load = [&](int64_t c) {
    return Scores<T>{read_classes(x, c, classes, T(NAN)), read_if_present(weight, c, classes, T(1))};
  };
  T level = T(0), sums[F::sums] = {};
  if constexpr (F::reads_row) {
    level = p.formula.level(F::finds_max ? row_max<T>(x, walk, p.team) : T(0), own);
    row_sums(walk, p.team, label, sums, load, [&](T(&sum)[F::sums], const Scores<T>& four, int i) {
      p.formula.visit(sum, four.x.at[i], level, four.weight.at[i]);
    });
  }
  const Row<T> row = p.formula.loss(sums, own, level, own_weight, T(classes));
  if (grad.data == nullptr) return row.loss;
  walk.for_each([&](int64_t c) {
    Classes<T> result = all_of<T, kPack>(T(0));
    if constexpr (F::reads_row) {
      const Scores<T> four = load(c);
      for (int i = 0; i < kPack; ++i) {
        T unused[F::sums] = {};
        const T kept = p.formula.visit(unused, four.x.at[i], level, four.weight.at[i]);
        result.at[i] = p.formula.grad(row, four.x.at[i], kept, four.weight.at[i]) * scale;
      }
    }
    for (int i = 0; i < kPack; ++i) result.at[i] = c + i == label ? row.label_grad * scale : result.at[i];
    write_classes(grad, c, classes, result);
  });
  return row.loss;
}

template <class T, class F>
__global__ void __launch_bounds__(kThreads, 2) rowwise_kernel(const RowwiseParams<F> __grid_constant__ p) {
  const RowwiseArgs& args = p.args;
  const double scale = reduced_scale(args, p.divisor);
  for_each_row(args, p.team, [&](int64_t row) {
    const Label label(args, row);
    const Run x = row_of(args.input, row, args.classes), grad = row_of(args.grad_input, row, args.classes);
    const RowWalk walk(F::reads_row ? x : grad, args.classes, p.team);
    if (label.known) {
      return labelled_row(p, x, grad, walk, label.value, T(scale_of(args, scale, row)));
    }
    const T same = label.ignored ? T(0) : T(NAN);
    if (grad.data != nullptr) {
      walk.for_each([&](int64_t c) { write_classes(grad, c, args.classes, all_of<T, kPack>(same)); });
    }
    return same;
  });
}

struct KeptParams {
  RowwiseArgs args;
  bool weighted;
};

// How many rows are kept, or their weight, as partial sums.
static __global__ void __launch_bounds__(kThreads, 2) kept_kernel(const KeptParams __grid_constant__ p) {
  const View& weight = p.args.weight;
  const int64_t step = int64_t(gridDim.x) * kThreads;
  double sum = 0;
  for (int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x; row < p.args.rows; row += step) {
    const Label label(p.args, row);
    if (!label.known) continue;
    sum += p.weighted ? read_one<double>(weight.data, weight.dtype, offset_of(weight, label.value)) : 1.0;
  }
  keep_partial(partials_of(p.args), sum);
}

template <template <class> class F>
struct Rowwise {
  static_assert(check_rowwise<F>(), "");

  static Divisor divisor_for(const RowwiseArgs& args) {
    if (args.reduction != Reduction::mean) return {1.0, nullptr};
    const int64_t blocks = blocks_for(args.rows, kThreads);
    const KeptParams params{args, F<float>::weighted_mean && present(args.weight)};
    if (blocks > 0) launch(kept_kernel, blocks, args.stream, params);
    return sum_divisor(args, blocks);
  }

  template <class T>
  static void run_as(const RowwiseArgs& args) {
    const Divisor divisor = divisor_for(args);
    const int team = team_for(F<T>::reads_row ? args.input : args.grad_input, args.classes);
    const int64_t blocks = blocks_for(args.rows, kThreads / team);
    if (blocks > 0) {
      const RowwiseParams<F<T>> params{F<T>(args.hyper), args, team, divisor};
      launch(rowwise_kernel<T, F<T>>, blocks, args.stream, params);
    }
    sum_losses(args, blocks, divisor);
  }

  static BadLabel run(const RowwiseArgs& args) {
    args.input.dtype == DType::f64 ? run_as<double>(args) : run_as<float>(args);
    return {false, 0};
  }
};

FUSESTEP_TARGET_END
