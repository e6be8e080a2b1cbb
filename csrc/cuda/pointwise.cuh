// The pointwise loop: value and gradients of every element from one call of the formula.
#pragma once

#include "core/op_table.h"
#include "cuda/reduce.cuh"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

// Elements of a thread's portion. There are two or three arrays to read at most, so that half precision too
// must move 16 bytes at a time to keep the memory busy.
constexpr int kWide = 8;
template <Access access>
constexpr int kElements = access == Access::packed ? kWide : kWidth<access>;

template <class F>
struct PointwiseParams {
  F formula;
  PointwiseArgs args;
  Divisor divisor;
};

template <Access access, class T, class F>
__global__ void __launch_bounds__(kThreads, 2)
    pointwise_kernel(const PointwiseParams<F> __grid_constant__ p) {
  constexpr int W = kElements<access>, N = decltype(F::operands)::size;
  const PointwiseArgs& args = p.args;
  const int64_t count = args.operand[0].count;
  const bool each = args.reduction == Reduction::none;
  const auto ones = all_of<T, W>(T(1)), scale = all_of<T, W>(T(reduced_scale(args, p.divisor)));
  double sum = 0;
  const int64_t step = int64_t(gridDim.x) * kThreads * W;
  for (int64_t at = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * W; at < count; at += step) {
    const auto fetch = [&](const View& view, const Portion<T, W>& absent) {
      if (!present(view)) return absent;
      return read<access, T, W>(view.data, view.dtype, place_of<access>(view, at), count - at);
    };
    const auto store = [&](const View& view, const Portion<T, W>& portion) {
      if (!present(view)) return;
      write<access>(view.data, view.dtype, place_of<access>(view, at), count - at, portion);
    };
    Portion<T, W> x[N], loss, grad[N];
    FUSESTEP_UNROLL for (int k = 0; k < N; ++k) x[k] = fetch(args.operand[k], ones);
    const Portion<T, W> weight = fetch(args.weight, ones), factor = each ? fetch(args.seed, scale) : scale;
    T part = T(0);
    FUSESTEP_UNROLL for (int i = 0; i < W; ++i) {
      T operand[N];
      FUSESTEP_UNROLL for (int k = 0; k < N; ++k) operand[k] = x[k].at[i];
      PointwiseResult<T, N> r = evaluate(p.formula, operand);
      if constexpr (F::domain != nullptr) {
        const bool inside = is_inside(p.formula, operand);
        r.loss = inside ? r.loss : T(NAN);
        FUSESTEP_UNROLL for (int k = 0; k < N; ++k) r.grad[k] = inside ? r.grad[k] : T(NAN);
      }
      loss.at[i] = r.loss * weight.at[i];
      FUSESTEP_UNROLL for (int k = 0; k < N; ++k) grad[k].at[i] = r.grad[k] * (factor.at[i] * weight.at[i]);
      part = part + (at + i < count ? loss.at[i] : T(0));
    }
    sum += double(part);
    if (each) store(args.loss, loss);
    FUSESTEP_UNROLL for (int k = 0; k < N; ++k) store(args.grad[k], grad[k]);
  }
  finish_loss(args, p.divisor, sum);
}

struct WeightParams {
  View weight;
  Scratch* scratch;
};

// Leaves behind the sum of the weights.
static __global__ void __launch_bounds__(kThreads, 2) weight_kernel(const WeightParams __grid_constant__ p) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  double sum = 0;
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at < p.weight.count; at += step) {
    sum += read_one<double>(p.weight.data, p.weight.dtype, place_of<Access::any>(p.weight, at));
  }
  across_grid(sum, p.scratch, [&](double total) { p.scratch->divisor = total; });
}

template <template <class> class F>
struct Pointwise {
  static_assert(check_pointwise<F>(), "");

  static Access access_of(const PointwiseArgs& args) {
    Choice<kWide> choice;
    const auto add = [&](const View& view) {
      if (present(view)) choice.add(view);
    };
    for (const View& x : args.operand) add(x);
    for (const View& grad : args.grad) add(grad);
    add(args.weight);
    if (args.reduction == Reduction::none) {
      add(args.loss);
      add(args.seed);
    }
    return choice.access();
  }

  static Divisor divisor_for(const PointwiseArgs& args) {
    if (args.reduction != Reduction::mean) return {1.0, nullptr};
    if (args.divisor != 0) return {args.divisor, nullptr};
    if (!F<float>::weighted_mean || !present(args.weight)) return {double(args.operand[0].count), nullptr};
    Scratch* const scratch = scratch_of(args);
    const int64_t blocks = args.weight.count > 0 ? blocks_for(args.weight.count, kThreads) : 1;
    launch(weight_kernel, blocks, args.stream, WeightParams{args.weight, scratch});
    return {1.0, &scratch->divisor};
  }

  template <Access access, class T>
  static void run_as(const PointwiseArgs& args) {
    const int64_t count = args.operand[0].count;
    if (count > kThreads && args.reduction != Reduction::none) prepare(scratch_of(args), args.stream);
    const PointwiseParams<F<T>> params{F<T>(args.hyper), args, divisor_for(args)};
    const int64_t blocks = blocks_for_loss(args, count, kThreads * kElements<access>);
    if (blocks > 0) launch(pointwise_kernel<access, T, F<T>>, blocks, args.stream, params);
  }

  static bool run(const PointwiseArgs& args) {
    bool wide = present(args.weight) && args.weight.dtype == DType::f64;
    for (const View& x : args.operand) wide = wide || (present(x) && x.dtype == DType::f64);
    const Access access = wide ? Access::any : access_of(args);
    if (wide) {
      run_as<Access::any, double>(args);
    } else if (access == Access::plain) {
      run_as<Access::plain, float>(args);
    } else if (access == Access::packed) {
      run_as<Access::packed, float>(args);
    } else {
      run_as<Access::any, float>(args);
    }
    return true;
  }
};

FUSESTEP_TARGET_END
