// The rowwise loop: for each row its maximum, then the sums over its classes, then the gradient.
//
// NOTE [teams]: a row belongs to a team of 1, 32 or all threads of a block, by its length. One thread
// suits short rows, and rows whose classes lie apart: there neighbouring rows, so neighbouring threads,
// lie side by side. The gradient is computed from the scores again rather than from what `visit`
// returned: reading them a third time moves less memory than writing that and reading it back.
#pragma once

#include "core/op_table.h"
#include "cuda/reduce.cuh"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class F>
struct RowwiseParams {
  F formula;
  RowwiseArgs args;
  int team;
  const double* kept_weight;  // of the rows that are not ignored, under mean
  double* partials;
};

template <class V, class Combine>
__device__ __forceinline__ V across_team(V value, int team, Combine combine) {
  if (team == 1) return value;
  return team == kWarp ? across_warp(value, combine) : across_block(value, combine);
}

FUSESTEP_HD Run row_of(const View& view, int64_t row, int64_t classes) {
  const int last = view.dims - 1;
  const int64_t base = view.contiguous ? row * classes : offset_of(view, row, last);
  const int64_t stride = view.contiguous ? 1 : view.strides[last];
  return {static_cast<char*>(view.data) + base * size_of(view.dtype), view.dtype, stride == 1, stride};
}

FUSESTEP_HD Run run_of(const View& view) {
  return {view.data, view.dtype, view.contiguous, view.contiguous ? 1 : view.strides[0]};
}

template <class T>
using Classes = Portion<T, kPack>;

// Classes first … first+3 of a row. The first may lie before the row; outside it they are `fill`.
template <class T>
FUSESTEP_HD Classes<T> read_classes(const Run& row, int64_t first, int64_t count, T fill) {
  Classes<T> classes;
  dispatch_floating(row.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    const S* from = static_cast<const S*>(row.data) + first * row.stride;
    if (row.contiguous && first >= 0 && first + kPack <= count && is_aligned(from)) {
      classes = load_aligned<T>(from);
    } else {
      for (int i = 0; i < kPack; ++i) {
        const bool inside = first + i >= 0 && first + i < count;
        classes.at[i] = inside ? T(widen(from[i * row.stride])) : fill;
      }
    }
  });
  return classes;
}

template <class T>
__device__ __forceinline__ void write_classes(const Run& row, int64_t first, int64_t count,
                                              const Classes<T>& classes) {
  dispatch_floating(row.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    S* to = static_cast<S*>(row.data) + first * row.stride;
    if (row.contiguous && first >= 0 && first + kPack <= count && is_aligned(to)) {
      store_aligned(to, classes);
    } else {
      for (int i = 0; i < kPack; ++i) {
        if (first + i >= 0 && first + i < count) narrow(classes.at[i], to[i * row.stride]);
      }
    }
  });
}

// Calls visit(c) for each four classes of the row that are this thread's, c being the first of them.
// Fours are cut where memory is aligned, so the first may begin before the row, with a negative c.
struct RowWalk {
  int64_t first, step, classes;

  __device__ __forceinline__ RowWalk(const Run& row, int64_t classes_, int team)
      : step(int64_t(team) * kPack), classes(classes_) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(row.data) / unsigned(size_of(row.dtype));
    first = int64_t(threadIdx.x % unsigned(team)) * kPack - (row.contiguous ? int64_t(at % kPack) : 0);
  }

  template <class Visit>
  __device__ __forceinline__ void for_each(Visit&& visit) const {
    for (int64_t c = first; c < classes; c += step) visit(c);
  }
};

template <class T>
__device__ __forceinline__ T row_max(const Run& x, const RowWalk& walk, int team) {
  T best = -infinity<T>();
  walk.for_each([&](int64_t c) {
    const Classes<T> x4 = read_classes(x, c, walk.classes, -infinity<T>());
    for (int i = 0; i < kPack; ++i) {
      best = x4.at[i] > best ? x4.at[i] : best;  // a NaN shows up again in the sums
    }
  });
  return across_team(best, team, Largest());
}

