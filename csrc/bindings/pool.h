// Large results live in memory that is used again once their tensor has died: a fresh mapping costs more to
// fault in, page by page, than a loss costs to compute.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>

namespace fusestep {

// Uninitialised memory of the shape and dtype of a tensor or NumPy array on the CPU, and of its strides
// unless `row_major`, as an object of the same library. Nothing if the pool is not for it (small, with gaps,
// elsewhere, switched off): the library's own empty_like is then as good.
std::optional<pybind11::object> pooled_like(pybind11::handle like, bool row_major);

// Blocks that no tensor uses are kept up to `limit` bytes; the ones used longest ago go first.
void set_pool_limit(int64_t bytes);
int64_t get_pool_limit();
void empty_pool();

struct PoolUse {
  int64_t in_use, idle;  // bytes
};
PoolUse pool_use();

}  // namespace fusestep
