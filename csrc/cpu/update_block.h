// One block of an update: its memory, the rule, and what may be asked beside the rule (clipping, rounding,
// an average, clearing gradients), done while the block is in the cache.
#pragma once

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

// The update of `count` neighbouring elements.
template <class T, unsigned Present, class F, class S>
void update_run(const F& formula, S* param, const S* grad, S* const* state, int count, T grad_scale) {
  using V = Pack<T>;
  constexpr int L = V::lanes, N = F::states.size;
  const V scale = V(grad_scale);
  // One pack: `read(from)` and `write(to, pack)` know whether it is whole.
  const auto work = [&](int at, auto&& read, auto&& write) {
    V p = read(param + at), s[N];
    for (int k = 0; k < N; ++k) s[k] = has_state(Present, k) ? read(state[k] + at) : V(T(0));
    formula.template operator()<Present>(p, read(grad + at) * scale, s);
    write(param + at, p);
    for (int k = 0; k < N; ++k) {
      if (has_state(Present, k)) write(state[k] + at, s[k]);
    }
  };
  int i = 0;
  for (; i + L <= count; i += L) {
    work(i, [](const S* from) { return load_as<T>(from); }, [](S* to, V pack) { store_as(to, pack); });
  }
  if (i < count) {
    const int rest = count - i;
    work(
        i, [rest](const S* from) { return load_part_as<T>(from, rest, T(0)); },
        [rest](S* to, V pack) { store_part_as(to, pack, rest); });
  }
}

// Whether everything lies side by side as S, and no more is asked than the rule.
template <class S>
bool is_plain(const UpdateItem& item, Gradients gradients, int states) {
  const auto is = [](const View& view) { return view.dtype == dtype_of<S>() && view.contiguous; };
  bool plain = item.rows.row == nullptr && item.rounding == Rounding::nearest && !present(item.average) &&
               gradients == Gradients::kept && is(item.param) && is(item.grad);
  for (int k = 0; k < states; ++k) plain = plain && (!present(item.state[k]) || is(item.state[k]));
  return plain;
}

// A block where it lies, converted pack by pack.
template <class T, unsigned Present, class S, class F>
void update_plain(const F& formula, const UpdateItem& item, const UpdateBlock& block, T grad_scale) {
  constexpr int N = F::states.size;
  const auto at = [&](const View& view) { return element<S>(view, block.start); };
  S* s[N];
  for (int k = 0; k < N; ++k) s[k] = has_state(Present, k) ? at(item.state[k]) : nullptr;
  update_run<T, Present>(formula, at(item.param), at(item.grad), s, block.count, grad_scale);
}

template <class T, unsigned Present, class F>
void update_block(const F& formula, const UpdateItem& item, const UpdateBlock& block, T grad_scale,
                  Gradients gradients, UpdateBuffers<T>& buffers) {
  constexpr int N = F::states.size;
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

  update_run<T, Present>(formula, p, g, s, count, grad_scale);

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

// Blocks begin … end of an item.
template <class T, unsigned Present, class F>
void update_blocks(const F& formula, const UpdateItem& item, int64_t begin, int64_t end, T grad_scale,
                   Gradients gradients, UpdateBuffers<T>& buffers) {
  const auto each = [&](auto&& work) {
    for (int64_t b = begin; b < end; ++b) work(block_at(item, b));
  };
  const auto is_plain_as = [&](auto tag) {
    return is_plain<typename decltype(tag)::type>(item, gradients, F::states.size);
  };
  by_storage<T>(is_plain_as, [&](auto tag) {
    using S = typename decltype(tag)::type;
    if constexpr (std::is_same_v<S, T>) {
      each([&](const UpdateBlock& block) {
        update_block<T, Present>(formula, item, block, grad_scale, gradients, buffers);
      });
    } else {
      each([&](const UpdateBlock& block) { update_plain<T, Present, S>(formula, item, block, grad_scale); });
    }
  });
}

FUSESTEP_TARGET_END