// Class weights; 1 where there are none.
template <class T>
__device__ __forceinline__ Classes<T> read_weights(const Run& weight, int64_t c, int64_t classes) {
  if (weight.data == nullptr) return all_of<T, kPack>(T(1));
  return read_classes(weight, c, classes, T(1));
}

// A few fours are summed in T, then added up in double: as exact as a tree, for any row length.
template <class T, class F>
__device__ __forceinline__ void row_sums(const F& formula, const Run& x, const Run& weight,
                                         const RowWalk& walk, int team, int64_t label, T top,
                                         T (&sums)[F::sums]) {
  constexpr int K = F::sums, turns = 8;
  double total[K] = {};
  for (int64_t c = walk.first; c < walk.classes;) {
    T sum[K] = {};
    for (int turn = 0; turn < turns && c < walk.classes; ++turn, c += walk.step) {
      const Classes<T> x4 = read_classes(x, c, walk.classes, top);
      const Classes<T> w = read_weights<T>(weight, c, walk.classes);
      for (int i = 0; i < kPack; ++i) {
        T next[K];
        for (int k = 0; k < K; ++k) next[k] = sum[k];
        formula.visit(next, x4.at[i] - top, w.at[i]);
        const bool counts = c + i >= 0 && c + i < walk.classes && c + i != label;
        for (int k = 0; k < K; ++k) sum[k] = counts ? next[k] : sum[k];
      }
    }
    for (int k = 0; k < K; ++k) total[k] += double(sum[k]);
  }
  for (int k = 0; k < K; ++k) sums[k] = T(across_team(total[k], team, Add()));
}

template <class T, class F>
__device__ __forceinline__ void row_grad(const F& formula, const Row<T>& row, const Run& x, const Run& weight,
                                         const Run& grad, const RowWalk& walk, int64_t label, T top,
                                         T scale) {
  walk.for_each([&](int64_t c) {
    const Classes<T> w = read_weights<T>(weight, c, walk.classes);
    Classes<T> x4 = read_classes(x, c, walk.classes, top);
    for (int i = 0; i < kPack; ++i) {
      T unused[F::sums] = {};
      const T kept = formula.visit(unused, x4.at[i] - top, w.at[i]);
      x4.at[i] = (c + i == label ? row.label_grad : formula.grad(row, kept, w.at[i])) * scale;
    }
    write_classes(grad, c, walk.classes, x4);
  });
}

__device__ __forceinline__ double seed_of(const RowwiseArgs& args, int64_t row) {
  if (!present(args.seed)) return 1.0;
  const int64_t offset = args.reduction == Reduction::none ? offset_of(args.seed, row) : 0;
  return read_one<double>(args.seed.data, args.seed.dtype, offset);
}

// One row, by its team. Returns its loss, which is written if there is one for each row.
template <class T, class F>
__device__ __forceinline__ T one_row(const RowwiseParams<F>& p, int64_t row, double norm) {
  const RowwiseArgs& args = p.args;
  const int64_t classes = args.classes, label = load_integer(args.target, row);
  const bool ignored = label == args.ignore_index;
  const bool known = uint64_t(label) < uint64_t(classes);
  const Run x = row_of(args.input, row, classes);
  const RowWalk walk(x, classes, p.team);
  T loss = ignored ? T(0) : T(NAN);
  if (known && !ignored) {
    const Run weight = run_of(args.weight);
    const T top = row_max<T>(x, walk, p.team);
    T sums[F::sums];
    row_sums(p.formula, x, weight, walk, p.team, label, top, sums);
    const T own = read_one<T>(x.data, x.dtype, offset_of(x, label)) - top;
    const T w =
        weight.data == nullptr ? T(1) : read_one<T>(weight.data, weight.dtype, offset_of(weight, label));
    const Row<T> result = p.formula.loss(sums, own, w, T(classes));
    loss = result.loss;
    if (present(args.grad_input)) {
      const Run grad = row_of(args.grad_input, row, classes);
      row_grad(p.formula, result, x, weight, grad, walk, label, top, T(norm * seed_of(args, row)));
    }
  } else if (present(args.grad_input)) {
    const Run grad = row_of(args.grad_input, row, classes);
    const Classes<T> same = all_of<T, kPack>(loss);
    walk.for_each([&](int64_t c) { write_classes(grad, c, classes, same); });
  }
  if (args.reduction == Reduction::none && present(args.loss) && threadIdx.x % p.team == 0) {
    write_one(args.loss.data, args.loss.dtype, offset_of(args.loss, row), loss);
  }
  return loss;
}

