// The norm of all gradients of a step: squares added in double, by threads, by blocks, and the blocks of
// all launches in the order of their numbers.
#pragma once

#include "cuda/chunks.cuh"
#include "cuda/reduce.cuh"

FUSESTEP_TARGET_BEGIN

struct NormEntry {
  const void* data;
  DType dtype;
  bool packed;
  ChunkCount size;
  double factor;  // of the squares
};

struct NormParams {
  static constexpr int capacity = (kParamBytes - int(sizeof(View)) - 56) / int(sizeof(NormEntry));
  NormEntry entries[capacity];
  FUSESTEP_HD const NormEntry& entry(int i) const { return entries[i]; }
  int count;
  View view;  // of a gradient that is not dense and has the launch to itself
  Scratch* scratch;
  int64_t known;  // partial sums of the launches before, to be added to
  double* norm;   // null but in the last launch
  const float* loss_scale;
};

template <Access access>
__device__ __forceinline__ double sum_of_squares(const NormParams& p, const NormEntry& entry,
                                                 const Chunk& chunk) {
  constexpr int W = kWidth<access>;
  double sum = 0;
  for (int64_t at = chunk.begin + threadIdx.x * W; at < chunk.end; at += kThreads * W) {
    const int64_t place = present(p.view) ? place_of<access>(p.view, at) : at;
    const auto grad = read<access, double>(entry.data, entry.dtype, place, chunk.end - at);
    for (int i = 0; i < W; ++i) {
      const double value = at + i < chunk.end ? grad.at[i] : 0;
      sum = mul_add(value, value, sum);
    }
  }
  return sum;
}

static __global__ void __launch_bounds__(kThreads, 2) norm_kernel(const NormParams __grid_constant__ p) {
  const int64_t chunks = chunks_of(p);
  double total = 0;
  for (int64_t number = blockIdx.x; number < chunks; number += gridDim.x) {
    const Chunk chunk = chunk_at(p, number);
    const NormEntry& entry = p.entry(chunk.entry);
    const double sum = entry.packed ? sum_of_squares<Access::packed>(p, entry, chunk)
                                    : sum_of_squares<Access::any>(p, entry, chunk);
    total = mul_add(sum, entry.factor, total);
  }
  double& partial = p.scratch->partials[blockIdx.x];
  if (threadIdx.x == 0 && blockIdx.x < p.known) total += partial;
  if (p.norm != nullptr) {
    across_grid(total, p.scratch, [&](double sum) {
      *p.norm = sqrt(sum) / (p.loss_scale != nullptr ? fabs(double(*p.loss_scale)) : 1.0);
    });
  } else {
    total = across_block(total, Add());
    if (threadIdx.x == 0) partial = total;
  }
}

// Gathers gradients, and launches them together.
struct NormBatch {
  NormParams params;
  void* stream;

  explicit NormBatch(const NormArgs& args) : stream(args.stream) {
    params.count = 0;
    params.scratch = scratch_of(args);
    params.known = 0;
    params.norm = nullptr;
    params.loss_scale = args.loss_scale;
  }

  void add(const View& grad, double scale) {
    if (params.count == params.capacity || !grad.contiguous || present(params.view)) flush();
    Choice<> choice;
    choice.add(grad);
    NormEntry& entry = params.entries[params.count];
    entry.data = grad.data;
    entry.dtype = grad.dtype;
    entry.packed = choice.access() != Access::any;
    entry.factor = scale * scale;
    entry.size = count_chunks(chunks_of(params), grad.count);
    ++params.count;
    if (!grad.contiguous) params.view = grad;
  }

  void flush() {
    if (params.count == 0) return;
    launch_blocks(blocks_for(chunks_of(params), 1));
  }

  // With as many blocks as any launch before: all partial sums are to be found.
  void finish(double* norm) {
    params.norm = norm;
    const int64_t needed = params.count > 0 ? blocks_for(chunks_of(params), 1) : 1;
    launch_blocks(needed > params.known ? needed : params.known);
  }

 private:
  void launch_blocks(int64_t blocks) {
    if (blocks > 1) prepare(params.scratch, stream);
    launch(norm_kernel, blocks, stream, params);
    params.known = params.known > blocks ? params.known : blocks;
    params.count = 0;
    params.view = View();
  }
};

inline void norm(const NormArgs& args) {
  NormBatch batch(args);
  for (int64_t i = 0; i < args.count; ++i) {
    const UpdateItem& item = args.items[i];
    if (item.max_norm > 0 && item.grad.count > 0) batch.add(item.grad, item.grad_scale);
  }
  batch.finish(args.norm);
}

FUSESTEP_TARGET_END
