// parallel_for: contiguous ranges of [0, count) on the threads PyTorch uses.
#pragma once

#include <stdint.h>

namespace fusestep {

// Runs body(context, begin, end) over disjoint ranges that cover [0, count). Serial when `work`, the
// number of elements touched, is below the grain; inside a parallel region; and in a forked child.
void parallel_ranges(int64_t count, int64_t work, void (*body)(void*, int64_t, int64_t), void* context);

int get_num_threads();
void set_num_threads(int count);  // 0: back to the runtime's own setting
const char* threading_runtime();  // "openmp", "pool" or "serial"; decides it if undecided

// Scratch memory of the calling thread, 64-byte aligned, valid until its next call with the same slot.
void* thread_scratch(int slot, int64_t bytes);

}  // namespace fusestep
