// Rows of classes and the teams of threads they belong to.
//
// NOTE [rows]: a kernel over rows exists in kinds, chosen on the host by the operands of a call.
//   held    in the registers of a team of 1 to 32 threads, or of a block: read once, written once
//   staged  longer: in the shared memory of a block, as much as there is room for. The rest is read again,
//           from L2 as a rule: few rows are under way at a time
//   walked  whatever else: double, operands of several dtypes, classes that lie apart. Read for the maximum,
//           for the sums and for the result
// Where classes lie apart, neighbouring rows lie side by side: there a row belongs to one thread, and what
// its block reads again is in L1 if it is short.
#pragma once

#include "core/math.h"
#include "cuda/reduce.cuh"

FUSESTEP_TARGET_BEGIN

// Where the classes of a row begin. Not inlined, as read_lone is not.
static __device__ FUSESTEP_NOINLINE int64_t strided_row(const View& view, int64_t row) {
  return offset_of(view, row, view.dims - 1);
}

// A row of a view; null if that is absent.
__device__ __forceinline__ Run row_of(const View& view, int64_t row, int64_t classes) {
  if (!present(view)) return {nullptr, view.dtype, true, 1};
  const int64_t base = view.contiguous ? row * classes : strided_row(view, row);
  const int64_t stride = view.contiguous ? 1 : view.strides[view.dims - 1];
  return {static_cast<char*>(view.data) + base * size_of(view.dtype), view.dtype, stride == 1, stride};
}

FUSESTEP_HD Run run_of(const View& view) {
  return {view.data, view.dtype, view.contiguous, view.contiguous ? 1 : view.strides[0]};
}

// What is read and written of a row; what is absent is null.
struct RowMemory {
  Run x, target, weight, out[2];
  int64_t classes;
};

// What a formula sees of a class.
template <class T>
struct Element {
  T x, target, weight;
};

// One element of a run, or `absent`.
template <class T>
__device__ __forceinline__ T read_at(const Run& run, int64_t index, T absent) {
  return run.data == nullptr ? absent : read_lone<T>(run.data, run.dtype, offset_of(run, index));
}

template <class T>
__device__ __forceinline__ void write_at(const Run& run, int64_t index, T value) {
  write_lone(run.data, run.dtype, offset_of(run, index), value);
}

// A row cut into portions of `width` neighbouring classes where memory is aligned, so the first may begin
// `before` classes ahead of it. They are dealt out to the threads of a team, a power of two.
template <class Index, int width>
struct Cut {
  Index classes;
  int before, team, lane;

  __device__ __forceinline__ Cut(const Run& row, int64_t classes_, int team_)
      : classes(Index(classes_)), before(0), team(team_), lane(int(threadIdx.x) & (team_ - 1)) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(row.data) / unsigned(size_of(row.dtype));
    if (row.contiguous) before = int(at % unsigned(width));
  }

  __device__ __forceinline__ Index portions() const { return (classes + before + width - 1) / width; }
  // The first class of a portion, which may lie before the row or, if there is no such portion, behind it.
  __device__ __forceinline__ Index first_of(Index portion) const { return portion * width - before; }
  __device__ __forceinline__ bool is_whole(Index first) const {
    return first >= 0 && first + width <= classes;
  }
  // A bit for each class of the portion that the row has.
  __device__ __forceinline__ unsigned inside(Index first) const {
    if (is_whole(first)) return (1u << width) - 1;
    unsigned bits = 0;
    FUSESTEP_UNROLL for (int i = 0; i < width; ++i) {
      bits |= first + i >= 0 && first + i < classes ? 1u << i : 0u;
    }
    return bits;
  }
  // The same but for class `skip`, which may lie elsewhere.
  __device__ __forceinline__ unsigned without(unsigned inside, Index first, Index skip) const {
    return skip >= first && skip < first + width ? inside & ~(1u << int(skip - first)) : inside;
  }
  // Whether this thread has the portion with class c.
  __device__ __forceinline__ bool owns(int64_t c) const {
    return (uint64_t(c + before) / unsigned(width) & unsigned(team - 1)) == unsigned(lane);
  }
};

// Adds up over the classes of a row: a few in T, then in double, as exact as a tree for any length.
template <class T, int K>
struct RowSums {
  T few[K] = {};
  double total[K] = {};

  // visit(sums) adds a class, if it counts.
  template <class Visit>
  __device__ __forceinline__ T add(bool counts, Visit&& visit) {
    T next[K];
    for (int k = 0; k < K; ++k) next[k] = few[k];
    const T kept = visit(next);
    for (int k = 0; k < K; ++k) few[k] = counts ? next[k] : few[k];
    return kept;
  }
  __device__ __forceinline__ void carry() {
    for (int k = 0; k < K; ++k) {
      total[k] += double(few[k]);
      few[k] = T(0);
    }
  }
};

// Over the threads of a team, each of which gets the result.
template <class V, class Combine>
__device__ __forceinline__ V across_team(V value, int team, Combine combine) {
  return team <= kWarp ? across_lanes(value, team, combine) : across_block(value, combine);
}

// What the gradient of a row is multiplied by; `reduced` is reduced_scale, the same for all.
template <class Args>
__device__ __forceinline__ double scale_of(const Args& args, double reduced, int64_t row) {
  if (args.reduction != Reduction::none || !present(args.seed)) return reduced;
  return read_lone<double>(args.seed.data, args.seed.dtype, place_of_one(args.seed, row));
}

// Calls one(row, counts), which returns a loss, for each row of this thread's team, and takes care of the
// losses. All lanes of a warp take the same turns: where the rows end, some go over the last one again,
// which does not count.
template <class Args, class One>
__device__ __forceinline__ void for_each_row(const Args& args, const Divisor& divisor, int team, One&& one) {
  const int64_t at_once = int(blockDim.x) / team, step = int64_t(gridDim.x) * at_once;
  const bool leads = (int(threadIdx.x) & (team - 1)) == 0;
  const int lane = team < kWarp ? int(threadIdx.x % kWarp) / team : 0;  // of the team in its warp
  double sum = 0;
  for (int64_t first = blockIdx.x * at_once + int(threadIdx.x) / team - lane; first < args.rows;
       first += step) {
    const bool counts = first + lane < args.rows;
    const int64_t row = counts ? first + lane : args.rows - 1;
    const auto loss = one(row, counts);
    if (!leads || !counts) continue;
    sum += double(loss);
    if (args.reduction == Reduction::none && present(args.loss)) {
      write_lone(args.loss.data, args.loss.dtype, place_of_one(args.loss, row), loss);
    }
  }
  finish_loss(args, divisor, sum);
}

FUSESTEP_TARGET_END
