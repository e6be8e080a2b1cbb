// The update loop, on the host: the tensors of a step, sorted by the kernel that each needs.
#pragma once

#include <string.h>

#include <optional>

#include "cuda/prepare.cuh"

FUSESTEP_TARGET_BEGIN

template <template <class> class F>
struct Update {
  static_assert(check_update<F>(), "");
  static_assert(F<float>::states.size <= kMaxStates, "raise kMaxStates in core/op_table.h");
  static_assert(sizeof(Prepared<F<double>>) <= kPreparedBytes, "raise kPreparedBytes in prepare.cuh");
  static_assert(F<float>::numbers.size <= kMaxNumbers, "raise kMaxNumbers in core/op_table.h");

  static constexpr int kStates = F<float>::states.size;
  static constexpr unsigned kAllStates = (1u << kStates) - 1, kOptional = optional_states<F<float>>;

  // Whether anything is known on the device only.
  static bool asks_device(const UpdateArgs& args) {
    bool asks = args.loss_scale != nullptr;
    for (int64_t i = 0; i < args.count; ++i) asks = asks || is_known_on_device(args.items[i]);
    return asks;
  }

  // A bit for each instantiation. Of Access::any there is one with extras only.
  static constexpr uint64_t variant(Access access, bool extras, unsigned present, bool wide) {
    const int kind = access == Access::any ? 3 + wide : extras ? 2 : access == Access::packed;
    return uint64_t(1) << (present * 5 + unsigned(kind));
  }

  // Which one an item needs, and whether its tensors are dense.
  struct Needs {
    uint64_t variant;
    bool dense;
  };

  static Needs needs_of(const UpdateArgs& args, const UpdateItem& item) {
    unsigned present = 0;
    bool wide = false, dense = true, far = false;
    Choice<> choice;
    for (int i = 0; i < kTensors<F<float>, true>; ++i) {
      const View& view = tensor_of<F<float>>(item, i);
      if (!fusestep::present(view)) continue;
      if (i >= 2 && i < 2 + kStates) present |= 1u << (i - 2);
      // What is beside the rule does not decide what it is computed in.
      wide = wide || (i < 2 + kStates && view.dtype == DType::f64);
      dense = dense && view.contiguous;
      far = far || uint64_t(uintptr_t(view.data)) >> kAddressBits != 0;
      choice.add(view);
    }
    const bool clipped = args.norm != nullptr && item.max_norm > 0;
    const bool extras = clipped || item.rounding != Rounding::nearest || fusestep::present(item.average) ||
                        args.gradients != Gradients::kept;
    const bool apart = item.rows.row != nullptr && item.rows.length % kPack != 0;  // rows are not aligned
    return {variant(apart || far ? Access::any : choice.access(), extras, present, wide), dense};
  }

  // Collects items of one variant and launches them together.
  template <Access access, bool extras, unsigned Present, class T>
  struct Batch {
    using Params = UpdateParams<access, T, F<T>, extras, Present>;
    Params params;
    std::optional<PrepareBatch<F<T>>> prepare;
    void* stream;
    const UpdateItem* last = nullptr;

    explicit Batch(const UpdateArgs& args) : stream(args.stream) {
      params.clear();
      if constexpr (extras) params.call = {args.norm, args.gradients};
      params.prepared = nullptr;
      params.found_inf = args.found_inf;
      if (!asks_device(args)) return;
      prepare.emplace(args);
      params.prepared = prepare->params.prepared;
    }

    bool has_room() const { return params.has_room() && (!prepare || prepare->params.has_room()); }

    // Whether this item has the setting of the last one.
    bool repeats(const UpdateItem& item) const {
      if (params.count == 0 || last->hyper_at != item.hyper_at || last->grad_scale != item.grad_scale ||
          (last->hyper != item.hyper && memcmp(last->hyper, item.hyper, sizeof(double) * kHypers<F<T>>) != 0))
        return false;
      bool same = last->number[0].after == item.number[0].after && last->max_norm == item.max_norm &&
                  last->decay == item.decay && last->rounding == item.rounding;
      for (int k = 1; k < F<T>::numbers.size; ++k) {
        const Count &a = last->number[k], &b = item.number[k];
        same = same && a.before == b.before && a.after == b.after;
      }
      return same;
    }

