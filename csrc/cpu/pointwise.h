// The pointwise loop: value and gradients of every element from one call of the formula.
#pragma once

#include "core/op_table.h"
#include "cpu/blocks.h"
#include "cpu/two.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

// Which results one instantiation of the loop produces; what it does not is dead code in the formula.
enum class Want { loss, grads, both };

// What a call asks for beside them. Almost all are `plain`, which the compiler should know.
enum class Detail { plain, all };  // plain: reduced, without weights, the first operand's gradient at most

template <class T, int N>
struct PointwiseBuffers {
  T operand[N][kBlock], weight[kBlock], seed[kBlock];
  T loss[kBlock], grad[N][kBlock];
};

struct PointwiseSum {
  double loss;
  bool outside;  // an operand lay outside the domain of the formula
};

// One block. The sum is that of its losses (0 unless the loss is wanted and reduced).
// Operands and gradients are of the storage type S: of any, by way of the buffers, if that is T.
template <Want want, Detail detail, class T, class S, class F>
PointwiseSum pointwise_block(const F& formula, const PointwiseArgs& args, T scale, int64_t start, int count,
                             PointwiseBuffers<T, F::operands.size>& buffers) {
  using V = Pack<T>;
  constexpr int L = V::lanes, N = F::operands.size, graded = detail == Detail::plain ? 1 : N;
  const bool each = detail == Detail::all && args.reduction == Reduction::none;
  const auto open = [&](const View& view, T* buffer) -> const T* {
    return present(view) ? read_block(view, start, count, buffer) : nullptr;
  };
  constexpr bool direct = !std::is_same_v<S, T>;
  const T* weight = detail == Detail::all ? open(args.weight, buffers.weight) : nullptr;
  const T* seed = each ? open(args.seed, buffers.seed) : nullptr;
  T* loss = place_block(args.loss, start, buffers.loss);
  const S* x[N];
  S* grad[N];
  for (int k = 0; k < N; ++k) {
    if constexpr (direct) {
      x[k] = present(args.operand[k]) ? element<S>(args.operand[k], start) : nullptr;
      grad[k] = present(args.grad[k]) ? element<S>(args.grad[k], start) : nullptr;
    } else {
      x[k] = open(args.operand[k], buffers.operand[k]);
      grad[k] = present(args.grad[k]) ? place_block(args.grad[k], start, buffers.grad[k]) : nullptr;
    }
  }

  // One pack, or two: `read(from)` and `write(to, pack)` know whether it is whole.
  const auto work = [&](int at, auto& total, auto& outside, auto&& read, auto&& write, auto&& counted) {
    using X = std::remove_reference_t<decltype(total)>;
    X operand[N];
    for (int k = 0; k < N; ++k) operand[k] = x[k] != nullptr ? read(x[k] + at) : X(T(1));
    const X w = weight != nullptr ? read(weight + at) : X(T(1));
    const PointwiseResult<X, N> r = evaluate(formula, operand);
    if constexpr (F::domain != nullptr) {
      outside = select(is_inside(formula, operand), outside, counted(X(T(1))));
    }
    if constexpr (want != Want::grads) {
      const X value = weight != nullptr ? r.loss * w : r.loss;
      if (each) write(loss + at, value);
      total = total + counted(value);
    }
    if constexpr (want != Want::loss) {
      const X factor = (seed != nullptr ? read(seed + at) : X(scale)) * w;
      for (int k = 0; k < graded; ++k) {
        if (grad[k] != nullptr) write(grad[k] + at, r.grad[k] * factor);
      }
    }
  };
  using B = Batch<T>;
  constexpr int batch = lanes_of<B>, batches = 4 * L / batch;
  B sums[batches], outsides = B(T(0));
  for (B& sum : sums) sum = B(T(0));
  const auto read_whole = [](const auto* from) {
    B whole;
    convert(from, whole);
    return whole;
  };
  const auto write_whole = [](auto* to, B whole) { convert(whole, to); };
  const auto all = [](B whole) { return whole; };
  Prefetch<T> first(args.operand[0], start, direct), second(args.operand[1], start, direct);
  Prefetch<T> third(args.operand[N - 1], start, direct), output(args.grad[0], start, direct);
  int i = 0;
  for (; i + 4 * L <= count; i += 4 * L) {
    for (int k = 0; k < batches; ++k) {
      for (int line = 0; line < batch; line += L) {
        first.next_to_read();
        second.next_to_read();
        if (N > 2) third.next_to_read();
        if (want != Want::loss) output.next_to_write();
      }
      work(i + k * batch, sums[k], outsides, read_whole, write_whole, all);
    }
  }
  V total[4], outside = V(T(0));
  memcpy(total, sums, sizeof(total));
  for (; i < count; i += L) {
    const int rest = count - i < L ? count - i : L;
    const auto inside = lane_numbers<T>() < IntegerPack<T>(typename IntegerPack<T>::lane(rest));
    work(
        i, total[0], outside, [rest](const auto* from) { return load_part_as<T>(from, rest, T(0)); },
        [rest](auto* to, V pack) { store_part_as(to, pack, rest); },
        [inside](V pack) { return select(inside, pack, V(T(0))); });
  }

  if (want != Want::grads && each) write_block(args.loss, start, count, loss);
  if constexpr (want != Want::loss && !direct) {
    for (int k = 0; k < N; ++k) {
      if (grad[k] != nullptr) write_block(args.grad[k], start, count, grad[k]);
    }
  }
  return {sum_lanes((total[0] + total[1]) + (total[2] + total[3])),
          any_above_zero(outsides) || any_above_zero(outside)};
}

