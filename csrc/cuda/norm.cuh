// The norm of all gradients of a step: squares added in double, by threads, by blocks, and the blocks of
// all launches in the order of their numbers.
#pragma once

#include "cuda/chunks.cuh"
#include "cuda/reduce.cuh"

FUSESTEP_TARGET_BEGIN

struct NormEntry {
  const void* data;
  DType dtype;
  double factor;  // of the squares
  int64_t count;
  int64_t chunks;
};

struct NormParams {
  static constexpr int capacity = (kParamBytes - int(sizeof(View)) - 32) / int(sizeof(NormEntry));
  NormEntry entries[capacity];
  int count;
  View view;         // of a gradient that is not dense and has the launch to itself
  double* partials;  // one for each block; those of launches before are added to
  int64_t known;     // how many there are already
};

template <Access access>
__global__ void __launch_bounds__(kThreads, 2) norm_kernel(const NormParams __grid_constant__ p) {
  constexpr int W = kWidth<access>;
  const int64_t chunks = chunks_of(p);
  double total = 0;
  for (int64_t number = blockIdx.x; number < chunks; number += gridDim.x) {
    const Chunk chunk = chunk_at(p, number);
    const NormEntry& entry = p.entries[chunk.entry];
    double sum = 0;
    for (int64_t at = chunk.begin + threadIdx.x * W; at < chunk.end; at += kThreads * W) {
      const int64_t place = present(p.view) ? place_of<access>(p.view, at) : at;
      const auto grad = read<access, double>(entry.data, entry.dtype, place, entry.count - at);
      for (int i = 0; i < W; ++i) {
        const double value = at + i < entry.count ? grad.at[i] : 0;
        sum = mul_add(value, value, sum);
      }
    }
    total = mul_add(sum, entry.factor, total);
  }
  total = across_block(total, Add());
  if (threadIdx.x == 0) {
    double& partial = p.partials[blockIdx.x];
    partial = blockIdx.x < p.known ? partial + total : total;
  }
}

struct RootParams {
  const double* partials;
  int64_t count;
  double* norm;
};

static __global__ void __launch_bounds__(kThreads, 2) root_kernel(const RootParams __grid_constant__ p) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < p.count; i += kThreads) sum += p.partials[i];
  sum = across_block(sum, Add());
  if (threadIdx.x == 0) *p.norm = sqrt(sum);
}

// Gathers the gradients of one kind of access, and launches them together.
template <Access access>
struct NormBatch {
  NormParams params;
  void* stream;

  NormBatch(const NormArgs& args, int64_t known) : stream(args.stream) {
    params.count = 0;
    params.partials = static_cast<double*>(args.workspace);
    params.known = known;
  }

  void add(const View& grad, double scale) {
    if (params.count == params.capacity || !grad.contiguous) flush();
    NormEntry& entry = params.entries[params.count];
    entry.data = grad.data;
    entry.dtype = grad.dtype;
    entry.factor = scale * scale;
    append(params, grad.count);
    if (grad.contiguous) return;
    params.view = grad;
    flush();
    params.view = View();
  }

  void flush() {
    if (params.count == 0) return;
    const int64_t blocks = blocks_for(chunks_of(params), 1);
    launch(norm_kernel<access>, blocks, stream, params);
    params.known = params.known > blocks ? params.known : blocks;
    params.count = 0;
  }
};

// Returns how many partial sums there are.
template <Access access>
int64_t add_squares(const NormArgs& args, int64_t known) {
  NormBatch<access> batch(args, known);
  for (int64_t i = 0; i < args.count; ++i) {
    const UpdateItem& item = args.items[i];
    if (!(item.max_norm > 0) || item.grad.count == 0) continue;
    Choice choice;
    choice.add(item.grad);
    const bool packed = choice.access() != Access::any;
    if (packed == (access == Access::packed)) batch.add(item.grad, item.grad_scale);
  }
  batch.flush();
  return batch.params.known;
}

inline void norm(const NormArgs& args) {
  const int64_t known = add_squares<Access::any>(args, add_squares<Access::packed>(args, 0));
  launch(root_kernel, 1, args.stream, RootParams{static_cast<double*>(args.workspace), known, args.norm});
}

FUSESTEP_TARGET_END
