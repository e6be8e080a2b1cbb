// The pointwise loop: value and gradients of every element from one call of the formula.
#pragma once

#include "core/op_table.h"
#include "cuda/reduce.cuh"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class F>
struct PointwiseParams {
  F formula;
  PointwiseArgs args;
};

template <Access access, class T, class F>
__global__ void __launch_bounds__(kThreads, 2)
    pointwise_kernel(const PointwiseParams<F> __grid_constant__ p) {
  constexpr int W = kWidth<access>;
  const PointwiseArgs& args = p.args;
  const int64_t count = args.input.count;
  const bool each = args.reduction == Reduction::none;
  const double mean = args.reduction == Reduction::mean ? 1.0 / double(count) : 1.0;
  const double seed =
      !each && present(args.seed) ? read_one<double>(args.seed.data, args.seed.dtype, 0) : 1.0;
  double sum = 0;
  const int64_t step = int64_t(gridDim.x) * kThreads * W;
  for (int64_t at = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * W; at < count; at += step) {
    const auto fetch = [&](const View& view) {
      return read<access, T>(view.data, view.dtype, place_of<access>(view, at), count - at);
    };
    const auto store = [&](const View& view, const Portion<T, W>& portion) {
      write<access>(view.data, view.dtype, place_of<access>(view, at), count - at, portion);
    };
    const Portion<T, W> x = fetch(args.input), t = fetch(args.target);
    const Portion<T, W> factor = each && present(args.seed) ? fetch(args.seed) : all_of<T, W>(T(mean * seed));
    Portion<T, W> loss, grad_input, grad_target;
    T part = T(0);
    for (int i = 0; i < W; ++i) {
      const PointwiseResult<T> r = p.formula(x.at[i], t.at[i]);
      loss.at[i] = r.loss;
      grad_input.at[i] = r.grad_input * factor.at[i];
      grad_target.at[i] = r.grad_target * factor.at[i];
      part = part + (at + i < count ? r.loss : T(0));
    }
    sum += double(part);
    if (each && present(args.loss)) store(args.loss, loss);
    if (present(args.grad_input)) store(args.grad_input, grad_input);
    if (present(args.grad_target)) store(args.grad_target, grad_target);
  }
  if (each || !present(args.loss)) return;
  sum = across_block(sum, Add());
  if (threadIdx.x == 0) static_cast<double*>(args.workspace)[blockIdx.x] = sum;
}

template <template <class> class F>
struct Pointwise {
  static_assert(check_pointwise<F>(), "");

  static Access access_of(const PointwiseArgs& args) {
    Choice choice;
    const auto add = [&](const View& view) {
      if (present(view)) choice.add(view);
    };
    add(args.input);
    add(args.target);
    add(args.grad_input);
    add(args.grad_target);
    if (args.reduction == Reduction::none) {
      add(args.loss);
      add(args.seed);
    }
    return choice.access();
  }

  template <Access access, class T>
  static void run_as(const PointwiseArgs& args) {
    const int64_t count = args.input.count;
    const int64_t blocks = blocks_for(count, kThreads * kWidth<access>);
    if (blocks > 0) {
      const PointwiseParams<F<T>> params{F<T>(args.hyper), args};
      launch(pointwise_kernel<access, T, F<T>>, blocks, args.stream, params);
    }
    if (args.reduction != Reduction::none && present(args.loss)) {
      const double divisor = args.reduction == Reduction::mean ? double(count) : 1.0;
      const auto* partials = static_cast<const double*>(args.workspace);
      launch(sum_kernel, 1, args.stream, SumParams{partials, blocks, divisor, nullptr, args.loss});
    }
  }

  static void run(const PointwiseArgs& args) {
    const bool wide = args.input.dtype == DType::f64 || args.target.dtype == DType::f64;
    if (wide) return run_as<Access::any, double>(args);
    switch (access_of(args)) {
      case Access::plain:
        return run_as<Access::plain, float>(args);
      case Access::packed:
        return run_as<Access::packed, float>(args);
      case Access::any:
        return run_as<Access::any, float>(args);
    }
  }
};

FUSESTEP_TARGET_END
