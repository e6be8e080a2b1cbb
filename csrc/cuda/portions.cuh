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

// Neighbouring elements move as whole words, 16 bytes an instruction if there are as many. Loads and stores
// are spelled out: nvcc takes the assignment of a uint4 apart where a tail stands beside it.
template <class S, int W>
using Words = std::conditional_t<W * sizeof(S) == 8, uint2, uint4>;

template <int W, class S>
FUSESTEP_HD bool is_aligned(const S* at) {
  return reinterpret_cast<uintptr_t>(at) % sizeof(Words<S, W>) == 0;
}

template <class T, int W, class S>
__device__ __forceinline__ Portion<T, W> load_aligned(const S* from) {
  constexpr int n = W * sizeof(S) / sizeof(Words<S, W>);
  Words<S, W> words[n];
  for (int i = 0; i < n; ++i) words[i] = __ldca(reinterpret_cast<const Words<S, W>*>(from) + i);
  S stored[W];
  memcpy(stored, words, sizeof(stored));
  Portion<T, W> portion;
  for (int i = 0; i < W; ++i) portion.at[i] = T(widen(stored[i]));
  return portion;
}

template <class T, int W, class S>
__device__ __forceinline__ void store_aligned(S* to, const Portion<T, W>& portion) {
  constexpr int n = W * sizeof(S) / sizeof(Words<S, W>);
  S stored[W];
  for (int i = 0; i < W; ++i) narrow(portion.at[i], stored[i]);
  Words<S, W> words[n];
  memcpy(words, stored, sizeof(stored));
  for (int i = 0; i < n; ++i) __stwb(reinterpret_cast<Words<S, W>*>(to) + i, words[i]);
}

// The kind of access that suits all of a number of views, for portions of W elements.
template <int W = kPack>
class Choice {
 public:
  void add(const View& view) {
    bool aligned = false;
    dispatch_floating(view.dtype, [&](auto tag) {
      aligned = is_aligned<W>(static_cast<typename decltype(tag)::type*>(view.data));
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

// The same where speed does not matter. Not inlined: there are many kernels, and time to compile is finite.
template <class T>
__device__ FUSESTEP_NOINLINE T read_lone(const void* data, DType dtype, int64_t offset) {
  return read_one<T>(data, dtype, offset);
}
template <class T>
__device__ FUSESTEP_NOINLINE void write_lone(void* data, DType dtype, int64_t offset, T value) {
  write_one(data, dtype, offset, value);
}

// As dispatch_floating, for the dtypes that a kind of access meets.
template <Access access, class Visit>
FUSESTEP_HD void dispatch_packed(DType dtype, Visit&& visit) {
  if (access == Access::plain || dtype == DType::f32) return visit(Tag<float>{});
  if (dtype == DType::bf16) return visit(Tag<BFloat16>{});
  visit(Tag<Float16>{});
}

// Where portion `first` of a View or Run begins: computed once for an element that is read and written.
// Not inlined, as read_lone is not.
static __device__ FUSESTEP_NOINLINE int64_t strided_offset(const View& view, int64_t index) {
  return offset_of(view, index, view.dims);
}

// Of one element.
__device__ __forceinline__ int64_t place_of_one(const View& view, int64_t index) {
  return view.contiguous ? index : strided_offset(view, index);
}

template <Access access>
__device__ __forceinline__ int64_t place_of(const View& view, int64_t first) {
  return access != Access::any || view.contiguous ? first : strided_offset(view, first);
}

// The portion of a View at `place`, of which `rest` elements exist, at least one. Those beyond are read
// as NaN, so that it shows if they are used, and not written.
template <Access access, class T, int W = kWidth<access>>
__device__ __forceinline__ Portion<T, W> read(const void* data, DType dtype, int64_t place, int64_t rest) {
  Portion<T, W> portion;
  if constexpr (access == Access::any) {
    portion.at[0] = read_one<T>(data, dtype, place);
  } else {
    dispatch_packed<access>(dtype, [&](auto tag) {
      using S = typename decltype(tag)::type;
      const S* from = static_cast<const S*>(data) + place;
      if (W <= rest) {
        portion = load_aligned<T, W>(from);
      } else {
        for (int i = 0; i < W; ++i) portion.at[i] = i < rest ? T(widen(from[i])) : T(NAN);
      }
    });
  }
  return portion;
}

template <Access access, class T, int W>
__device__ __forceinline__ void write(void* data, DType dtype, int64_t place, int64_t rest,
                                      const Portion<T, W>& portion) {
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
