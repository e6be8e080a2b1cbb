// The tensors of a launch, cut into chunks, a block each. As many as fit into the parameters of a kernel
// share a launch.
#pragma once

#include <new>

#include "cuda/portions.cuh"

FUSESTEP_TARGET_BEGIN

constexpr int64_t kChunk = int64_t(kThreads) * kPack * 4;

// How many chunks an entry and those before it have, and how many elements its last one has.
struct ChunkCount {
  uint32_t chunks;
  uint16_t last;
  uint16_t setting;  // of an update: which one is its own
};
static_assert(kChunk <= UINT16_MAX, "a chunk's elements are counted in 16 bits");

// Kernel parameters of up to `size` bytes: entries, and settings that they share. Entries grow from the front
// of the memory, settings from its back, until they meet.
template <class Entry, class Setting, int size>
struct Pool {
  static constexpr int kBytes = (size - 8) / 8 * 8;
  alignas(8) char memory[kBytes];
  int count, settings;

  FUSESTEP_HD const Entry& entry(int i) const { return reinterpret_cast<const Entry*>(memory)[i]; }
  FUSESTEP_HD const Setting& setting(int i) const {
    return reinterpret_cast<const Setting*>(memory + kBytes)[-1 - i];
  }

  void clear() { count = settings = 0; }
  // For an entry with a setting of its own.
  bool has_room() const {
    return (count + 1) * int(sizeof(Entry)) + (settings + 1) * int(sizeof(Setting)) <= kBytes;
  }
  Entry& add_entry() { return *new (memory + count++ * sizeof(Entry)) Entry(); }
  template <class... From>
  Setting& add_setting(const From&... from) {
    return *new (memory + kBytes - ++settings * sizeof(Setting)) Setting(from...);
  }
};

// Elements begin … end - 1 of an entry.
struct Chunk {
  int entry;
  int64_t begin, end;
};

// `Params` has `entry(i)`, `count` of them, each with its `size`.
template <class Params>
FUSESTEP_HD int64_t chunks_of(const Params& p) {
  return p.count > 0 ? p.entry(p.count - 1).size.chunks : 0;
}

template <class Params>
__device__ __forceinline__ Chunk chunk_at(const Params& p, int64_t number) {
  int low = 0, high = p.count - 1;  // the first entry with more than `number` chunks up to its end
  while (low < high) {
    const int middle = (low + high) / 2;
    if (p.entry(middle).size.chunks > number) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  const ChunkCount size = p.entry(low).size;
  const int64_t begin = (number - (low > 0 ? p.entry(low - 1).size.chunks : 0)) * kChunk;
  return {low, begin, begin + (number + 1 == size.chunks ? size.last : kChunk)};
}

// Of an entry of `count` elements, at least one, that follows `before` chunks.
inline ChunkCount count_chunks(int64_t before, int64_t count) {
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  return {uint32_t(before + chunks), uint16_t(count - (chunks - 1) * kChunk), 0};
}

FUSESTEP_TARGET_END
