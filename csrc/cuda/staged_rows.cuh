// Rows in the shared memory of a block, and beyond it: see NOTE [rows]. Each thread comes back for the
// portions that it put there itself, so nobody waits for anybody.
#pragma once

#include "cuda/held_rows.cuh"

FUSESTEP_TARGET_BEGIN

template <class S, bool paired, bool is_plain>
class StagedRow {
  static constexpr int W = kVector<S>;
  using Elements = VectorElements<S, paired>;
  static constexpr int kAhead = !is_plain ? 1 : paired ? 2 : 4;  // portions loaded before the first is used

 public:
  using T = float;
  static constexpr bool rough = sizeof(S) == 2, plain = is_plain;
  static constexpr int threads = 512, blocks = 1;

  // `room`: for how many portions of each operand there is shared memory.
  __device__ __forceinline__ StagedRow(const RowMemory& memory, int team, int64_t room)
      : memory_(memory), cut_(memory.x, memory.classes, team), room_(int(room)) {}

  __device__ __forceinline__ T largest() {
    T best = -infinity<T>();
    for_each<false>([&](int, unsigned, const uint4& words, const uint4&) {
      const auto x = widen_all<S>(words);
      FUSESTEP_UNROLL for (int i = 0; i < W; ++i) best = Largest()(best, x.at[i]);
    });
    return best;
  }

  template <int K, class Visit>
  __device__ __forceinline__ void add_up(RowSums<T, K>& sums, int64_t skip, Visit&& visit) {
    int turn = 0;
    for_each<paired>([&](int c, unsigned inside, const uint4& x, const uint4& target) {
      const unsigned counted = cut_.without(inside, c, int(skip));
      const Elements elements = elements_of(c, inside, x, target);
      FUSESTEP_UNROLL for (int i = 0; i < W; ++i) {
        sums.add((counted >> i & 1u) != 0, [&](T(&sum)[K]) { return visit(sum, elements.at(i)); });
      }
      if (++turn % kAhead == 0) sums.carry();
    });
    sums.carry();
  }

  template <int N, class Visit, class Result>
  __device__ __forceinline__ void write(Visit&& visit, Result&& result) {
    for_each<paired>([&](int c, unsigned inside, const uint4& x, const uint4& target) {
      const Elements elements = elements_of(c, inside, x, target);
      Vector<S> out[N];
      FUSESTEP_UNROLL for (int i = 0; i < W; ++i) {
        T each[N];
        const Element<T> e = elements.at(i);
        result(e, visit(e), each);
        FUSESTEP_UNROLL for (int n = 0; n < N; ++n) narrow(each[n], out[n].at[i]);
      }
      FUSESTEP_UNROLL for (int n = 0; n < N; ++n) {
        const Run& run = memory_.out[n];
        if (run.data == nullptr) continue;
        store_vector(static_cast<S*>(run.data), c, cut_.is_whole(c) && lies_alike(run, memory_.x), inside,
                     out[n]);
      }
    });
  }

  __device__ __forceinline__ bool owns(int64_t c) const { return cut_.owns(c); }

  __device__ __forceinline__ static void share(const View&, int64_t) {}

  static int64_t room_for(int64_t classes) {
    const int64_t needed = (classes + 2 * W - 2) / W, most = most_shared() / shared_for(1);
    return needed < most ? needed : most;
  }
  static int64_t shared_for(int64_t room) { return room * 16 * (paired ? 2 : 1); }

 private:
  // Calls visit(c, inside, x, target) for this thread's portions.
  template <bool needs_target, class Visit>
  __device__ __forceinline__ void for_each(Visit&& visit) {
    const int portions = cut_.portions();
    for (int q = cut_.lane; q < portions; q += kAhead * threads) {
      uint4 x[kAhead], target[kAhead];
      FUSESTEP_UNROLL for (int a = 0; a < kAhead; ++a) {
        const int at = q + a * threads;
        x[a] = target[a] = uint4{};
        if (at >= portions) continue;
        x[a] = fetch(memory_.x, at, at, x_staged_);
        if constexpr (needs_target) target[a] = fetch(memory_.target, at, at + room_, target_staged_);
      }
      FUSESTEP_UNROLL for (int a = 0; a < kAhead; ++a) {
        const int at = q + a * threads, c = cut_.first_of(at);
        if (at < portions) visit(c, cut_.inside(c), x[a], target[a]);
      }
    }
    x_staged_ = true;
    if constexpr (needs_target) target_staged_ = true;
  }

  // Portion `at` of a row, whose place in shared memory is `slot`.
  __device__ __forceinline__ uint4 fetch(const Run& run, int at, int slot, bool staged) const {
    FUSESTEP_DYNAMIC_SHARED(stage);
    if (staged && at < room_) return stage[slot];
    const int c = cut_.first_of(at);
    const uint4 words =
        load_vector(static_cast<const S*>(run.data), c, cut_.is_whole(c) && lies_alike(run, memory_.x),
                    cut_.inside(c), stored<S>(-INFINITY));
    if (at < room_) stage[slot] = words;
    return words;
  }

  __device__ __forceinline__ Elements elements_of(int c, unsigned inside, const uint4& x,
                                                  const uint4& target) const {
    const Run& run = memory_.weight;
    Elements elements(x, target);
    if (run.data == nullptr) return elements;
    FUSESTEP_UNROLL for (int i = 0; i < W; ++i) {
      if ((inside >> i & 1u) != 0) {
        elements.weight.at[i] = read_lone<T>(run.data, run.dtype, offset_of(run, c + i));
      }
    }
    return elements;
  }

  const RowMemory& memory_;
  Cut<int, W> cut_;
  int room_;
  bool x_staged_ = false, target_staged_ = false;
};

FUSESTEP_TARGET_END
