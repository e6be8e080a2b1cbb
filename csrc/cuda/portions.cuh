// A thread's portion of neighbouring elements, between memory of any dtype and stride and the compute
// type T.
//
// NOTE [access]: an elementwise kernel exists in three kinds, chosen on the host by the operands of a
// call. Instantiating the product of dtypes instead would take minutes to compile and save little: the
// kernels wait for memory.
//   plain   dense float32 on 16-byte boundaries: four elements, one 128-bit access, no question asked
//   packed  dense and aligned, float32 or half precision: four elements, the dtype asked at run time
//   any     one element, dtype and place asked at run time: strided, unaligned, or double
#pragma once

#include <math.h>

#include <type_traits>

#include "cuda/device.h"

FUSESTEP_TARGET_BEGIN

enum class Access { plain, packed, any };

template <class T, int W>
struct Portion {
  T at[W];
};

template <class T, int W>
FUSESTEP_HD Portion<T, W> all_of(T value) {
  Portion<T, W> portion;
  for (int i = 0; i < W; ++i) portion.at[i] = value;
  return portion;
}

constexpr int kPack = 4;

template <Access access>
constexpr int kWidth = access == Access::any ? 1 : kPack;

// Elements at a constant distance.
struct Run {
  void* data;
  DType dtype;
  bool contiguous;
  int64_t stride;
};

FUSESTEP_HD int64_t offset_of(const Run& run, int64_t index) { return index * run.stride; }

// Four elements move as whole words, one instruction (two for double). Stores are spelled out: nvcc takes
// the assignment of a uint4 apart where a tail stands beside it.
template <class S>
using Words = std::conditional_t<sizeof(S) == 2, uint2, uint4>;

template <class S>
FUSESTEP_HD bool is_aligned(const S* at) {
  return reinterpret_cast<uintptr_t>(at) % sizeof(Words<S>) == 0;
}

template <class T, class S>
FUSESTEP_HD Portion<T, kPack> load_aligned(const S* from) {
  constexpr int n = kPack * sizeof(S) / sizeof(Words<S>);
  Words<S> words[n];
  for (int i = 0; i < n; ++i) words[i] = reinterpret_cast<const Words<S>*>(from)[i];
  S stored[kPack];
  memcpy(stored, words, sizeof(stored));
  Portion<T, kPack> portion;
  for (int i = 0; i < kPack; ++i) portion.at[i] = T(widen(stored[i]));
  return portion;
}

template <class T, class S>
__device__ __forceinline__ void store_aligned(S* to, const Portion<T, kPack>& portion) {
  constexpr int n = kPack * sizeof(S) / sizeof(Words<S>);
  S stored[kPack];
  for (int i = 0; i < kPack; ++i) narrow(portion.at[i], stored[i]);
  Words<S> words[n];
  memcpy(words, stored, sizeof(stored));
  for (int i = 0; i < n; ++i) __stwb(reinterpret_cast<Words<S>*>(to) + i, words[i]);
}

// The kind of access that suits all of a number of views.
class Choice {
 public:
  void add(const View& view) {
    bool aligned = false;
    dispatch_floating(view.dtype, [&](auto tag) {
      aligned = is_aligned(static_cast<typename decltype(tag)::type*>(view.data));
    });
    packed_ = packed_ && view.contiguous && aligned && view.dtype != DType::f64;
    plain_ = plain_ && view.dtype == DType::f32;
  }
  Access access() const { return !packed_ ? Access::any : plain_ ? Access::plain : Access::packed; }

 private:
  bool packed_ = true, plain_ = true;
};

// One element; `offset` counts elements.
template <class T>
FUSESTEP_HD T read_one(const void* data, DType dtype, int64_t offset) {
  T value;
  dispatch_floating(dtype, [&](auto tag) {
    value = T(widen(static_cast<const typename decltype(tag)::type*>(data)[offset]));
  });
  return value;
}

template <class T>
FUSESTEP_HD void write_one(void* data, DType dtype, int64_t offset, T value) {
  dispatch_floating(
      dtype, [&](auto tag) { narrow(value, static_cast<typename decltype(tag)::type*>(data)[offset]); });
}

// As dispatch_floating, for the dtypes that a kind of access meets.
template <Access access, class Visit>
FUSESTEP_HD void dispatch_packed(DType dtype, Visit&& visit) {
  if (access == Access::plain || dtype == DType::f32) return visit(Tag<float>{});
  if (dtype == DType::bf16) return visit(Tag<BFloat16>{});
  visit(Tag<Float16>{});
}

// Where portion `first` of a View or Run begins: computed once for an element that is read and written.
// Not inlined: its divisions are long, the kernels that need them many, and time to compile is finite.
static __device__ FUSESTEP_NOINLINE int64_t strided_offset(const View& view, int64_t index) {
  return offset_of(view, index, view.dims);
}

template <Access access>
__device__ __forceinline__ int64_t place_of(const View& view, int64_t first) {
  return access != Access::any || view.contiguous ? first : strided_offset(view, first);
}

// The portion of a View at `place`, of which `rest` elements exist, at least one. Those beyond are read
// as NaN, so that it shows if they are used, and not written.
template <Access access, class T>
FUSESTEP_HD Portion<T, kWidth<access>> read(const void* data, DType dtype, int64_t place, int64_t rest) {
  constexpr int W = kWidth<access>;
  Portion<T, W> portion;
  if constexpr (access == Access::any) {
    portion.at[0] = read_one<T>(data, dtype, place);
  } else {
    dispatch_packed<access>(dtype, [&](auto tag) {
      using S = typename decltype(tag)::type;
      const S* from = static_cast<const S*>(data) + place;
      if (W <= rest) {
        portion = load_aligned<T>(from);
      } else {
        for (int i = 0; i < W; ++i) portion.at[i] = i < rest ? T(widen(from[i])) : T(NAN);
      }
    });
  }
  return portion;
}

template <Access access, class T>
__device__ __forceinline__ void write(void* data, DType dtype, int64_t place, int64_t rest,
                                      const Portion<T, kWidth<access>>& portion) {
  constexpr int W = kWidth<access>;
  if constexpr (access == Access::any) {
    write_one(data, dtype, place, portion.at[0]);
  } else {
    dispatch_packed<access>(dtype, [&](auto tag) {
      using S = typename decltype(tag)::type;
      S* to = static_cast<S*>(data) + place;
      if (W <= rest) {
        store_aligned(to, portion);
      } else {
        for (int i = 0; i < W && i < rest; ++i) narrow(portion.at[i], to[i]);
      }
    });
  }
}

FUSESTEP_TARGET_END
