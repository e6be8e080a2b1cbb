// The update loop: the tensors of a step, cut into chunks, a block each. As many tensors as fit into
// the parameters of a kernel share a launch, each with its own hyper-parameters.
#pragma once

#include "core/op_table.h"
#include "cuda/portions.cuh"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

constexpr int64_t kChunk = int64_t(kThreads) * kPack * 4;

// Parameter, gradient and states are numbered in this order.
template <class F>
constexpr int kOperands = 2 + decltype(F::states)::size;

template <class T, class F>
struct UpdateEntry {
  UpdateEntry() {}  // leaves the formula to be assigned: it has no default
  union {
    F formula;
  };
  void* data[kOperands<F>];
  DType dtype[kOperands<F>];
  T grad_scale;
  int64_t count;
  int64_t chunks;  // of this tensor and those before it
};

constexpr int kParamBytes = 4000;

// A tensor that is not dense has a launch to itself: the layouts of several would not fit.
template <Access access, class F>
struct Layouts {};
template <class F>
struct Layouts<Access::any, F> {
  bool dense;
  View views[kOperands<F>];
};

template <Access access, class T, class F>
struct UpdateParams {
  static constexpr int capacity =
      (kParamBytes - int(sizeof(Layouts<access, F>)) - 16) / int(sizeof(UpdateEntry<T, F>));
  UpdateEntry<T, F> entries[capacity];
  int count;
  Layouts<access, F> layouts;
};