    void set(const UpdateItem& item) {
      auto& setting = params.add_setting(F<T>(item.hyper, item.number));
      setting.grad_scale = decltype(setting.grad_scale)(item.grad_scale);
      if constexpr (extras) {
        setting.max_norm = item.max_norm;
        setting.decay = item.decay;
        setting.rounding = item.rounding;
      }
    }

    void add(const UpdateItem& item, bool dense) {
      if (!has_room() || !dense) flush();
      const bool repeated = repeats(item);
      if (!repeated) set(item);
      if (prepare) prepare->add(item, repeated);
      last = &item;
      const int64_t before = chunks_of(params);
      auto& entry = params.add_entry();
      entry.size = count_chunks(before, item.grad.count);
      entry.size.setting = uint16_t(params.settings - 1);
      for (int i = 0; i < kTensors<F<T>, extras>; ++i) {
        if (i >= 2 && i < 2 + kStates && !has_state(Present, i - 2)) continue;
        const int slot = slot_of<F<T>, Present>(i);
        entry.data.set(slot, tensor_of<F<T>>(item, i).data);
        entry.set_dtype(slot, tensor_of<F<T>>(item, i).dtype);
      }
      if constexpr (extras) {
        entry.seed = item.seed;
        entry.averages = present(item.average);
      }
      if constexpr (F<T>::by_rows) {
        entry.row = item.rows.row;
        entry.length = item.rows.length;
      }
      if constexpr (access == Access::any) {
        params.layouts.dense = dense;
        if (dense) return;
        for (int i = 0; i < kTensors<F<T>, extras>; ++i) params.layouts.views[i] = tensor_of<F<T>>(item, i);
        flush();
      }
    }

    void flush() {
      if (params.count == 0) return;
      if (prepare) prepare->flush(stream);
      launch(update_kernel<access, extras, Present, T, F<T>>, blocks_for(chunks_of(params), 1), stream,
             params);
      params.clear();
    }
  };

  template <Access access, bool extras, unsigned Present, class T>
  static void run_batch(const UpdateArgs& args, uint64_t needed) {
    constexpr uint64_t ours = variant(access, extras, Present, sizeof(T) == 8);
    if ((needed & ours) == 0) return;
    Batch<access, extras, Present, T> batch(args);
    for (int64_t i = 0; i < args.count; ++i) {
      if (args.items[i].grad.count == 0) continue;
      const Needs needs = needs_of(args, args.items[i]);
      if (needs.variant == ours) batch.add(args.items[i], needs.dense);
    }
    batch.flush();
  }

  // Instantiates the kernels for each set of states that options can ask for.
  template <unsigned Subset = kOptional>
  static void run_all(const UpdateArgs& args, uint64_t needed) {
    constexpr unsigned here = (kAllStates & ~kOptional) | Subset;
    run_batch<Access::plain, false, here, float>(args, needed);
    run_batch<Access::packed, false, here, float>(args, needed);
    run_batch<Access::packed, true, here, float>(args, needed);
    run_batch<Access::any, true, here, float>(args, needed);
    run_batch<Access::any, true, here, double>(args, needed);
    if constexpr (Subset != 0) run_all<(Subset - 1) & kOptional>(args, needed);
  }

  static void run_together(const UpdateArgs& args) {
    uint64_t needed = 0;
    for (int64_t i = 0; i < args.count; ++i) {
      if (args.items[i].grad.count > 0) needed |= needs_of(args, args.items[i]).variant;
    }
    run_all(args, needed);
  }

  static void run(const UpdateArgs& args) {
    if (!args.in_order) return run_together(args);
    UpdateArgs one = args;
    one.count = 1;
    for (int64_t i = 0; i < args.count; ++i) {
      one.items = args.items + i;
      run_together(one);
    }
  }
};

FUSESTEP_TARGET_END
