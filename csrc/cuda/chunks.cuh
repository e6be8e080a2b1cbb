// The tensors of a launch, cut into chunks, a block each. As many as fit into the parameters of a kernel
// share a launch.
#pragma once

#include "cuda/portions.cuh"

FUSESTEP_TARGET_BEGIN

constexpr int64_t kChunk = int64_t(kThreads) * kPack * 4;
constexpr int kParamBytes = 4000;

FUSESTEP_HD int64_t chunks_in(int64_t count) { return (count + kChunk - 1) / kChunk; }

// Elements begin … end - 1 of an entry.
struct Chunk {
  int entry;
  int64_t begin, end;
};

// `Params` has `entries`, `count` of them, each with the `count` of its elements and its `chunks` together
// with those of the entries before it.
template <class Params>
FUSESTEP_HD int64_t chunks_of(const Params& p) {
  return p.entries[p.count - 1].chunks;
}

template <class Params>
__device__ __forceinline__ Chunk chunk_at(const Params& p, int64_t number) {
  int low = 0, high = p.count - 1;  // the first entry with more than `number` chunks up to its end
  while (low < high) {
    const int middle = (low + high) / 2;
    if (p.entries[middle].chunks > number) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  const int64_t begin = (number - (low > 0 ? p.entries[low - 1].chunks : 0)) * kChunk;
  const int64_t rest = p.entries[low].count - begin;
  return {low, begin, begin + (rest < kChunk ? rest : kChunk)};
}

// Gives the new last entry its elements.
template <class Params>
void append(Params& p, int64_t count) {
  const int64_t before = p.count > 0 ? chunks_of(p) : 0;
  p.entries[p.count].count = count;
  p.entries[p.count].chunks = before + chunks_in(count);
  ++p.count;
}

FUSESTEP_TARGET_END
