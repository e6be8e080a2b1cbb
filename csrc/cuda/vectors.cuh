// Scalar products and linear combinations of many long vectors: the mirror image of cpu/vectors.h.
#pragma once

#include "core/lanes.h"
#include "core/op_table.h"
#include "cuda/reduce.cuh"

FUSESTEP_TARGET_BEGIN

constexpr int kTileRows = 8, kTileColumns = 2;  // of the products of one launch
constexpr int kTile = kTileRows * kTileColumns;
constexpr int64_t kDotBlocks =
    kMaxBlocks < 256 ? kMaxBlocks : 256;  // a partial sum of each, for each product

struct DotsParams {
  View rows[kTileRows], columns[kTileColumns];
  bool rows_packed[kTileRows], columns_packed[kTileColumns];
  int row_count, column_count;
  double* partials;
};

// Neighbouring elements of a vector. Which those are does not depend on how they can be read, so products
// have the same bits for any alignment.
__device__ __forceinline__ Portion<double, kPack> read_wide(const View& view, bool packed, int64_t at) {
  const int64_t rest = view.count - at;
  if (packed) return read<Access::packed, double>(view.data, view.dtype, at, rest);
  Portion<double, kPack> portion = all_of<double, kPack>(0.0);
  for (int i = 0; i < kPack && i < rest; ++i) {
    portion.at[i] = read_one<double>(view.data, view.dtype, place_of<Access::any>(view, at + i));
  }
  return portion;
}

// Unrolled, so that the sums stay in registers.
static __global__ void __launch_bounds__(kThreads, 2) dots_kernel(const DotsParams __grid_constant__ p) {
  double sum[kTileRows][kTileColumns] = {};
  const int64_t count = p.rows[0].count, step = int64_t(gridDim.x) * kThreads * kPack;
  for (int64_t at = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kPack; at < count; at += step) {
    Portion<double, kPack> column[kTileColumns];
    FUSESTEP_UNROLL for (int c = 0; c < kTileColumns; ++c) {
      if (c < p.column_count) column[c] = read_wide(p.columns[c], p.columns_packed[c], at);
    }
    FUSESTEP_UNROLL for (int r = 0; r < kTileRows; ++r) {
      if (r >= p.row_count) continue;
      const Portion<double, kPack> row = read_wide(p.rows[r], p.rows_packed[r], at);
      FUSESTEP_UNROLL for (int c = 0; c < kTileColumns; ++c) {
        FUSESTEP_UNROLL for (int i = 0; i < kPack; ++i) {
          const bool inside = c < p.column_count && at + i < count;
          sum[r][c] = inside ? mul_add(row.at[i], column[c].at[i], sum[r][c]) : sum[r][c];
        }
      }
    }
  }
  FUSESTEP_UNROLL for (int r = 0; r < kTileRows; ++r) {
    FUSESTEP_UNROLL for (int c = 0; c < kTileColumns; ++c) {
      if (r < p.row_count && c < p.column_count) {
        const double partial = across_block(sum[r][c], Add());
        if (threadIdx.x == 0) p.partials[(r * p.column_count + c) * gridDim.x + blockIdx.x] = partial;
      }
    }
  }
}

struct ProductParams {
  const double* partials;  // those of a product lie together
  int64_t count;           // of them
  double* result;          // of the first product
  int columns;             // of the launch
  int64_t stride;          // of the rows of the result
};

// A block for each product.
static __global__ void __launch_bounds__(kThreads, 2)
    product_kernel(const ProductParams __grid_constant__ p) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < p.count; i += kThreads) sum += p.partials[blockIdx.x * p.count + i];
  sum = across_block(sum, Add());
  const int row = int(blockIdx.x) / p.columns, column = int(blockIdx.x) % p.columns;
  if (threadIdx.x == 0) p.result[row * p.stride + column] = sum;
}

inline bool is_packed(const View& view) {
  Choice<> choice;
  choice.add(view);
  return choice.access() != Access::any;
}

