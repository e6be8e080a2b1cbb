// The update loop: blocks of all tensors of a step, one after another, spread over the threads.
#pragma once

#include <string.h>

#include "cpu/update_block.h"

FUSESTEP_TARGET_BEGIN

// The formula of the item before, if this one's is the same: of tensors that are stepped together it mostly
// is, and for a small one its powers take longer than the elements.
template <class F>
class LastFormula {
 public:
  LastFormula() {}
  const F& of(const UpdateItem& item) {
    if (hyper_ != item.hyper || memcmp(number_, item.number, sizeof(number_)) != 0) {
      formula_ = F(item.hyper, item.number);
      hyper_ = item.hyper;
      memcpy(number_, item.number, sizeof(number_));
    }
    return formula_;
  }

 private:
  static_assert(std::is_trivially_copyable<F>(), "a formula is a few numbers");
  const double* hyper_ = nullptr;
  Count number_[F::numbers.size > 0 ? F::numbers.size : 1];
  union {
    F formula_;
  };
};

// What a thread keeps from item to item.
template <template <class> class F>
struct UpdateThread {
  const UpdateArgs& args;
  void* buffers;
  LastFormula<F<float>> narrow{};
  LastFormula<F<double>> wide{};
};

// Instantiates the loop for each set of states that options can ask for.
template <class T, class F, unsigned Subset = optional_states<F>>
void update_present(unsigned present, const UpdateArgs& args, const UpdateItem& item, int64_t begin,
                    int64_t end, LastFormula<F>& last, void* buffers) {
  constexpr unsigned all = (1u << F::states.size) - 1, here = (all & ~optional_states<F>) | Subset;
  if (present == here) {
    const F formula = last.of(item);
    const bool clipped = args.norm != nullptr && item.max_norm > 0;
    const T scale = T(item.grad_scale * (clipped ? clip_factor(*args.norm, item.max_norm) : 1));
    update_blocks<T, here>(formula, item, begin, end, scale, args.gradients,
                           *static_cast<UpdateBuffers<T>*>(buffers));
  } else if constexpr (Subset != 0) {
    update_present<T, F, (Subset - 1) & optional_states<F>>(present, args, item, begin, end, last, buffers);
  }
}

template <template <class> class F>
struct Update {
  static_assert(check_update<F>(), "");
  static_assert(F<float>::states.size <= kMaxStates, "raise kMaxStates in core/op_table.h");
  static_assert(F<float>::numbers.size <= kMaxNumbers, "raise kMaxNumbers in core/op_table.h");

  using Thread = UpdateThread<F>;

  static Thread thread_of(const UpdateArgs& args) {
    return {args, thread_scratch(1, sizeof(UpdateBuffers<double>))};
  }

  static void blocks(Thread& thread, const UpdateItem& item, int64_t begin, int64_t end) {
    unsigned mask = 0;
    bool wide = item.param.dtype == DType::f64 || item.grad.dtype == DType::f64;
    for (int k = 0; k < F<float>::states.size; ++k) {
      if (!present(item.state[k])) continue;
      mask |= 1u << k;
      wide = wide || item.state[k].dtype == DType::f64;
    }
    if (wide) {
      update_present<double, F<double>>(mask, thread.args, item, begin, end, thread.wide, thread.buffers);
    } else {
      update_present<float, F<float>>(mask, thread.args, item, begin, end, thread.narrow, thread.buffers);
    }
  }

  static void run(const UpdateArgs& args) {
    if (args.in_order) {
      for (int64_t i = 0; i < args.count; ++i) {
        const UpdateItem& item = args.items[i];
        auto body = [&](int64_t begin, int64_t end) {
          Thread thread = thread_of(args);
          blocks(thread, item, begin, end);
        };
        parallel_for(blocks_of(item), elements_of(item), body);
      }
      return;
    }
    int64_t total = 0, elements = 0;
    for (int64_t i = 0; i < args.count; ++i) {
      total += blocks_of(args.items[i]);
      elements += elements_of(args.items[i]);
    }
    auto body = [&](int64_t begin, int64_t end) {
      Thread thread = thread_of(args);
      int64_t at = 0;  // number of the first block of the item
      for (int64_t i = 0; i < args.count && at < end; ++i) {
        const int64_t size = blocks_of(args.items[i]);
        const int64_t from = begin > at ? begin - at : 0, to = end - at < size ? end - at : size;
        if (from < to) blocks(thread, args.items[i], from, to);
        at += size;
      }
    };
    parallel_for(total, elements, body);
  }
};

FUSESTEP_TARGET_END
