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

// The place of a tensor among those that are there: entries are small, so that many fit into a launch.
template <class F, unsigned Present>
FUSESTEP_HD constexpr int slot_of(int tensor) {
  int slot = tensor;
  for (int k = 0; k < decltype(F::states)::size && 2 + k < tensor; ++k) slot -= has_state(Present, k) ? 0 : 1;
  return slot;
}

// Only a formula that takes sparse gradients has these.
template <bool by_rows>
struct EntryRows {};
template <>
struct EntryRows<true> {
  const int64_t* row;
  int64_t length;
};

template <int slots, bool typed>
struct EntryDtypes {
  FUSESTEP_HD DType dtype(int) const { return DType::f32; }
  void set_dtype(int, DType) {}
};
template <int slots>
struct EntryDtypes<slots, true> {
  DType dtypes[slots];
  FUSESTEP_HD DType dtype(int slot) const { return dtypes[slot]; }
  void set_dtype(int slot, DType dtype) { dtypes[slot] = dtype; }
};

template <bool extras>
struct EntryExtras {};
template <>
struct EntryExtras<true> {
  uint64_t seed;
  bool averages;
};

// Where tensors lie, in six bytes each, so that more of them fit into a launch: addresses of a process have
// 47 bits on x86-64, 48 on aarch64. Should one have more, its item is of Access::any, which keeps them whole.
constexpr int kAddressBits = 48;

template <int slots, bool whole>
class EntryData {
 public:
  FUSESTEP_HD void* operator[](int slot) const {
    return reinterpret_cast<void*>(uint64_t(high_[slot]) << 32 | low_[slot]);
  }
  void set(int slot, void* data) {
    low_[slot] = uint32_t(uintptr_t(data));
    high_[slot] = uint16_t(uint64_t(uintptr_t(data)) >> 32);
  }

 private:
  uint32_t low_[slots];
  uint16_t high_[slots];
};
template <int slots>
class EntryData<slots, true> {
 public:
  FUSESTEP_HD void* operator[](int slot) const { return data_[slot]; }
  void set(int slot, void* data) { data_[slot] = data; }

 private:
  void* data_[slots];
};

template <Access access, class F, bool extras, unsigned Present>
struct UpdateEntry : EntryDtypes<slot_of<F, Present>(kTensors<F, extras>), access != Access::plain>,
                     EntryExtras<extras>,
                     EntryRows<F::by_rows> {
  EntryData<slot_of<F, Present>(kTensors<F, extras>), access == Access::any> data;
  ChunkCount size;  // of the gradient
};

