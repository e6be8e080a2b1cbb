// Rows in the registers of their team: see NOTE [rows]. Every loop is unrolled, so that arrays stay there.
#pragma once

#include "cuda/rows.cuh"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

// As many classes as an access of 128 bits moves.
template <class S>
constexpr int kVector = 16 / sizeof(S);

template <class S>
struct Vector {
  S at[kVector<S>];
};

// Spelled out like stores, see Words, and past L1: a row is read once.
template <class S>
__device__ __forceinline__ uint4 load_vector(const S* row, int first, bool whole, unsigned inside, S fill) {
  if (whole) return __ldcg(reinterpret_cast<const uint4*>(row + first));
  Vector<S> part;
  FUSESTEP_UNROLL for (int i = 0; i < kVector<S>; ++i) {
    part.at[i] = (inside >> i & 1u) != 0 ? row[first + i] : fill;
  }
  return bit_cast<uint4>(part);
}

template <class S>
__device__ __forceinline__ void store_vector(S* row, int first, bool whole, unsigned inside,
                                             const Vector<S>& part) {
  if (whole) return __stwb(reinterpret_cast<uint4*>(row + first), bit_cast<uint4>(part));
  FUSESTEP_UNROLL for (int i = 0; i < kVector<S>; ++i) {
    if ((inside >> i & 1u) != 0) row[first + i] = part.at[i];
  }
}

// Of a word the halves, widened. Element by element nvcc would take it apart first.
template <class S>
__device__ __forceinline__ Portion<float, kVector<S>> widen_all(const uint4& words) {
  Portion<float, kVector<S>> wide;
  if constexpr (std::is_same<S, BFloat16>::value) {
    const unsigned word[4] = {words.x, words.y, words.z, words.w};
    FUSESTEP_UNROLL for (int i = 0; i < 4; ++i) {
      wide.at[2 * i] = bit_cast<float>(word[i] << 16);
      wide.at[2 * i + 1] = bit_cast<float>(word[i] & 0xffff0000u);
    }
  } else {
    const auto stored = bit_cast<Vector<S>>(words);
    FUSESTEP_UNROLL for (int i = 0; i < kVector<S>; ++i) wide.at[i] = widen(stored.at[i]);
  }
  return wide;
}

// The elements of a portion: asked whether there are weights once, so that no class brings a branch.
template <class S, bool paired>
struct VectorElements {
  static constexpr int W = kVector<S>;
  Portion<float, W> x, target, weight;

  __device__ __forceinline__ VectorElements(const uint4& x_, const uint4& target_)
      : x(widen_all<S>(x_)), target(all_of<float, W>(0)), weight(all_of<float, W>(1)) {
    if constexpr (paired) target = widen_all<S>(target_);
  }
  __device__ __forceinline__ Element<float> at(int i) const { return {x.at[i], target.at[i], weight.at[i]}; }
};

// Whether one row is cut into whole vectors where another is.
FUSESTEP_HD bool lies_alike(const Run& a, const Run& b) {
  return (reinterpret_cast<uintptr_t>(a.data) ^ reinterpret_cast<uintptr_t>(b.data)) % 16 == 0;
}

template <class S>
FUSESTEP_HD S stored(float value) {
  S to;
  narrow(value, to);
  return to;
}

// H classes a thread, side by side in memory, all operands stored as S; `paired`: with a target for each
// class; `plain`: see RowFormula. Weights have been put into shared memory, as floats.
template <class S, int H, bool paired, bool is_plain>
class HeldRow {
  static constexpr int W = kVector<S>, P = H / W;
  using Elements = VectorElements<S, paired>;

 public:
  using T = float;
  static constexpr bool rough = sizeof(S) == 2, plain = is_plain;
  static constexpr int threads = kThreads, blocks = H > 8 || paired ? 2 : 3;

  __device__ __forceinline__ HeldRow(const RowMemory& memory, int team, int64_t)
      : memory_(memory), cut_(memory.x, memory.classes, team), inside_(0) {
    FUSESTEP_UNROLL for (int p = 0; p < P; ++p) inside_ |= cut_.inside(first(p)) << (p * W);
    load(memory.x, x_, stored<S>(-INFINITY));
    if constexpr (paired) load(memory.target, target_, stored<S>(0));
  }

