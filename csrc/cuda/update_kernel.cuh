// The kernel of the update loop: each tensor of a launch with its own hyper-parameters, and beside the
// rule what may be asked of any: clipping, rounding, an average, gradients that are written.
//
// NOTE [extras]: they have kernels of their own, `packed` ones, which serve what would be `plain` too, so
// that a plain step carries none of them. Strided, unaligned and double tensors share one kernel with and
// without: it asks about each element anyway.
#pragma once

#include "core/op_table.h"
#include "core/rounding.h"
#include "cuda/chunks.cuh"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

// Tensors are numbered: parameter, gradient, states, and with extras the average and what was lost.
template <class F>
constexpr int kAverage = 2 + decltype(F::states)::size;
template <class F>
constexpr int kLost = kAverage<F> + 1;
template <class F, bool extras>
constexpr int kTensors = kAverage<F> + (extras ? 2 : 0);

template <class F>
const View& tensor_of(const UpdateItem& item, int number) {
  return number == 0             ? item.param
         : number == 1           ? item.grad
         : number == kAverage<F> ? item.average
         : number == kLost<F>    ? item.lost
                                 : item.state[number - 2];
}

template <class T, bool extras>
struct Beside {
  T grad_scale;
};
template <class T>
struct Beside<T, true> {
  double grad_scale, max_norm, decay;
  uint64_t seed;
  Rounding rounding;
  bool averages;
};

// Only a formula that takes sparse gradients has these.
template <bool by_rows>
struct EntryRows {};
template <>
struct EntryRows<true> {
  const int64_t* row;
  int64_t length;
};

template <class T, class F, bool extras>
struct UpdateEntry {
  UpdateEntry() {}  // leaves the formula to be assigned: it has no default
  union {
    F formula;
  };
  void* data[kTensors<F, extras>];
  DType dtype[kTensors<F, extras>];
  Beside<T, extras> beside;
  EntryRows<F::by_rows> rows;
  int64_t count;  // elements of the gradient
  int64_t chunks;
};

// A tensor that is not dense has a launch to itself: the layouts of several would not fit.
template <Access access, class F, bool extras>
struct Layouts {};
template <class F, bool extras>
struct Layouts<Access::any, F, extras> {
  bool dense;
  View views[kTensors<F, extras>];
};

template <bool extras>
struct CallExtras {};
template <>
struct CallExtras<true> {
  const double* norm;
  Gradients gradients;
};

template <Access access, class T, class F, bool extras>
struct UpdateParams {
  using Entry = UpdateEntry<T, F, extras>;
  static constexpr int capacity =
      (kParamBytes - int(sizeof(Layouts<access, F, extras>)) - int(sizeof(CallExtras<extras>)) - 16) /
      int(sizeof(Entry));
  Entry entries[capacity];
  int count;
  CallExtras<extras> call;
  Layouts<access, F, extras> layouts;
};

// Which element of the parameter gets element `at` of the gradient.
template <class F, class Entry>
__device__ __forceinline__ int64_t element_of(const Entry& entry, int64_t at) {
  if constexpr (F::by_rows) {
    if (entry.rows.row != nullptr) {
      const int64_t row = at / entry.rows.length;
      return entry.rows.row[row] * entry.rows.length + (at - row * entry.rows.length);
    }
  }
  return at;
}

// The value as it will be stored. Not inlined, as strided_offset is not.
template <class T>
static __device__ FUSESTEP_NOINLINE T rounded(DType dtype, Rounding rounding, T exact, uint64_t seed,
                                              uint64_t number) {
  return rounding == Rounding::stochastic ? rounded_at_random_to(dtype, exact, seed, number)
                                          : rounded_to(dtype, exact);
}

template <class T, bool extras>
__device__ __forceinline__ T grad_scale_of(const Beside<T, extras>& beside, const CallExtras<extras>& call) {
  if constexpr (extras) {
    const bool clipped = call.norm != nullptr && beside.max_norm > 0;
    return T(beside.grad_scale * (clipped ? clip_factor(*call.norm, beside.max_norm) : 1));
  } else {
    return beside.grad_scale;
  }
}

