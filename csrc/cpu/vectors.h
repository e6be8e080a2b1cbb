// Scalar products and linear combinations of many long vectors, each vector read once.
//
// NOTE [spans]: the elements are cut into at most kSpans spans of whole blocks, by their number alone. A
// product is summed lane by lane within a block, then over the blocks of a span, then over the spans, so
// its bits depend neither on the threads nor on what else the call computes. Products of floats are
// exact in double.
#pragma once

#include "core/op_table.h"
#include "cpu/blocks.h"

FUSESTEP_TARGET_BEGIN

constexpr int64_t kSpans = 256;
constexpr int kTogether = 4;  // vectors that share a pass over their sum

// Of block `b` of a vector.
FUSESTEP_HD int block_length(int64_t count, int64_t b) {
  const int64_t rest = count - b * kBlock;
  return rest < kBlock ? int(rest) : kBlock;
}

inline bool any_is_f64(const View* views, int64_t count) {
  bool any = false;
  for (int64_t i = 0; i < count; ++i) any = any || views[i].dtype == DType::f64;
  return any;
}

// Asks for memory that is read after the present block: hardware cannot guess which vector comes next.
template <class T>
FUSESTEP_HD void prefetch(const T* from, int count) {
  for (int byte = 0; byte < count * int(sizeof(T)); byte += 64) {
    __builtin_prefetch(reinterpret_cast<const char*>(from) + byte, 0, 2);
  }
}

// The start of the next block, if that is whole, or else of this one: what may be asked for.
inline int64_t whole_block_after(int64_t start, int64_t count) {
  return start + 2 * kBlock <= count ? start + kBlock : start;
}

// Where a block lies, if it need not be copied, or else `otherwise`, somewhere harmless.
template <class T>
const T* place_to_prefetch(const View& view, int64_t start, const T* otherwise) {
  return view.contiguous && view.dtype == dtype_of<T>() ? element<T>(view, start) : otherwise;
}

// Adds the scalar products of one block of `row` with C columns to sums[0 … C).
template <int C, class T>
void dot_block(const T* row, const double* const* columns, const T* next, int count, double* sums) {
  using V = Pack<double>;
  constexpr int L = V::lanes, chains = 4;
  V sum[C][chains];
  for (int c = 0; c < C; ++c) {
    for (int k = 0; k < chains; ++k) sum[c][k] = V(0.0);
  }
  int i = 0;
  for (; i + chains * L <= count; i += chains * L) {
    prefetch(next + i, chains * L);
    for (int k = 0; k < chains; ++k) {
      const V x = load_as<double>(row + i + k * L);
      for (int c = 0; c < C; ++c) sum[c][k] = mul_add(x, load_pack(columns[c] + i + k * L), sum[c][k]);
    }
  }
  for (int k = 0; i < count; i += L, ++k) {
    const int rest = count - i < L ? count - i : L;
    const V x = load_part_as(row + i, rest, 0.0);
    for (int c = 0; c < C; ++c) sum[c][k] = mul_add(x, load_part(columns[c] + i, rest, 0.0), sum[c][k]);
  }
  for (int c = 0; c < C; ++c) {
    sums[c] += sum_lanes((sum[c][0] + sum[c][1]) + (sum[c][2] + sum[c][3]));
  }
}

// Adds the products of one block to sums[row * columns + column].
template <class T>
void dots_block(const DotsArgs& args, int64_t start, int count, double* sums) {
  double* buffers =
      static_cast<double*>(thread_scratch(1, (1 + args.columns) * kBlock * int64_t(sizeof(double))));
  const auto columns =
      static_cast<const double**>(thread_scratch(2, (args.columns + 1) * int64_t(sizeof(double*))));
  const int64_t after = whole_block_after(start, args.a[0].count);
  for (int64_t j = 0; j < args.columns; ++j) {
    columns[j] = read_block(args.b[j], start, count, buffers + (1 + j) * kBlock);
  }
  for (int64_t i = 0; i < args.rows; ++i) {
    const T* row = read_block(args.a[i], start, count, reinterpret_cast<T*>(buffers));
    const bool last = i + 1 == args.rows;
    const T* next =
        last ? place_to_prefetch(args.a[0], after, row) : place_to_prefetch(args.a[i + 1], start, row);
    double* to = sums + i * args.columns;
    int64_t j = 0;
    for (; j + 4 <= args.columns; j += 4) dot_block<4>(row, columns + j, next, count, to + j);
    for (; j + 2 <= args.columns; j += 2) dot_block<2>(row, columns + j, next, count, to + j);
    for (; j < args.columns; ++j) dot_block<1>(row, columns + j, next, count, to + j);
  }
}

