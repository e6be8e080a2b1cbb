// Rows of any dtype and layout, read from memory for every pass: see NOTE [rows].
#pragma once

#include "cuda/rows.cuh"

FUSESTEP_TARGET_BEGIN

// Classes first … first+3 of a row. The first may lie before the row; outside it they are `fill`, as they all
// are in a row that is absent.
template <class T>
__device__ __forceinline__ Portion<T, kPack> read_classes(const Run& row, int64_t first, int64_t count,
                                                          T fill) {
  if (row.data == nullptr) return all_of<T, kPack>(fill);
  Portion<T, kPack> classes;
  dispatch_floating(row.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    const S* from = static_cast<const S*>(row.data) + first * row.stride;
    if (row.contiguous && first >= 0 && first + kPack <= count && is_aligned<kPack>(from)) {
      classes = load_aligned<T, kPack>(from);
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
                                              const Portion<T, kPack>& classes) {
  if (row.data == nullptr) return;
  dispatch_floating(row.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    S* to = static_cast<S*>(row.data) + first * row.stride;
    if (row.contiguous && first >= 0 && first + kPack <= count && is_aligned<kPack>(to)) {
      store_aligned(to, classes);
    } else {
      for (int i = 0; i < kPack; ++i) {
        if (first + i >= 0 && first + i < count) narrow(classes.at[i], to[i * row.stride]);
      }
    }
  });
}

template <class C>
class WalkedRow {
 public:
  using T = C;
  static constexpr bool rough = false, plain = false;
  static constexpr int threads = kThreads, blocks = 2;

  __device__ __forceinline__ WalkedRow(const RowMemory& memory, int team, int64_t)
      : memory_(memory), cut_(memory.x, memory.classes, team) {}

  __device__ __forceinline__ T largest() const {
    T best = -infinity<T>();
    for_each([&](int64_t c) {
      const auto x = read_classes(memory_.x, c, memory_.classes, -infinity<T>());
      for (int i = 0; i < kPack; ++i) best = Largest()(best, x.at[i]);
    });
    return best;
  }

  template <int K, class Visit>
  __device__ __forceinline__ void add_up(RowSums<T, K>& sums, int64_t skip, Visit&& visit) const {
    constexpr int turns = 8;
    int turn = 0;
    for_each([&](int64_t c) {
      const Four four = load(c);
      const unsigned counted = cut_.without(cut_.inside(c), c, skip);
      for (int i = 0; i < kPack; ++i) {
        sums.add((counted >> i & 1u) != 0, [&](T(&sum)[K]) { return visit(sum, four.element(i)); });
      }
      if (++turn % turns == 0) sums.carry();
    });
    sums.carry();
  }

  template <int N, class Visit, class Result>
  __device__ __forceinline__ void write(Visit&& visit, Result&& result) const {
    for_each([&](int64_t c) {
      const Four four = load(c);
      Portion<T, kPack> out[N];
      FUSESTEP_UNROLL for (int i = 0; i < kPack; ++i) {
        T each[N];
        result(four.element(i), visit(four.element(i)), each);
        FUSESTEP_UNROLL for (int n = 0; n < N; ++n) out[n].at[i] = each[n];
      }
      FUSESTEP_UNROLL for (int n = 0; n < N; ++n) write_classes(memory_.out[n], c, memory_.classes, out[n]);
    });
  }

  __device__ __forceinline__ bool owns(int64_t c) const { return cut_.owns(c); }

  __device__ __forceinline__ static void share(const View&, int64_t) {}

 private:
  struct Four {
    Portion<T, kPack> x, target, weight;
    __device__ __forceinline__ Element<T> element(int i) const {
      return {x.at[i], target.at[i], weight.at[i]};
    }
  };
  __device__ __forceinline__ Four load(int64_t c) const {
    return {read_classes(memory_.x, c, memory_.classes, T(NAN)),
            read_classes(memory_.target, c, memory_.classes, T(0)),
            read_classes(memory_.weight, c, memory_.classes, T(1))};
  }
  template <class Visit>
  __device__ __forceinline__ void for_each(Visit&& visit) const {
    for (int64_t q = cut_.lane; q < cut_.portions(); q += cut_.team) visit(cut_.first_of(q));
  }

  const RowMemory& memory_;
  Cut<int64_t, kPack> cut_;
};

// The same value for all classes of a row.
template <class T>
__device__ __forceinline__ void fill_row(const Run& row, int64_t classes, int team, T value) {
  if (row.data == nullptr) return;
  const Cut<int64_t, kPack> cut(row, classes, team);
  for (int64_t q = cut.lane; q < cut.portions(); q += team) {
    write_classes(row, cut.first_of(q), classes, all_of<T, kPack>(value));
  }
}

FUSESTEP_TARGET_END