template <Access access, bool extras, unsigned Present, class T, class F>
__global__ void __launch_bounds__(kThreads, 2)
    update_kernel(const UpdateParams<access, T, F, extras> __grid_constant__ p) {
  constexpr int N = decltype(F::states)::size, W = kWidth<access>;
  using Own = Portion<T, W>;
  const int64_t chunks = chunks_of(p);
  for (int64_t number = blockIdx.x; number < chunks; number += gridDim.x) {
    const Chunk chunk = chunk_at(p, number);
    const auto& entry = p.entries[chunk.entry];
    const T grad_scale = grad_scale_of(entry.beside, p.call);
    for (int64_t at = chunk.begin + threadIdx.x * W; at < chunk.end; at += kThreads * W) {
      const int64_t element = element_of<F>(entry, at), rest = entry.count - at;
      int64_t place[kTensors<F, extras>];
      const auto fetch = [&](int tensor) {
        place[tensor] = tensor == 1 ? at : element;
        if constexpr (access == Access::any) {
          if (!p.layouts.dense) place[tensor] = place_of<access>(p.layouts.views[tensor], place[tensor]);
        }
        return read<access, T>(entry.data[tensor], entry.dtype[tensor], place[tensor], rest);
      };
      const auto store = [&](int tensor, const Own& portion) {
        write<access>(entry.data[tensor], entry.dtype[tensor], place[tensor], rest, portion);
      };
      Own param = fetch(0), state[N], lost, average;
      const Own grad = fetch(1);
      for (int k = 0; k < N; ++k) {
        if (has_state(Present, k)) state[k] = fetch(2 + k);
      }
      if constexpr (extras) {
        if (entry.beside.averages) average = fetch(kAverage<F>);
        if (entry.beside.rounding == Rounding::kahan) {
          lost = fetch(kLost<F>);
          for (int i = 0; i < W; ++i) param.at[i] = param.at[i] + lost.at[i];
        }
      }
      for (int i = 0; i < W; ++i) {
        T own[N];
        for (int k = 0; k < N; ++k) own[k] = has_state(Present, k) ? state[k].at[i] : T(0);
        entry.formula.template operator()<Present>(param.at[i], grad.at[i] * grad_scale, own);
        for (int k = 0; k < N; ++k) state[k].at[i] = own[k];
      }
      if constexpr (extras) {
        const auto& beside = entry.beside;
        if (beside.rounding != Rounding::nearest || beside.averages) {
          for (int i = 0; i < W; ++i) {
            const T exact = param.at[i], kept = rounded(entry.dtype[0], beside.rounding, exact, beside.seed,
                                                        uint64_t(element + i));
            // Nothing to put back to what is not finite.
            lost.at[i] = kept - kept == T(0) ? exact - kept : T(0);
            param.at[i] = kept;
          }
        }
      }
      store(0, param);
      for (int k = 0; k < N; ++k) {
        if (has_state(Present, k)) store(2 + k, state[k]);
      }
      if constexpr (extras) {
        const auto& beside = entry.beside;
        if (beside.rounding == Rounding::kahan) store(kLost<F>, lost);
        if (beside.averages) {
          const T fresh = T(1 - beside.decay);
          for (int i = 0; i < W; ++i) {
            const T old = average.at[i], now = param.at[i];
            // A copy at first: the average of nothing may hold anything.
            average.at[i] = fresh == T(1) ? now : mul_add(fresh, now - old, old);
          }
          store(kAverage<F>, average);
        }
        if (p.call.gradients != Gradients::kept) {
          const T scale = T(beside.grad_scale < 0 ? -beside.grad_scale : beside.grad_scale);
          Own written;
          for (int i = 0; i < W; ++i) {
            written.at[i] = p.call.gradients == Gradients::cleared ? T(0) : grad.at[i] * scale;
          }
          store(1, written);
        }
      }
    }
  }
}

FUSESTEP_TARGET_END
