// Large results live in memory that is used again once their tensor has died: a fresh mapping costs more to
// fault in, page by page, than a loss costs to compute.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings/arrays.h"

namespace fusestep {

// Uninitialised memory of the shape and dtype of a tensor or NumPy array, as an object of the same library,
// on the same device; in C order if `row_major` or from NumPy, else as torch.empty_like lays it out. It is
// memory of the pool where that pays. `array`: what read_array made of `like`.
pybind11::object empty_like(pybind11::handle like, const Array& array, bool row_major);

// Blocks that no tensor uses are kept up to `limit` bytes; the ones used longest ago go first.
void set_pool_limit(int64_t bytes);
int64_t get_pool_limit();
void empty_pool();

struct PoolUse {
  int64_t in_use, idle;  // bytes
};
PoolUse pool_use();

}  // namespace fusestep
