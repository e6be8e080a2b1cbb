// The dense loop: as the rowwise one, for targets that are rows themselves, and for rows without a target.
#pragma once

#include "core/op_table.h"
#include "cuda/rows.cuh"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class F>
struct DenseParams {
  F formula;
  DenseArgs args;
  int team;
  Divisor divisor;
};

// Four classes of all operands.
template <class T>
struct Operands {
  Classes<T> x, target, weight;
};

// One row, by its team. Returns its loss.
template <class T, class F>
__device__ __forceinline__ T dense_row(const DenseParams<F>& p, int64_t number, T scale) {
  const DenseArgs& args = p.args;
  const int64_t classes = args.classes;
  const Run x = row_of(args.input, number, classes), target = row_of(args.target, number, classes);
  const Run first = row_of(args.first, number, classes), second = row_of(args.second, number, classes);
  const Run weight = run_of(args.weight);
  const RowWalk walk(x, classes, p.team);
  const auto load = [&](int64_t c) {
    return Operands<T>{read_classes(x, c, classes, T(NAN)), read_if_present(target, c, classes, T(0)),
                       read_if_present(weight, c, classes, T(1))};
  };
  const T level = p.formula.level(F::finds_max ? row_max<T>(x, walk, p.team) : T(0));
  const auto visit = [&](T(&sum)[F::sums], const Operands<T>& four, int i) {
    return p.formula.visit(sum, four.x.at[i], four.target.at[i], level, four.weight.at[i]);
  };
  T sums[F::sums];
  row_sums(walk, p.team, -1, sums, load, visit);
  const DenseRow<T> row = p.formula.row(sums, level);
  if (first.data == nullptr && second.data == nullptr) return row.loss;
  walk.for_each([&](int64_t c) {
    const Operands<T> four = load(c);
    Classes<T> firsts, seconds;
    for (int i = 0; i < kPack; ++i) {
      T unused[F::sums] = {};
      const T kept = visit(unused, four, i);
      const DenseResult<T> r =
          p.formula(row, four.x.at[i], four.target.at[i], kept, level, four.weight.at[i]);
      firsts.at[i] = r.first * scale;
      seconds.at[i] = r.second * scale;
    }
    if (first.data != nullptr) write_classes(first, c, classes, firsts);
    if (second.data != nullptr) write_classes(second, c, classes, seconds);
  });
  return row.loss;
}

template <class T, class F>
__global__ void __launch_bounds__(kThreads, 2) dense_kernel(const DenseParams<F> __grid_constant__ p) {
  const double scale = reduced_scale(p.args, p.divisor);
  for_each_row(p.args, p.team, [&](int64_t row) {
    return dense_row(p, row, F::has_loss ? T(scale_of(p.args, scale, row)) : T(1));
  });
}

template <template <class> class F>
struct Dense {
  static_assert(check_dense<F>(), "");

  template <class T>
  static void run_as(DenseArgs args) {
    if (!F<T>::has_loss) args.loss = View();
    const Divisor divisor{args.reduction == Reduction::mean ? double(args.rows) : 1.0, nullptr};
    const int team = team_for(args.input, args.classes);
    const int64_t blocks = blocks_for(args.rows, kThreads / team);
    if (blocks > 0) {
      const DenseParams<F<T>> params{F<T>(args.hyper, double(args.classes)), args, team, divisor};
      launch(dense_kernel<T, F<T>>, blocks, args.stream, params);
    }
    sum_losses(args, blocks, divisor);
  }

  static void run(const DenseArgs& args) {
    const bool wide = args.input.dtype == DType::f64 ||
                      (present(args.target) && args.target.dtype == DType::f64) ||
                      (present(args.weight) && args.weight.dtype == DType::f64) ||
                      (!F<float>::has_loss && present(args.first) && args.first.dtype == DType::f64);
    wide ? run_as<double>(args) : run_as<float>(args);
  }
};

FUSESTEP_TARGET_END