// What tensors have in common, as a rule all of a group.
template <bool extras>
struct SettingExtras {};
template <>
struct SettingExtras<true> {
  double max_norm, decay;
  Rounding rounding;
};
template <class T, class F, bool extras>
struct Setting : SettingExtras<extras> {
  explicit Setting(const F& formula_) : formula(formula_) {}
  F formula;
  std::conditional_t<extras, double, T> grad_scale;
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

// What the device had to be asked for, of a tensor: see prepare.cuh.
template <class F>
struct Prepared {
  F formula;
  double grad_scale;
};

template <Access access, class T, class F, bool extras, unsigned Present, int bytes = kParamBytes>
struct UpdateParams
    : Pool<UpdateEntry<access, F, extras, Present>, Setting<T, F, extras>,
           bytes - int(sizeof(Layouts<access, F, extras>)) - int(sizeof(CallExtras<extras>)) - 48> {
  CallExtras<extras> call;
  const Prepared<F>* prepared;  // one for each entry, or null: what the settings say
  const float* found_inf;       // or null
  Layouts<access, F, extras> layouts;
};

// Which element of the parameter gets element `at` of the gradient.
template <class F, class Entry>
__device__ __forceinline__ int64_t element_of(const Entry& entry, int64_t at) {
  if constexpr (F::by_rows) {
    if (entry.row != nullptr) {
      const int64_t row = at / entry.length;
      return entry.row[row] * entry.length + (at - row * entry.length);
    }
  }
  return at;
}

// The value as it will be stored. Not inlined, as read_lone is not.
template <class T>
static __device__ FUSESTEP_NOINLINE T rounded(DType dtype, Rounding rounding, T exact, uint64_t seed,
                                              uint64_t number) {
  return rounding == Rounding::stochastic ? rounded_at_random_to(dtype, exact, seed, number)
                                          : rounded_to(dtype, exact);
}

// What gradients are multiplied by beside their scale.
template <class Own, bool extras>
__device__ __forceinline__ double clip_of(const Own& own, const CallExtras<extras>& call) {
  if constexpr (extras) {
    if (call.norm != nullptr && own.max_norm > 0) return clip_factor(*call.norm, own.max_norm);
  }
  return 1;
}

template <Access access, bool extras, unsigned Present, class T, class F>
__global__ void __launch_bounds__(kThreads, 2)
    update_kernel(const UpdateParams<access, T, F, extras, Present> __grid_constant__ p) {
  constexpr int N = decltype(F::states)::size, W = kWidth<access>;
  using Own = Portion<T, W>;
  if (p.found_inf != nullptr && *p.found_inf != 0) return;
  const int64_t chunks = chunks_of(p);
  for (int64_t number = blockIdx.x; number < chunks; number += gridDim.x) {
    const Chunk chunk = chunk_at(p, number);
    const auto& entry = p.entry(chunk.entry);
    const auto& setting = p.setting(entry.size.setting);
    const Prepared<F> known = p.prepared != nullptr
                                  ? p.prepared[chunk.entry]
                                  : Prepared<F>{setting.formula, double(setting.grad_scale)};
    const T grad_scale = T(known.grad_scale * clip_of(setting, p.call));
    for (int64_t at = chunk.begin + threadIdx.x * W; at < chunk.end; at += kThreads * W) {
      const int64_t element = element_of<F>(entry, at), rest = chunk.end - at;
      int64_t place[kTensors<F, extras>];
      const auto fetch = [&](int tensor) {
        place[tensor] = tensor == 1 ? at : element;
        if constexpr (access == Access::any) {
          if (!p.layouts.dense) place[tensor] = place_of<access>(p.layouts.views[tensor], place[tensor]);
        }
        const int slot = slot_of<F, Present>(tensor);
        return read<access, T>(entry.data[slot], entry.dtype(slot), place[tensor], rest);
      };
      const auto store = [&](int tensor, const Own& portion) {
        const int slot = slot_of<F, Present>(tensor);
        write<access>(entry.data[slot], entry.dtype(slot), place[tensor], rest, portion);
      };
      Own param = fetch(0), state[N], lost, average;
      const Own grad = fetch(1);
      for (int k = 0; k < N; ++k) {
        if (has_state(Present, k)) state[k] = fetch(2 + k);
      }
      if constexpr (extras) {
        if (entry.averages) average = fetch(kAverage<F>);
        if (setting.rounding == Rounding::kahan) {
          lost = fetch(kLost<F>);
          for (int i = 0; i < W; ++i) param.at[i] = param.at[i] + lost.at[i];
        }
      }
      for (int i = 0; i < W; ++i) {
        T own[N];
        for (int k = 0; k < N; ++k) own[k] = has_state(Present, k) ? state[k].at[i] : T(0);
        known.formula.template operator()<Present>(param.at[i], grad.at[i] * grad_scale, own);
        for (int k = 0; k < N; ++k) state[k].at[i] = own[k];
      }
      if constexpr (extras) {
        if (setting.rounding != Rounding::nearest || entry.averages) {
          for (int i = 0; i < W; ++i) {
            const T exact = param.at[i], kept = rounded(entry.dtype(0), setting.rounding, exact, entry.seed,
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
        if (setting.rounding == Rounding::kahan) store(kLost<F>, lost);
        if (entry.averages) {
          const T fresh = T(1 - setting.decay);
          for (int i = 0; i < W; ++i) {
            const T old = average.at[i], now = param.at[i];
            // A copy at first: the average of nothing may hold anything.
            average.at[i] = fresh == T(1) ? now : mul_add(fresh, now - old, old);
          }
          store(kAverage<F>, average);
        }
        if (p.call.gradients != Gradients::kept) {
          const T scale = T(known.grad_scale < 0 ? -known.grad_scale : known.grad_scale);
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