template <class T, class F>
__global__ void __launch_bounds__(kThreads, 2) rowwise_kernel(const RowwiseParams<F> __grid_constant__ p) {
  const double norm = p.args.reduction == Reduction::mean ? 1.0 / *p.kept_weight : 1.0;
  const int64_t at_once = kThreads / p.team, step = int64_t(gridDim.x) * at_once;
  double sum = 0;
  for (int64_t row = blockIdx.x * at_once + threadIdx.x / p.team; row < p.args.rows; row += step) {
    const T loss = one_row<T>(p, row, norm);
    if (threadIdx.x % p.team == 0) sum += double(loss);
  }
  if (p.args.reduction == Reduction::none || !present(p.args.loss)) return;
  sum = across_block(sum, Add());
  if (threadIdx.x == 0) p.partials[blockIdx.x] = sum;
}

struct WeightParams {
  RowwiseArgs args;
  double* partials;
};

static __global__ void __launch_bounds__(kThreads, 2)
    kept_weight_kernel(const WeightParams __grid_constant__ p) {
  const Run weight = run_of(p.args.weight);
  const int64_t step = int64_t(gridDim.x) * kThreads;
  double sum = 0;
  for (int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x; row < p.args.rows; row += step) {
    const int64_t label = load_integer(p.args.target, row);
    const bool known = uint64_t(label) < uint64_t(p.args.classes);
    if (label == p.args.ignore_index || !known) continue;
    sum +=
        weight.data == nullptr ? 1.0 : read_one<double>(weight.data, weight.dtype, offset_of(weight, label));
  }
  sum = across_block(sum, Add());
  if (threadIdx.x == 0) p.partials[blockIdx.x] = sum;
}

template <template <class> class F>
struct Rowwise {
  static_assert(check_rowwise<F>(), "");

  static int team_of(const RowwiseArgs& args) {
    const View& x = args.input;
    if (args.classes <= 32 || !(x.contiguous || x.strides[x.dims - 1] == 1)) return 1;
    return args.classes <= 1024 ? kWarp : kThreads;
  }

  template <class T>
  static void run_as(const RowwiseArgs& args) {
    const bool mean = args.reduction == Reduction::mean;
    double* kept_weight = static_cast<double*>(args.workspace);
    double* partials = kept_weight + 1;
    if (mean) {
      const int64_t blocks = blocks_for(args.rows, kThreads);
      View result;
      result.data = kept_weight;
      result.dtype = DType::f64;
      if (blocks > 0) launch(kept_weight_kernel, blocks, args.stream, WeightParams{args, partials});
      launch(sum_kernel, 1, args.stream, SumParams{partials, blocks, 1.0, nullptr, result});
    }
    const int team = team_of(args);
    const int64_t blocks = blocks_for(args.rows, kThreads / team);
    if (blocks > 0) {
      const F<T> formula(args.hyper);
      launch(rowwise_kernel<T, F<T>>, blocks, args.stream,
             RowwiseParams<F<T>>{formula, args, team, kept_weight, partials});
    }
    if (args.reduction != Reduction::none && present(args.loss)) {
      launch(sum_kernel, 1, args.stream,
             SumParams{partials, blocks, 1.0, mean ? kept_weight : nullptr, args.loss});
    }
  }

  static BadLabel run(const RowwiseArgs& args) {
    args.input.dtype == DType::f64 ? run_as<double>(args) : run_as<float>(args);
    return {false, 0};
  }
};

FUSESTEP_TARGET_END
