// The dense loop: as the rowwise one, for targets that are rows themselves, and for rows without a target.
#pragma once

#include "core/op_table.h"
#include "cuda/row_choice.cuh"

FUSESTEP_TARGET_BEGIN

template <class F>
struct DenseParams {
  F formula;
  DenseArgs args;
  int team;
  int64_t room;
  Divisor divisor;
};

// One row, by its team. Returns its loss.
template <class Row, class F>
__device__ __forceinline__ typename Row::T dense_row(const DenseParams<F>& p, const RowMemory& memory,
                                                     typename Row::T scale) {
  using T = typename Row::T;
  constexpr int K = F::sums;
  F formula = p.formula;
  if constexpr (Row::plain) formula.make_plain();
  Row row(memory, p.team, p.room);
  const auto level = level_for<Row::rough>(
      formula.level(F::finds_max ? across_team(row.largest(), p.team, Largest()) : T(0)));
  const auto visit = [&](T(&sum)[K], const Element<T>& e) {
    return formula.visit(sum, e.x, e.target, level, e.weight);
  };
  RowSums<T, K> partial;
  row.add_up(partial, -1, visit);
  T sums[K];
  for (int k = 0; k < K; ++k) sums[k] = T(across_team(partial.total[k], p.team, Add()));
  const DenseRow<T> result = formula.row(sums, T(level));
  if (memory.out[0].data == nullptr && memory.out[1].data == nullptr) return result.loss;
  const auto again = [&](const Element<T>& e) {
    T unused[K] = {};
    return visit(unused, e);
  };
  row.template write<2>(again, [&](const Element<T>& e, T kept, T(&out)[2]) {
    const DenseResult<T> r = formula(result, e.x, e.target, kept, T(level), e.weight);
    out[0] = r.first * scale;
    out[1] = r.second * scale;
  });
  return result.loss;
}

template <class Row, class F>
__global__ void __launch_bounds__(Row::threads, Row::blocks)
    dense_kernel(const DenseParams<F> __grid_constant__ p) {
  using T = typename Row::T;
  const DenseArgs& args = p.args;
  const double scale = reduced_scale(args, p.divisor);
  Row::share(args.weight, args.classes);
  for_each_row(args, p.divisor, p.team, [&](int64_t number, bool counts) {
    const auto row = [&](const View& view) { return row_of(view, number, args.classes); };
    const RowMemory memory{row(args.input),
                           row(args.target),
                           run_of(args.weight),
                           {counts ? row(args.first) : Run(), counts ? row(args.second) : Run()},
                           args.classes};
    return dense_row<Row>(p, memory, F::has_loss ? T(scale_of(args, scale, number)) : T(1));
  });
}

template <template <class> class F>
struct Dense {
  static_assert(check_dense<F>(), "");
  static constexpr bool paired = F<float>::operands.size > 1;

  template <class Row>
  static void run_as(const DenseArgs& args, int team, int64_t shared, int64_t room) {
    using Formula = F<typename Row::T>;
    const Divisor divisor{args.reduction == Reduction::mean ? double(args.rows) : 1.0, nullptr};
    const int64_t blocks = blocks_for_loss(args, args.rows, Row::threads / team);
    if (blocks > 1 && reduces_loss(args)) prepare(scratch_of(args), args.stream);
    const DenseParams<Formula> params{Formula(args.hyper, double(args.classes)), args, team, room, divisor};
    if (blocks > 0)
      launch(dense_kernel<Row, Formula>, Grid(blocks, Row::threads, shared), args.stream, params);
  }

  static void run(const DenseArgs& given) {
    DenseArgs args = given;
    if (!F<float>::has_loss) args.loss = View();
    const auto is_double = [](const View& view) { return present(view) && view.dtype == DType::f64; };
    const bool wide = is_double(args.input) || is_double(args.target) || is_double(args.weight) ||
                      (!F<float>::has_loss && is_double(args.first));
    if (wide) return run_as<WalkedRow<double>>(args, team_of_walked(args.input, args.classes), 0, 0);
    const bool plain = F<float>(args.hyper, double(args.classes)).is_plain();
    with_rows<paired, always_plain<F<float>>>(
        {&args.input, &args.target, &args.first, &args.second}, args.weight, args.classes, plain,
        [&](auto tag, int team, int64_t shared, int64_t room) {
          run_as<typename decltype(tag)::type>(args, team, shared, room);
        });
  }
};

FUSESTEP_TARGET_END
