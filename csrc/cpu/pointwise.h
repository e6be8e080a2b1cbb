// The pointwise loop: value and gradients of every element from one call of the formula.
#pragma once

#include "core/op_table.h"
#include "cpu/blocks.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

// Which results one instantiation of the loop produces; what it does not is dead code in the formula.
enum class Want { loss, grads, both };

template <class T>
struct PointwiseBuffers {
  T input[kBlock], target[kBlock], seed[kBlock];
  T loss[kBlock], grad_input[kBlock], grad_target[kBlock];
};

// One block. Returns the sum of its losses (0 unless the loss is wanted and reduced).
template <Want want, class T, class F>
double pointwise_block(const F& formula, const PointwiseArgs& args, T scale, int64_t start, int count,
                       PointwiseBuffers<T>& buffers) {
  using V = Pack<T>;
  constexpr int L = V::lanes;
  const bool each = args.reduction == Reduction::none;
  const bool with_input = present(args.grad_input), with_target = present(args.grad_target);
  const T* x = read_block(args.input, start, count, buffers.input);
  const T* t = read_block(args.target, start, count, buffers.target);
  const T* seed = each && present(args.seed) ? read_block(args.seed, start, count, buffers.seed) : nullptr;
  T* loss = place_block(args.loss, start, buffers.loss);
  T* dx = place_block(args.grad_input, start, buffers.grad_input);
  T* dt = place_block(args.grad_target, start, buffers.grad_target);

  V sum[4] = {V(T(0)), V(T(0)), V(T(0)), V(T(0))};
  const auto finish = [&](PointwiseResult<V> r, V factor, int at, auto&& store, V& total) {
    if constexpr (want != Want::grads) {
      if (each) store(loss + at, r.loss);
      total = total + r.loss;
    }
    if constexpr (want != Want::loss) {
      if (with_input) store(dx + at, r.grad_input * factor);
      if (with_target) store(dt + at, r.grad_target * factor);
    }
  };
  const auto whole = [](T* to, V pack) { store_pack(to, pack); };
  int i = 0;
  for (; i + 4 * L <= count; i += 4 * L) {
    for (int k = 0; k < 4; ++k) {
      const int at = i + k * L;
      const V factor = seed != nullptr ? load_pack(seed + at) : V(scale);
      finish(formula(load_pack(x + at), load_pack(t + at)), factor, at, whole, sum[k]);
    }
  }
  for (; i < count; i += L) {
    const int rest = count - i < L ? count - i : L;
    const V factor = seed != nullptr ? load_part(seed + i, rest, T(0)) : V(scale);
    PointwiseResult<V> r = formula(load_part(x + i, rest, T(0)), load_part(t + i, rest, T(0)));
    const auto inside = lane_numbers<T>() < IntegerPack<T>(typename IntegerPack<T>::lane(rest));
    r.loss = select(inside, r.loss, V(T(0)));
    finish(r, factor, i, [rest](T* to, V pack) { store_part(to, pack, rest); }, sum[0]);
  }

  if (want != Want::grads && each) write_block(args.loss, start, count, loss);
  if (want != Want::loss && with_input) write_block(args.grad_input, start, count, dx);
  if (want != Want::loss && with_target) write_block(args.grad_target, start, count, dt);
  return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

template <Want want, class T, class F>
void pointwise_run(const PointwiseArgs& args) {
  const F formula(args.hyper);
  const int64_t count = args.input.count, blocks = blocks_of(count);
  const bool each = args.reduction == Reduction::none;
  const double mean = args.reduction == Reduction::mean ? 1.0 / double(count) : 1.0;
  const double seed = !each && present(args.seed) ? load_floating<double>(args.seed, 0) : 1.0;
  double* partial = static_cast<double*>(thread_scratch(0, (blocks + 1) * int64_t(sizeof(double))));
  auto body = [&](int64_t begin, int64_t end) {
    auto& buffers = *static_cast<PointwiseBuffers<T>*>(thread_scratch(1, sizeof(PointwiseBuffers<T>)));
    for (int64_t b = begin; b < end; ++b) {
      const int64_t start = b * kBlock;
      const int length = count - start < kBlock ? int(count - start) : kBlock;
      partial[b] = pointwise_block<want>(formula, args, T(mean * seed), start, length, buffers);
    }
  };
  parallel_for(blocks, count, body);
  if (want != Want::grads && !each) {
    double sum = 0;
    for (int64_t b = 0; b < blocks; ++b) sum += partial[b];
    const double loss = args.reduction == Reduction::mean ? sum / double(count) : sum;
    store_floating(args.loss, 0, loss);
  }
}

template <template <class> class F>
struct Pointwise {
  static_assert(check_pointwise<F>(), "");

  template <class T>
  static void run_as(const PointwiseArgs& args) {
    const bool grads = present(args.grad_input) || present(args.grad_target);
    if (!grads) return pointwise_run<Want::loss, T, F<T>>(args);
    if (!present(args.loss)) return pointwise_run<Want::grads, T, F<T>>(args);
    pointwise_run<Want::both, T, F<T>>(args);
  }

  static void run(const PointwiseArgs& args) {
    const bool wide = args.input.dtype == DType::f64 || args.target.dtype == DType::f64;
    return wide ? run_as<double>(args) : run_as<float>(args);
  }
};

FUSESTEP_TARGET_END
