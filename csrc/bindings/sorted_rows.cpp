#include "bindings/sorted_rows.h"

namespace fusestep {
namespace {

// Stable, digit by digit: rows are small numbers, and a gradient may have millions of them.
std::vector<int64_t> order_of(const std::vector<int64_t>& keys, int64_t largest) {
  constexpr int kBits = 11;
  std::vector<int64_t> order(keys.size()), next(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) order[i] = int64_t(i);
  for (int shift = 0; shift == 0 || largest >> shift != 0; shift += kBits) {
    std::vector<size_t> start((size_t(1) << kBits) + 1);
    const auto digit = [&](int64_t i) {
      return size_t(keys[size_t(i)] >> shift) & ((size_t(1) << kBits) - 1);
    };
    for (const int64_t i : order) ++start[digit(i) + 1];
    for (size_t d = 1; d < start.size(); ++d) start[d] += start[d - 1];
    for (const int64_t i : order) next[start[digit(i)]++] = i;
    order.swap(next);
  }
  return order;
}

}  // namespace

bool sort_rows(const Array& vector, int64_t total, SortedRows& sorted, Rows& rows) {
  const int64_t count = vector.count;
  const auto row = [&](int64_t i) { return static_cast<const int64_t*>(vector.data)[i * vector.strides[0]]; };
  bool ready = is_row_major(vector);
  for (int64_t i = 0; i < count; ++i) {
    if (row(i) < 0 || row(i) >= total) return false;
    ready = ready && (i == 0 || row(i) > row(i - 1));
  }
  if (ready || count == 0) return true;
  std::vector<int64_t> keys;
  for (int64_t i = 0; i < count; ++i) keys.push_back(row(i));
  sorted.order = order_of(keys, total - 1);
  for (size_t i = 0; i < sorted.order.size(); ++i) {
    const int64_t key = keys[size_t(sorted.order[i])];
    if (!sorted.row.empty() && sorted.row.back() == key) continue;
    sorted.row.push_back(key);
    sorted.first.push_back(int64_t(i));
  }
  sorted.first.push_back(count);
  rows.row = sorted.row.data();
  rows.first = sorted.first.data();
  rows.order = sorted.order.data();
  rows.count = int64_t(sorted.row.size());
  return true;
}

}  // namespace fusestep
