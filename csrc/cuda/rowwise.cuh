// The rowwise loop: for each row its maximum, then the sums over its classes, then the gradient.
#pragma once

#include "core/op_table.h"
#include "cuda/row_choice.cuh"

FUSESTEP_TARGET_BEGIN

template <class F>
struct RowwiseParams {
  F formula;
  RowwiseArgs args;
  int team;
  int64_t room;
  Divisor divisor;  // under mean, of the rows that are not ignored
};

// What the label of a row is: a class, to be ignored, or neither.
struct Label {
  int64_t value;
  bool ignored, known;

  __device__ __forceinline__ Label(const RowwiseArgs& args, int64_t row)
      : value(load_integer(args.target, place_of_one(args.target, row))) {
    ignored = args.ignores && value == args.ignore_index;
    known = !ignored && uint64_t(value) < uint64_t(args.classes);
  }
};

// The loss and the gradient of a row, by its team. All of it goes there for a row without a label too, if
// others of its warp have one: they wait for each other.
template <class Row, class F>
__device__ __forceinline__ typename Row::T labelled_row(const RowwiseParams<F>& p, const RowMemory& memory,
                                                        const Label& label, typename Row::T scale) {
  using T = typename Row::T;
  constexpr int K = F::sums;
  F formula = p.formula;
  if constexpr (Row::plain) formula.make_plain();
  const int64_t own_class = label.known ? label.value : 0;
  const T own = read_at(memory.x, own_class, T(0)), own_weight = read_at(memory.weight, own_class, T(1));
  Row row(memory, p.team, p.room);
  const auto level = level_for<Row::rough>(
      formula.level(F::finds_max ? across_team(row.largest(), p.team, Largest()) : T(0), own));
  const auto visit = [&](T(&sum)[K], const Element<T>& e) {
    return formula.visit(sum, e.x, level, e.weight);
  };
  RowSums<T, K> partial;
  row.add_up(partial, own_class, visit);
  T sums[K] = {};
  for (int k = 0; k < K; ++k) {
    if (formula.uses_sum(k)) sums[k] = T(across_team(partial.total[k], p.team, Add()));
  }
  const fusestep::Row<T> result = formula.loss(sums, own, T(level), own_weight, T(memory.classes));
  if (!label.known || memory.out[0].data == nullptr) return result.loss;
  const auto again = [&](const Element<T>& e) {
    T unused[K] = {};
    return visit(unused, e);
  };
  row.template write<1>(again, [&](const Element<T>& e, T kept, T(&out)[1]) {
    out[0] = formula.grad(result, e.x, kept, e.weight) * scale;
  });
  // By the thread that has just written something else there.
  if (row.owns(label.value)) write_at(memory.out[0], label.value, result.label_grad * scale);
  return result.loss;
}

template <class Row, class F>
__global__ void __launch_bounds__(Row::threads, Row::blocks)
    rowwise_kernel(const RowwiseParams<F> __grid_constant__ p) {
  using T = typename Row::T;
  const RowwiseArgs& args = p.args;
  const double scale = reduced_scale(args, p.divisor);
  Row::share(args.weight, args.classes);
  for_each_row(args, p.divisor, p.team, [&](int64_t number, bool counts) {
    const Label label(args, number);
    const RowMemory memory{row_of(args.input, number, args.classes),
                           Run(),
                           run_of(args.weight),
                           {counts ? row_of(args.grad_input, number, args.classes) : Run(), Run()},
                           args.classes};
    T loss = label.ignored ? T(0) : T(NAN);
    if constexpr (F::reads_row) {
      if (label.known || p.team < kWarp) {
        const T found = labelled_row<Row>(p, memory, label, T(scale_of(args, scale, number)));
        loss = label.known ? found : loss;
      }
      if (!label.known) fill_row(memory.out[0], args.classes, p.team, loss);
    } else {
      fill_row(memory.out[0], args.classes, p.team, label.known ? T(0) : loss);
      if (label.known) {
        const T own = read_at(memory.x, label.value, T(0)),
                weight = read_at(memory.weight, label.value, T(1));
        const T sums[F::sums] = {};
        const fusestep::Row<T> result = p.formula.loss(sums, own, T(0), weight, T(args.classes));
        const Run& grad = memory.out[0];
        if (grad.data != nullptr && Cut<int64_t, kPack>(grad, args.classes, p.team).owns(label.value)) {
          write_at(grad, label.value, result.label_grad * T(scale_of(args, scale, number)));
        }
        loss = result.loss;
      }
    }
    return loss;
  });
}

struct KeptParams {
  RowwiseArgs args;
  bool weighted;
};

// Leaves behind how many rows are kept, or their weight.
static __global__ void __launch_bounds__(kThreads, 2) kept_kernel(const KeptParams __grid_constant__ p) {
  const View& weight = p.args.weight;
  const int64_t step = int64_t(gridDim.x) * kThreads;
  double sum = 0;
  for (int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x; row < p.args.rows; row += step) {
    const Label label(p.args, row);
    if (!label.known) continue;
    sum += p.weighted ? read_lone<double>(weight.data, weight.dtype, place_of_one(weight, label.value)) : 1.0;
  }
  Scratch* const scratch = scratch_of(p.args);
  across_grid(sum, scratch, [&](double total) { scratch->divisor = total; });
}

template <template <class> class F>
struct Rowwise {
  static_assert(check_rowwise<F>(), "");

  // Under mean, a launch of its own.
  static Divisor divisor_for(const RowwiseArgs& args) {
    if (args.reduction != Reduction::mean) return {1.0, nullptr};
    const KeptParams params{args, F<float>::weighted_mean && present(args.weight)};
    launch(kept_kernel, args.rows > 0 ? blocks_for(args.rows, kThreads) : 1, args.stream, params);
    return {1.0, &scratch_of(args)->divisor};
  }

  template <class Row>
  static void run_as(const RowwiseArgs& args, int team, int64_t shared, int64_t room) {
    using Formula = F<typename Row::T>;
    const int64_t blocks = blocks_for_loss(args, args.rows, Row::threads / team);
    if (blocks > 1 && args.reduction != Reduction::none) prepare(scratch_of(args), args.stream);
    const RowwiseParams<Formula> params{Formula(args.hyper), args, team, room, divisor_for(args)};
    if (blocks > 0) {
      launch(rowwise_kernel<Row, Formula>, Grid(blocks, Row::threads, shared), args.stream, params);
    }
  }

  static BadLabel run(const RowwiseArgs& args) {
    if (args.input.dtype == DType::f64) {
      run_as<WalkedRow<double>>(
          args, team_of_walked(F<float>::reads_row ? args.input : args.grad_input, args.classes), 0, 0);
    } else if constexpr (!F<float>::reads_row) {
      run_as<WalkedRow<float>>(args, team_of_walked(args.grad_input, args.classes), 0, 0);
    } else {
      with_rows<false, always_plain<F<float>>>(
          {&args.input, &args.grad_input}, args.weight, args.classes, F<float>(args.hyper).is_plain(),
          [&](auto tag, int team, int64_t shared, int64_t room) {
            run_as<typename decltype(tag)::type>(args, team, shared, room);
          });
    }
    return {false, 0};
  }
};

FUSESTEP_TARGET_END