inline void dots(const DotsArgs& args) {
  if (args.rows * args.columns == 0) return;
  const auto take = [](int64_t rest, int most) { return rest < most ? int(rest) : most; };
  int64_t blocks = blocks_for(args.a[0].count, kThreads * kPack);
  blocks = blocks < kDotBlocks ? blocks : kDotBlocks;
  double* const partials = static_cast<double*>(args.workspace);
  for (int64_t i = 0; i < args.rows; i += kTileRows) {
    for (int64_t j = 0; j < args.columns; j += kTileColumns) {
      DotsParams params;
      params.row_count = take(args.rows - i, kTileRows);
      params.column_count = take(args.columns - j, kTileColumns);
      params.partials = partials;
      for (int r = 0; r < params.row_count; ++r) {
        params.rows[r] = args.a[i + r];
        params.rows_packed[r] = is_packed(args.a[i + r]);
      }
      for (int c = 0; c < params.column_count; ++c) {
        params.columns[c] = args.b[j + c];
        params.columns_packed[c] = is_packed(args.b[j + c]);
      }
      if (blocks > 0) launch(dots_kernel, blocks, args.stream, params);
      launch(product_kernel, params.row_count * params.column_count, args.stream,
             ProductParams{partials, blocks, args.result + i * args.columns + j, params.column_count,
                           args.columns});
    }
  }
}

// Vectors of a launch: as many as its parameters have room for. The layouts of those that are not dense
// need more of it.
constexpr int kDenseTerms = 204, kStridedTerms = 20;

template <bool dense>
struct Terms {
  void* data[kDenseTerms];
  double coefficient[kDenseTerms];
  DType dtype[kDenseTerms];
};
template <>
struct Terms<false> {
  View view[kStridedTerms];
  double coefficient[kStridedTerms];
};

template <bool dense>
struct CombineParams {
  Terms<dense> terms;
  View out;
  int count;
};

template <Access access, bool dense>
__global__ void __launch_bounds__(kThreads, 2)
    combine_kernel(const CombineParams<dense> __grid_constant__ p) {
  constexpr int W = kWidth<access>;
  const int64_t count = p.out.count, step = int64_t(gridDim.x) * kThreads * W;
  for (int64_t at = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * W; at < count; at += step) {
    Portion<double, W> sum;
    for (int v = 0; v < p.count; ++v) {
      Portion<double, W> x;
      if constexpr (dense) {
        x = read<access, double>(p.terms.data[v], p.terms.dtype[v], at, count - at);
      } else {
        const View& view = p.terms.view[v];
        x = read<access, double>(view.data, view.dtype, place_of<access>(view, at), count - at);
      }
      for (int i = 0; i < W; ++i) {
        const double c = p.terms.coefficient[v];
        sum.at[i] = v == 0 ? c * x.at[i] : mul_add(c, x.at[i], sum.at[i]);
      }
    }
    write<access>(p.out.data, p.out.dtype, place_of<access>(p.out, at), count - at, sum);
  }
}

// What does not fit into a launch is added to the output by the next, and rounded once more.
template <Access access, bool dense>
void combine_as(const CombineArgs& args) {
  constexpr int capacity = dense ? kDenseTerms : kStridedTerms;
  CombineParams<dense> params;
  params.out = args.out;
  params.count = 0;
  const auto add = [&](const View& view, double coefficient) {
    if constexpr (dense) {
      params.terms.data[params.count] = view.data;
      params.terms.dtype[params.count] = view.dtype;
    } else {
      params.terms.view[params.count] = view;
    }
    params.terms.coefficient[params.count++] = coefficient;
  };
  const int64_t blocks = blocks_for(args.out.count, kThreads * kWidth<access>);
  for (int64_t v = 0; v < args.count; ++v) {
    add(args.vectors[v], args.coefficients[v]);
    if (params.count < capacity && v + 1 < args.count) continue;
    if (blocks > 0) launch(combine_kernel<access, dense>, blocks, args.stream, params);
    params.count = 0;
    add(args.out, 1.0);
  }
}

inline void combine(const CombineArgs& args) {
  Choice<> choice;
  choice.add(args.out);
  bool dense = args.out.contiguous;
  for (int64_t v = 0; v < args.count; ++v) {
    choice.add(args.vectors[v]);
    dense = dense && args.vectors[v].contiguous;
  }
  if (!dense) return combine_as<Access::any, false>(args);
  choice.access() == Access::any ? combine_as<Access::any, true>(args)
                                 : combine_as<Access::packed, true>(args);
}

FUSESTEP_TARGET_END
