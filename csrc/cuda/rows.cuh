// Rows of classes and the teams of threads they belong to.
//
// NOTE [teams]: a row belongs to a team of 1, 32 or all threads of a block, by its length. One thread
// suits short rows, and rows whose classes lie apart: there neighbouring rows, so neighbouring threads,
// lie side by side. Results are computed from the scores again rather than from what `visit` returned:
// reading them a third time moves less memory than writing that and reading it back.
#pragma once

#include "core/math.h"
#include "cuda/reduce.cuh"

FUSESTEP_TARGET_BEGIN

// For rows that lie as `view` does, which may be absent.
inline int team_for(const View& view, int64_t classes) {
  if (!present(view) || classes <= 32) return 1;
  if (!view.contiguous && view.strides[view.dims - 1] != 1) return 1;
  return classes <= 1024 ? kWarp : kThreads;
}

template <class V, class Combine>
__device__ __forceinline__ V across_team(V value, int team, Combine combine) {
  if (team == 1) return value;
  return team == kWarp ? across_warp(value, combine) : across_block(value, combine);
}

// A row of a view; null if that is absent.
FUSESTEP_HD Run row_of(const View& view, int64_t row, int64_t classes) {
  if (!present(view)) return {nullptr, view.dtype, true, 1};
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

// Of a row that may be absent.
template <class T>
__device__ __forceinline__ Classes<T> read_if_present(const Run& row, int64_t c, int64_t count, T absent) {
  if (row.data == nullptr) return all_of<T, kPack>(absent);
  return read_classes(row, c, count, absent);
}

// Sums over the classes of a row but `skip`: load(c) reads four, visit(sums, four, i) adds one of them. A
// few fours are summed in T, then added up in double: as exact as a tree, for any row length.
template <class T, int K, class Load, class Visit>
__device__ __forceinline__ void row_sums(const RowWalk& walk, int team, int64_t skip, T (&sums)[K],
                                         Load&& load, Visit&& visit) {
  constexpr int turns = 8;
  double total[K] = {};
  for (int64_t c = walk.first; c < walk.classes;) {
    T sum[K] = {};
    for (int turn = 0; turn < turns && c < walk.classes; ++turn, c += walk.step) {
      const auto four = load(c);
      for (int i = 0; i < kPack; ++i) {
        T next[K];
        for (int k = 0; k < K; ++k) next[k] = sum[k];
        visit(next, four, i);
        const bool counts = c + i >= 0 && c + i < walk.classes && c + i != skip;
        for (int k = 0; k < K; ++k) sum[k] = counts ? next[k] : sum[k];
      }
    }
    for (int k = 0; k < K; ++k) total[k] += double(sum[k]);
  }
  for (int k = 0; k < K; ++k) sums[k] = T(across_team(total[k], team, Add()));
}

// What the gradient of a row is multiplied by; `reduced` is reduced_scale, the same for all.
template <class Args>
__device__ __forceinline__ double scale_of(const Args& args, double reduced, int64_t row) {
  if (args.reduction != Reduction::none || !present(args.seed)) return reduced;
  return read_one<double>(args.seed.data, args.seed.dtype, offset_of(args.seed, row));
}

// Calls one(row), which returns a loss, for each row of this thread's team, and takes care of the losses.
template <class Args, class One>
__device__ __forceinline__ void for_each_row(const Args& args, int team, One&& one) {
  const int64_t at_once = kThreads / team, step = int64_t(gridDim.x) * at_once;
  const bool leads = threadIdx.x % unsigned(team) == 0;
  double sum = 0;
  for (int64_t row = blockIdx.x * at_once + threadIdx.x / unsigned(team); row < args.rows; row += step) {
    const auto loss = one(row);
    if (!leads) continue;
    sum += double(loss);
    if (args.reduction == Reduction::none && present(args.loss)) {
      write_one(args.loss.data, args.loss.dtype, offset_of(args.loss, row), loss);
    }
  }
  if (reduces_loss(args)) keep_partial(partials_of(args), sum);
}

FUSESTEP_TARGET_END