// The sum of part(start, length) over the blocks of `count` elements, in their order.
template <class Part>
double sum_of_blocks(int64_t count, Part&& part) {
  const int64_t blocks = blocks_of(count);
  double* partial = static_cast<double*>(thread_scratch(0, (blocks + 1) * int64_t(sizeof(double))));
  auto body = [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t start = b * kBlock;
      partial[b] = part(start, count - start < kBlock ? int(count - start) : kBlock);
    }
  };
  parallel_for(blocks, count, body);
  double sum = 0;
  for (int64_t b = 0; b < blocks; ++b) sum += partial[b];
  return sum;
}

inline double sum_of(const View& view) {
  return sum_of_blocks(view.count, [&](int64_t start, int count) {
    double* buffer = static_cast<double*>(thread_scratch(1, kBlock * int64_t(sizeof(double))));
    const double* values = read_block(view, start, count, buffer);
    double sum = 0;
    for (int i = 0; i < count; ++i) sum += values[i];
    return sum;
  });
}

template <Want want, Detail detail, class T, class S, class F>
bool pointwise_run(const PointwiseArgs& args) {
  using Buffers = PointwiseBuffers<T, F::operands.size>;
  const F formula(args.hyper);
  const int64_t count = args.operand[0].count;
  const bool each = args.reduction == Reduction::none;
  double divisor = 1.0;
  if (args.reduction == Reduction::mean) {
    const bool by_weight = F::weighted_mean && present(args.weight);
    divisor = args.divisor != 0 ? args.divisor : by_weight ? sum_of(args.weight) : double(count);
  }
  const double seed = !each && present(args.seed) ? load_floating<double>(args.seed, 0) : 1.0;
  const T scale = T(1.0 / divisor * seed);
  const int64_t blocks = blocks_of(count);
  bool* outside = static_cast<bool*>(thread_scratch(2, blocks + 1));
  const double sum = sum_of_blocks(count, [&](int64_t start, int length) {
    auto& buffers = *static_cast<Buffers*>(thread_scratch(1, sizeof(Buffers)));
    const auto part = pointwise_block<want, detail, T, S>(formula, args, scale, start, length, buffers);
    outside[start / kBlock] = part.outside;
    return part.loss;
  });
  if (want != Want::grads && !each) {
    store_floating(args.loss, 0, args.reduction == Reduction::mean ? sum / divisor : sum);
  }
  bool inside = true;
  for (int64_t b = 0; F::domain != nullptr && b < blocks; ++b) inside = inside && !outside[b];
  return inside;
}

template <template <class> class F>
struct Pointwise {
  static_assert(check_pointwise<F>(), "");

  template <class T>
  static bool run_as(const PointwiseArgs& args) {
    bool grads = false;
    for (const View& grad : args.grad) grads = grads || present(grad);
    if (!grads) return run_for<Want::loss, T>(args);
    if (!present(args.loss)) return run_for<Want::grads, T>(args);
    return run_for<Want::both, T>(args);
  }

  template <Want want, class T>
  static bool run_for(const PointwiseArgs& args) {
    bool plain = args.reduction != Reduction::none && !present(args.weight);
    for (int k = 1; k < F<T>::operands.size; ++k) plain = plain && !present(args.grad[k]);
    if (!plain) return pointwise_run<want, Detail::all, T, T, F<T>>(args);
    return by_storage<T>(
        [&](auto tag) { return all_are<typename decltype(tag)::type>(args); },
        [&](auto tag) {
          return pointwise_run<want, Detail::plain, T, typename decltype(tag)::type, F<T>>(args);
        });
  }

  // Whether operands and gradient lie side by side as S, to be converted pack by pack.
  template <class S>
  static bool all_are(const PointwiseArgs& args) {
    const auto is = [](const View& view) {
      return !present(view) || (view.dtype == dtype_of<S>() && view.contiguous);
    };
    bool all = is(args.grad[0]);
    for (const View& operand : args.operand) all = all && is(operand);
    return all;
  }

  static bool run(const PointwiseArgs& args) {
    bool wide = present(args.weight) && args.weight.dtype == DType::f64;
    for (const View& x : args.operand) wide = wide || (present(x) && x.dtype == DType::f64);
    return wide ? run_as<double>(args) : run_as<float>(args);
  }
};

FUSESTEP_TARGET_END
