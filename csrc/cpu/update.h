// The update loop: blocks of all tensors of a step, one after another, spread over the threads.
#pragma once

#include "core/op_table.h"
#include "cpu/blocks.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct UpdateBuffers {
  T param[kBlock], grad[kBlock], state[kMaxStates][kBlock];
};

template <class T, unsigned Present, class F>
void update_block(const F& formula, const UpdateItem& item, int64_t start, int count,
                  UpdateBuffers<T>& buffers) {
  using V = Pack<T>;
  constexpr int L = V::lanes, N = F::states.size;
  // Parameter and states are read into the very place they are computed in.
  const auto open = [&](const View& view, T* buffer) {
    return const_cast<T*>(read_block<T>(view, start, count, buffer));
  };
  const T* g = read_block(item.grad, start, count, buffers.grad);
  T* p = open(item.param, buffers.param);
  T* s[N];
  for (int i = 0; i < N; ++i) s[i] = has_state(Present, i) ? open(item.state[i], buffers.state[i]) : nullptr;
  const V scale = V(T(item.grad_scale));
  int i = 0;
  for (; i + L <= count; i += L) {
    V param = load_pack(p + i), state[N];
    for (int k = 0; k < N; ++k) state[k] = has_state(Present, k) ? load_pack(s[k] + i) : V(T(0));
    formula.template operator()<Present>(param, load_pack(g + i) * scale, state);
    store_pack(p + i, param);
    for (int k = 0; k < N; ++k) {
      if (has_state(Present, k)) store_pack(s[k] + i, state[k]);
    }
  }
  if (i < count) {
    const int rest = count - i;
    V param = load_part(p + i, rest, T(0)), state[N];
    for (int k = 0; k < N; ++k) {
      state[k] = has_state(Present, k) ? load_part(s[k] + i, rest, T(0)) : V(T(0));
    }
    formula.template operator()<Present>(param, load_part(g + i, rest, T(0)) * scale, state);
    store_part(p + i, param, rest);
    for (int k = 0; k < N; ++k) {
      if (has_state(Present, k)) store_part(s[k] + i, state[k], rest);
    }
  }
  write_block(item.param, start, count, p);
  for (int k = 0; k < N; ++k) {
    if (has_state(Present, k)) write_block(item.state[k], start, count, s[k]);
  }
}

// Instantiates the loop for each set of states that options can ask for.
template <class T, class F, unsigned Subset = optional_states<F>>
void update_present(unsigned present, const UpdateItem& item, int64_t begin, int64_t end,
                    UpdateBuffers<T>& buffers) {
  constexpr unsigned all = (1u << F::states.size) - 1, here = (all & ~optional_states<F>) | Subset;
  if (present == here) {
    const F formula(item.hyper, item.step);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t start = b * kBlock, rest = item.param.count - start;
      update_block<T, here>(formula, item, start, rest < kBlock ? int(rest) : kBlock, buffers);
    }
  } else if constexpr (Subset != 0) {
    update_present<T, F, (Subset - 1) & optional_states<F>>(present, item, begin, end, buffers);
  }
}

template <template <class> class F>
struct Update {
  static_assert(check_update<F>(), "");
  static_assert(F<float>::states.size <= kMaxStates, "raise kMaxStates in core/op_table.h");

  static void blocks(const UpdateItem& item, int64_t begin, int64_t end) {
    unsigned mask = 0;
    bool wide = item.param.dtype == DType::f64 || item.grad.dtype == DType::f64;
    for (int k = 0; k < F<float>::states.size; ++k) {
      if (!present(item.state[k])) continue;
      mask |= 1u << k;
      wide = wide || item.state[k].dtype == DType::f64;
    }
    constexpr int64_t bytes = sizeof(UpdateBuffers<double>);
    void* buffers = thread_scratch(1, bytes);
    if (wide) {
      update_present<double, F<double>>(mask, item, begin, end,
                                        *static_cast<UpdateBuffers<double>*>(buffers));
    } else {
      update_present<float, F<float>>(mask, item, begin, end, *static_cast<UpdateBuffers<float>*>(buffers));
    }
  }

  static void run(const UpdateArgs& args) {
    if (args.in_order) {
      for (int64_t i = 0; i < args.count; ++i) {
        const UpdateItem& item = args.items[i];
        auto body = [&](int64_t begin, int64_t end) { blocks(item, begin, end); };
        parallel_for(blocks_of(item.param.count), item.param.count, body);
      }
      return;
    }
    int64_t total = 0, elements = 0;
    for (int64_t i = 0; i < args.count; ++i) {
      total += blocks_of(args.items[i].param.count);
      elements += args.items[i].param.count;
    }
    auto body = [&](int64_t begin, int64_t end) {
      int64_t at = 0;  // number of the first block of the item
      for (int64_t i = 0; i < args.count && at < end; ++i) {
        const int64_t size = blocks_of(args.items[i].param.count);
        const int64_t from = begin > at ? begin - at : 0, to = end - at < size ? end - at : size;
        if (from < to) blocks(args.items[i], from, to);
        at += size;
      }
    };
    parallel_for(total, elements, body);
  }
};

FUSESTEP_TARGET_END