  __device__ __forceinline__ T largest() const {
    T best = -infinity<T>();
    FUSESTEP_UNROLL for (int p = 0; p < P; ++p) {
      const auto x = widen_all<S>(x_[p]);
      FUSESTEP_UNROLL for (int i = 0; i < W; ++i) best = Largest()(best, x.at[i]);
    }
    return best;
  }

  template <int K, class Visit>
  __device__ __forceinline__ void add_up(RowSums<T, K>& sums, int64_t skip, Visit&& visit) {
    FUSESTEP_UNROLL for (int p = 0; p < P; ++p) {
      if (!reaches(p)) continue;
      const unsigned counted = cut_.without(inside(p), first(p), int(skip));
      const Elements elements = elements_of(p);
      FUSESTEP_UNROLL for (int i = 0; i < W; ++i) {
        kept_[p * W + i] =
            sums.add((counted >> i & 1u) != 0, [&](T(&sum)[K]) { return visit(sum, elements.at(i)); });
      }
    }
    sums.carry();
  }

  template <int N, class Visit, class Result>
  __device__ __forceinline__ void write(Visit&&, Result&& result) const {
    FUSESTEP_UNROLL for (int p = 0; p < P; ++p) {
      if (!reaches(p)) continue;
      const Elements elements = elements_of(p);
      Vector<S> out[N];
      FUSESTEP_UNROLL for (int i = 0; i < W; ++i) {
        T each[N];
        result(elements.at(i), kept_[p * W + i], each);
        FUSESTEP_UNROLL for (int n = 0; n < N; ++n) narrow(each[n], out[n].at[i]);
      }
      FUSESTEP_UNROLL for (int n = 0; n < N; ++n) {
        const Run& run = memory_.out[n];
        if (run.data == nullptr) continue;
        store_vector(static_cast<S*>(run.data), first(p), inside(p) == kAll && lies_alike(run, memory_.x),
                     inside(p), out[n]);
      }
    }
  }

  __device__ __forceinline__ bool owns(int64_t c) const { return cut_.owns(c); }

  // Puts the weights into shared memory, if there are any. Every thread of the block must call it.
  __device__ __forceinline__ static void share(const View& weight, int64_t classes) {
    if (!present(weight)) return;
    FUSESTEP_DYNAMIC_SHARED(memory);
    for (int64_t c = threadIdx.x; c < classes; c += blockDim.x) {
      reinterpret_cast<T*>(memory)[c] = read_at(run_of(weight), c, T(1));
    }
    __syncthreads();
  }

 private:
  static constexpr unsigned kAll = (1u << W) - 1;

  __device__ __forceinline__ int first(int p) const { return cut_.first_of(p * cut_.team + cut_.lane); }
  __device__ __forceinline__ unsigned inside(int p) const { return inside_ >> (p * W) & kAll; }
  // Whether the team has anything in its p-th portions.
  __device__ __forceinline__ bool reaches(int p) const { return p * cut_.team < cut_.portions(); }

  __device__ __forceinline__ void load(const Run& run, uint4 (&to)[P], S fill) {
    const bool alike = lies_alike(run, memory_.x);
    FUSESTEP_UNROLL for (int p = 0; p < P; ++p) {
      to[p] =
          load_vector(static_cast<const S*>(run.data), first(p), inside(p) == kAll && alike, inside(p), fill);
    }
  }

  __device__ __forceinline__ Elements elements_of(int p) const {
    FUSESTEP_DYNAMIC_SHARED(memory);
    Elements elements(x_[p], target_[paired ? p : 0]);
    if (memory_.weight.data == nullptr) return elements;
    FUSESTEP_UNROLL for (int i = 0; i < W; ++i) {
      if ((inside(p) >> i & 1u) != 0)
        elements.weight.at[i] = reinterpret_cast<const T*>(memory)[first(p) + i];
    }
    return elements;
  }

  const RowMemory& memory_;
  Cut<int, W> cut_;
  unsigned inside_;  // a bit for each class
  uint4 x_[P], target_[paired ? P : 1];
  T kept_[H];
};

FUSESTEP_TARGET_END