template <Access access, unsigned Present, class T, class F>
__global__ void __launch_bounds__(kThreads, 2)
    update_kernel(const UpdateParams<access, T, F> __grid_constant__ p) {
  constexpr int N = decltype(F::states)::size, W = kWidth<access>;
  const int64_t chunks = p.entries[p.count - 1].chunks;
  for (int64_t chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    int low = 0, high = p.count - 1;  // the first entry with more than `chunk` chunks up to its end
    while (low < high) {
      const int middle = (low + high) / 2;
      if (p.entries[middle].chunks > chunk) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    const UpdateEntry<T, F>& entry = p.entries[low];
    const int64_t start = (chunk - (low > 0 ? p.entries[low - 1].chunks : 0)) * kChunk;
    const int64_t rest = entry.count - start, end = start + (rest < kChunk ? rest : kChunk);
    for (int64_t at = start + threadIdx.x * W; at < end; at += kThreads * W) {
      int64_t place[2 + N];
      const auto fetch = [&](int operand) {
        place[operand] = at;
        if constexpr (access == Access::any) {
          if (!p.layouts.dense) place[operand] = place_of<access>(p.layouts.views[operand], at);
        }
        return read<access, T>(entry.data[operand], entry.dtype[operand], place[operand], entry.count - at);
      };
      const auto store = [&](int operand, const Portion<T, W>& portion) {
        write<access>(entry.data[operand], entry.dtype[operand], place[operand], entry.count - at, portion);
      };
      Portion<T, W> param = fetch(0), state[N];
      const Portion<T, W> grad = fetch(1);
      for (int k = 0; k < N; ++k) {
        if (has_state(Present, k)) state[k] = fetch(2 + k);
      }
      for (int i = 0; i < W; ++i) {
        T own[N];
        for (int k = 0; k < N; ++k) own[k] = has_state(Present, k) ? state[k].at[i] : T(0);
        entry.formula.template operator()<Present>(param.at[i], grad.at[i] * entry.grad_scale, own);
        for (int k = 0; k < N; ++k) state[k].at[i] = own[k];
      }
      store(0, param);
      for (int k = 0; k < N; ++k) {
        if (has_state(Present, k)) store(2 + k, state[k]);
      }
    }
  }
}

template <template <class> class F>
struct Update {
  static_assert(check_update<F>(), "");
  static_assert(F<float>::states.size <= kMaxStates, "raise kMaxStates in core/op_table.h");

  static constexpr int kStates = F<float>::states.size;

  // Which instantiation an item needs.
  struct Variant {
    unsigned present;
    bool wide, dense;
    Access access;
  };

  static const View& operand(const UpdateItem& item, int number) {
    return number == 0 ? item.param : number == 1 ? item.grad : item.state[number - 2];
  }

  static Variant variant_of(const UpdateItem& item) {
    Variant variant{0, false, true, Access::any};
    Choice choice;
    for (int i = 0; i < 2 + kStates; ++i) {
      const View& view = operand(item, i);
      if (!present(view)) continue;
      if (i >= 2) variant.present |= 1u << (i - 2);
      variant.wide = variant.wide || view.dtype == DType::f64;
      variant.dense = variant.dense && view.contiguous;
      choice.add(view);
    }
    variant.access = choice.access();
    return variant;
  }

  // Collects items of one variant and launches them together.
  template <Access access, unsigned Present, class T>
  struct Batch {
    UpdateParams<access, T, F<T>> params;
    void* stream;
    const double* hyper = nullptr;
    double step = 0;

    explicit Batch(void* stream_) : stream(stream_) { params.count = 0; }

    void add(const UpdateItem& item, bool dense) {
      if (params.count == params.capacity || !dense) flush();
      auto& entry = params.entries[params.count];
      const bool same = params.count > 0 && hyper == item.hyper && step == item.step;
      const int64_t before = params.count > 0 ? params.entries[params.count - 1].chunks : 0;
      entry.formula = same ? params.entries[params.count - 1].formula : F<T>(item.hyper, item.step);
      hyper = item.hyper;
      step = item.step;
      for (int i = 0; i < 2 + kStates; ++i) {
        entry.data[i] = operand(item, i).data;
        entry.dtype[i] = operand(item, i).dtype;
      }
      entry.grad_scale = T(item.grad_scale);
      entry.count = item.param.count;
      entry.chunks = before + (entry.count + kChunk - 1) / kChunk;
      ++params.count;
      if constexpr (access == Access::any) {
        params.layouts.dense = dense;
        if (dense) return;
        for (int i = 0; i < 2 + kStates; ++i) params.layouts.views[i] = operand(item, i);
        flush();
      }
    }

    void flush() {
      if (params.count == 0) return;
      const int64_t blocks = blocks_for(params.entries[params.count - 1].chunks, 1);
      launch(update_kernel<access, Present, T, F<T>>, blocks, stream, params);
      params.count = 0;
    }
  };

  template <Access access, unsigned Present, class T>
  static void run_batch(const UpdateItem* items, int64_t count, void* stream) {
    Batch<access, Present, T> batch(stream);
    for (int64_t i = 0; i < count; ++i) {
      const Variant v = variant_of(items[i]);
      const bool ours = v.present == Present && v.wide == (sizeof(T) == 8) && v.access == access;
      if (ours && items[i].param.count > 0) batch.add(items[i], v.dense);
    }
    batch.flush();
  }

  // Instantiates the kernels for each set of states that options can ask for.
  template <unsigned Subset = optional_states<F<float>>>
  static void run_all(const UpdateItem* items, int64_t count, void* stream) {
    constexpr unsigned all = (1u << kStates) - 1, optional = optional_states<F<float>>;
    constexpr unsigned here = (all & ~optional) | Subset;
    run_batch<Access::plain, here, float>(items, count, stream);
    run_batch<Access::packed, here, float>(items, count, stream);
    run_batch<Access::any, here, float>(items, count, stream);
    run_batch<Access::any, here, double>(items, count, stream);
    if constexpr (Subset != 0) run_all<(Subset - 1) & optional>(items, count, stream);
  }

  static void run(const UpdateArgs& args) {
    if (!args.in_order) return run_all(args.items, args.count, args.stream);
    for (int64_t i = 0; i < args.count; ++i) run_all(args.items + i, 1, args.stream);
  }
};

FUSESTEP_TARGET_END
