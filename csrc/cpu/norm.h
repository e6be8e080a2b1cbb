// The norm of all gradients of a step: squares added in double, block by block, then the blocks one
// after another; the same bits for any number of threads.
#pragma once

#include "core/op_table.h"
#include "cpu/blocks.h"

FUSESTEP_TARGET_BEGIN

inline double sum_of_squares(const View& view, int64_t start, int count, double* buffer) {
  using V = Pack<double>;
  const double* x = read_block(view, start, count, buffer);
  V sum[4] = {V(0.0), V(0.0), V(0.0), V(0.0)};
  int i = 0;
  for (; i + 4 * V::lanes <= count; i += 4 * V::lanes) {
    for (int k = 0; k < 4; ++k) {
      const V value = load_pack(x + i + k * V::lanes);
      sum[k] = mul_add(value, value, sum[k]);
    }
  }
  for (; i < count; i += V::lanes) {
    const V value = load_part(x + i, count - i < V::lanes ? count - i : V::lanes, 0.0);
    sum[0] = mul_add(value, value, sum[0]);
  }
  return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

inline void norm(const NormArgs& args) {
  const auto counts = [&](int64_t i) { return args.items[i].max_norm > 0; };
  int64_t blocks = 0, elements = 0;
  for (int64_t i = 0; i < args.count; ++i) {
    if (!counts(i)) continue;
    blocks += blocks_of(args.items[i].grad.count);
    elements += args.items[i].grad.count;
  }
  double* const sums = static_cast<double*>(thread_scratch(0, (blocks + 1) * int64_t(sizeof(double))));
  auto body = [&](int64_t begin, int64_t end) {
    double* const buffer = static_cast<double*>(thread_scratch(1, kBlock * int64_t(sizeof(double))));
    int64_t at = 0;  // number of the first block of the item
    for (int64_t i = 0; i < args.count && at < end; ++i) {
      if (!counts(i)) continue;
      const View& grad = args.items[i].grad;
      const double scale = args.items[i].grad_scale;
      const int64_t size = blocks_of(grad.count);
      for (int64_t b = begin > at ? begin - at : 0; b < size && at + b < end; ++b) {
        const int64_t start = b * kBlock, rest = grad.count - start;
        const double sum = sum_of_squares(grad, start, rest < kBlock ? int(rest) : kBlock, buffer);
        sums[at + b] = sum * (scale * scale);
      }
      at += size;
    }
  };
  parallel_for(blocks, elements, body);
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) total += sums[b];
  *args.norm = sqrt(total);
}

FUSESTEP_TARGET_END
