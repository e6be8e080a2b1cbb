// The update loop: blocks of all tensors of a step, one after another, spread over the threads. What may
// be asked beside the rule (clipping, rounding, an average, clearing gradients) is done to a block while
// it is in the cache.
#pragma once

#include <string.h>

#include "core/op_table.h"
#include "core/rounding.h"
#include "cpu/blocks.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
struct UpdateBuffers {
  T param[kBlock], grad[kBlock], state[kMaxStates][kBlock], other[kBlock];
};

// A block of an item: of all its elements, or of one of its rows.
struct UpdateBlock {
  int64_t start;  // among the elements of the parameter
  int count;
  int64_t row, offset;  // the number of the row among `rows`, and where in it the block starts
};

inline int64_t blocks_of(const UpdateItem& item) {
  return item.rows.row == nullptr ? blocks_of(item.param.count)
                                  : item.rows.count * blocks_of(item.rows.length);
}

inline int64_t elements_of(const UpdateItem& item) {
  return item.rows.row == nullptr ? item.param.count : item.rows.count * item.rows.length;
}

inline UpdateBlock block_at(const UpdateItem& item, int64_t number) {
  const auto count_from = [](int64_t total, int64_t start) {
    return total - start < kBlock ? int(total - start) : kBlock;
  };
  if (item.rows.row == nullptr) {
    return {number * kBlock, count_from(item.param.count, number * kBlock), 0, 0};
  }
  const int64_t in_row = blocks_of(item.rows.length), row = number / in_row;
  const int64_t offset = number % in_row * kBlock;
  return {item.rows.row[row] * item.rows.length + offset, count_from(item.rows.length, offset), row, offset};
}

template <class T>
const T* read_grad(const UpdateItem& item, const UpdateBlock& block, UpdateBuffers<T>& buffers) {
  const Rows& rows = item.rows;
  if (rows.row == nullptr) return read_block(item.grad, block.start, block.count, buffers.grad);
  const auto read_row = [&](int64_t row, T* buffer) {
    return read_block(item.grad, row * rows.length + block.offset, block.count, buffer);
  };
  if (rows.first == nullptr) return read_row(block.row, buffers.grad);
  const int64_t begin = rows.first[block.row], end = rows.first[block.row + 1];
  const T* sum = read_row(rows.order[begin], buffers.grad);
  for (int64_t k = begin + 1; k < end; ++k) {
    const T* term = read_row(rows.order[k], buffers.other);
    for (int i = 0; i < block.count; ++i) buffers.grad[i] = sum[i] + term[i];
    sum = buffers.grad;
  }
  return sum;
}

// The values as they will be stored, and what is lost by that.
template <class T>
void round_block(const UpdateItem& item, const UpdateBlock& block, T* param, T* lost) {
  const DType dtype = item.param.dtype;
  for (int i = 0; i < block.count; ++i) {
    const T exact = param[i];
    param[i] = item.rounding == Rounding::stochastic
                   ? rounded_at_random_to(dtype, exact, item.seed, uint64_t(block.start + i))
                   : rounded_to(dtype, exact);
    if (item.rounding == Rounding::kahan) {
      const T off = exact - param[i];
      lost[i] = param[i] - param[i] == T(0) ? off : T(0);  // nothing to put back to what is not finite
    }
  }
}

template <class T>
void average_block(const UpdateItem& item, const UpdateBlock& block, const T* param, T* buffer) {
  T* average = const_cast<T*>(read_block<T>(item.average, block.start, block.count, buffer));
  const T rest = T(1 - item.decay);
  // A copy at first: the average of nothing may hold anything.
  if (rest == T(1)) {
    for (int i = 0; i < block.count; ++i) average[i] = param[i];
  } else {
    for (int i = 0; i < block.count; ++i) average[i] = mul_add(rest, param[i] - average[i], average[i]);
  }
  write_block(item.average, block.start, block.count, average);
}

template <class T>
void write_gradients(const UpdateItem& item, const UpdateBlock& block, Gradients gradients, const T* grad,
                     T* buffer) {
  T* to = place_block(item.grad, block.start, buffer);
  const T scale = T(item.grad_scale < 0 ? -item.grad_scale : item.grad_scale);
  for (int i = 0; i < block.count; ++i) to[i] = gradients == Gradients::cleared ? T(0) : grad[i] * scale;
  write_block(item.grad, block.start, block.count, to);
}

template <class T, unsigned Present, class F>
void update_block(const F& formula, const UpdateItem& item, const UpdateBlock& block, T grad_scale,
                  Gradients gradients, UpdateBuffers<T>& buffers) {
  using V = Pack<T>;
  constexpr int L = V::lanes, N = F::states.size;
  const int count = block.count;
  // Parameter and states are read into the very place they are computed in.
  const auto open = [&](const View& view, T* buffer) {
    return const_cast<T*>(read_block<T>(view, block.start, count, buffer));
  };
  const T* g = read_grad(item, block, buffers);
  T* p = open(item.param, buffers.param);
  T* s[N];
  for (int i = 0; i < N; ++i) s[i] = has_state(Present, i) ? open(item.state[i], buffers.state[i]) : nullptr;
  T* const lost = item.rounding == Rounding::kahan ? open(item.lost, buffers.other) : nullptr;
  for (int i = 0; lost != nullptr && i < count; ++i) p[i] = p[i] + lost[i];

  const V scale = V(grad_scale);
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

  if (item.rounding != Rounding::nearest || (present(item.average) && item.param.dtype != dtype_of<T>())) {
    round_block(item, block, p, lost);
  }
  write_block(item.param, block.start, count, p);
  if (lost != nullptr) write_block(item.lost, block.start, count, lost);
  for (int k = 0; k < N; ++k) {
    if (has_state(Present, k)) write_block(item.state[k], block.start, count, s[k]);
  }
  if (present(item.average)) average_block(item, block, p, buffers.other);
  if (gradients != Gradients::kept) write_gradients(item, block, gradients, g, buffers.other);
}

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
    for (int64_t b = begin; b < end; ++b) {
      update_block<T, here>(formula, item, block_at(item, b), scale, args.gradients,
                            *static_cast<UpdateBuffers<T>*>(buffers));
    }
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
