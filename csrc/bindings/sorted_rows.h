// The rows of a sparse gradient, in order and each once.
#pragma once

#include <vector>

#include "bindings/arrays.h"
#include "core/op_table.h"

namespace fusestep {

struct SortedRows {
  std::vector<int64_t> row, first, order;
};

// Fills `rows` from a vector of numbers below `total`: with the vector itself if it is in order and dense,
// else with what is then in `sorted`. False if a number is out of range.
bool sort_rows(const Array& vector, int64_t total, SortedRows& sorted, Rows& rows);

}  // namespace fusestep