inline void dots(const DotsArgs& args) {
  const int64_t pairs = args.rows * args.columns;
  if (pairs == 0) return;
  const int64_t count = args.a[0].count, blocks = blocks_of(count);
  const int64_t spans = blocks < kSpans ? blocks : kSpans;
  const bool wide = any_is_f64(args.a, args.rows) || any_is_f64(args.b, args.columns);
  double* partial = static_cast<double*>(thread_scratch(0, (spans + 1) * pairs * int64_t(sizeof(double))));
  auto body = [&](int64_t begin, int64_t end) {
    for (int64_t span = begin; span < end; ++span) {
      double* sums = partial + span * pairs;
      for (int64_t i = 0; i < pairs; ++i) sums[i] = 0;
      for (int64_t b = blocks * span / spans; b < blocks * (span + 1) / spans; ++b) {
        const int64_t start = b * kBlock;
        const int length = block_length(count, b);
        wide ? dots_block<double>(args, start, length, sums) : dots_block<float>(args, start, length, sums);
      }
    }
  };
  parallel_for(spans, count * (args.rows + args.columns), body);
  for (int64_t i = 0; i < pairs; ++i) args.result[i] = 0;
  for (int64_t span = 0; span < spans; ++span) {
    for (int64_t i = 0; i < pairs; ++i) args.result[i] += partial[span * pairs + i];
  }
}

// sum += the sum of c[i] * x[i] over C vectors; the first call assigns.
template <int C, class T>
void combine_block(const T* const* x, const T* const* next, const double* c, int count, bool first,
                   double* sum) {
  using V = Pack<double>;
  constexpr int L = V::lanes;
  const auto add = [&](V total, auto&& load) {
    for (int k = 0; k < C; ++k) {
      const V factor = V(c[k]), value = load(x[k]);
      total = first && k == 0 ? factor * value : mul_add(factor, value, total);
    }
    return total;
  };
  int i = 0;
  constexpr int packs = 4;  // of floats: two cache lines
  for (; i + packs * L <= count; i += packs * L) {
    for (int k = 0; k < C; ++k) prefetch(next[k] + i, packs * L);
    for (int j = i; j < i + packs * L; j += L) {
      store_pack(sum + j, add(load_pack(sum + j), [&](const T* from) { return load_as<double>(from + j); }));
    }
  }
  for (; i < count; i += L) {
    const int rest = count - i < L ? count - i : L;
    const V total =
        add(load_part(sum + i, rest, 0.0), [&](const T* from) { return load_part_as(from + i, rest, 0.0); });
    store_part(sum + i, total, rest);
  }
}

template <class T>
void combine_blocks(const CombineArgs& args, int64_t begin, int64_t end) {
  struct Buffers {
    double sum[kBlock];
    T x[kTogether][kBlock];
  };
  Buffers& buffers = *static_cast<Buffers*>(thread_scratch(1, sizeof(Buffers)));
  for (int64_t b = begin; b < end; ++b) {
    const int64_t start = b * kBlock;
    const int count = block_length(args.out.count, b);
    const int64_t after = whole_block_after(start, args.out.count);
    for (int64_t i = 0; i < args.count; i += kTogether) {
      const T *x[kTogether], *next[kTogether];
      const double* c = args.coefficients + i;
      const int together = args.count - i < kTogether ? int(args.count - i) : kTogether;
      for (int k = 0; k < together; ++k) x[k] = read_block(args.vectors[i + k], start, count, buffers.x[k]);
      for (int k = 0; k < together; ++k) {
        const int64_t at = i + kTogether + k;
        next[k] = at < args.count ? place_to_prefetch(args.vectors[at], start, x[k])
                                  : place_to_prefetch(args.vectors[k], after, x[k]);
      }
      if (together == 4) combine_block<4>(x, next, c, count, i == 0, buffers.sum);
      if (together == 3) combine_block<3>(x, next, c, count, i == 0, buffers.sum);
      if (together == 2) combine_block<2>(x, next, c, count, i == 0, buffers.sum);
      if (together == 1) combine_block<1>(x, next, c, count, i == 0, buffers.sum);
    }
    // The output may be one of the vectors, so it is written to when they have been read.
    if (args.out.contiguous && args.out.dtype == DType::f64) {
      memcpy(element<double>(args.out, start), buffers.sum, size_t(count) * sizeof(double));
    } else {
      write_block(args.out, start, count, buffers.sum);
    }
  }
}

inline void combine(const CombineArgs& args) {
  const bool wide = any_is_f64(args.vectors, args.count);
  auto body = [&](int64_t begin, int64_t end) {
    wide ? combine_blocks<double>(args, begin, end) : combine_blocks<float>(args, begin, end);
  };
  parallel_for(blocks_of(args.out.count), args.out.count * (args.count + 1), body);
}

FUSESTEP_TARGET_END
