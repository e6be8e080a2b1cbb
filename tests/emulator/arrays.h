// Arrays of any dtype and layout on exactly as many bytes as they need, and their comparison.
#pragma once

#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/view.h"

namespace parity {

using namespace fusestep;

enum class Layout { dense, unaligned, transposed, gapped, repeated };

struct Array {
  View view;
  size_t bytes = 0;
  std::unique_ptr<char, decltype(&free)> memory{nullptr, free};

  // A copy at the same alignment, gaps included.
  Array clone() const {
    Array copy;
    copy.view = view;
    copy.bytes = bytes;
    copy.memory.reset(static_cast<char*>(malloc(bytes)));
    if (bytes > 0) memcpy(copy.memory.get(), memory.get(), bytes);
    if (view.data != nullptr) {
      copy.view.data = copy.memory.get() + (static_cast<char*>(view.data) - memory.get());
    }
    return copy;
  }
  double at(int64_t i) const { return load_floating<double>(view, offset_of(view, i)); }
  void set(int64_t i, double value) { store_floating(view, offset_of(view, i), value); }
};

// Without a fill, outputs hold a pattern that no result equals.
inline Array allocate(DType dtype, const std::vector<int64_t>& sizes, Layout layout) {
  Array array;
  View& view = array.view;
  view.dtype = dtype;
  view.dims = int(sizes.size());
  view.count = 1;
  view.contiguous = layout == Layout::dense || layout == Layout::unaligned;
  int64_t stride = layout == Layout::gapped ? 2 : layout == Layout::repeated ? 0 : 1, last = 0;
  for (int k = 0; k < view.dims; ++k) {
    const int d = layout == Layout::transposed ? k : view.dims - 1 - k;
    view.sizes[d] = sizes[size_t(d)];
    view.strides[d] = stride;
    last += (sizes[size_t(d)] - 1) * stride;
    stride = stride * sizes[size_t(d)] + (layout == Layout::gapped ? 3 : 0);
    view.count *= sizes[size_t(d)];
  }
  const int64_t before = layout == Layout::unaligned ? 1 : 0;
  const int64_t elements = view.count == 0 ? 0 : before + last + 1;
  array.bytes = size_t(elements * size_of(dtype));
  array.memory.reset(static_cast<char*>(malloc(array.bytes)));
  if (array.bytes > 0) memset(array.memory.get(), 0x5b, array.bytes);
  view.data = array.memory.get() + (view.count == 0 ? 0 : before * size_of(dtype));
  return array;
}

// Element i of a view, as a view of its own.
inline View one_of(const View& view, int64_t i) {
  View one = view;
  one.data = static_cast<char*>(view.data) + offset_of(view, i) * size_of(view.dtype);
  one.contiguous = true;
  one.dims = 1;
  one.count = one.sizes[0] = one.strides[0] = 1;
  return one;
}

template <class Next>
Array filled(DType dtype, const std::vector<int64_t>& sizes, Layout layout, Next&& next) {
  Array array = allocate(dtype, sizes, layout);
  for (int64_t i = 0; i < array.view.count; ++i) array.set(i, next());
  return array;
}

inline double epsilon(DType dtype) {
  return dtype == DType::f64   ? 0x1p-52
         : dtype == DType::f32 ? 0x1p-23
         : dtype == DType::f16 ? 0x1p-10
                               : 0x1p-7;
}

// NOTE [tolerance]: an error is counted in units of the last place of the output's dtype (of the
// compute type, if that is coarser) at the larger of the expected value, the dtype's smallest normal
// number and `scale`, the size of the terms that a sum or a difference was made of. Elementwise results
// come from the same operations and should agree to the last bit or so; sums over lanes, warps and
// blocks are added in another order. Both engines round once more at the store.
constexpr double kLimit = 16;

inline double error_in_ulps(double got, double want, double scale, DType dtype, bool wide) {
  if (std::isnan(want) || std::isnan(got)) return std::isnan(want) && std::isnan(got) ? 0 : INFINITY;
  if (std::isinf(want) || std::isinf(got)) return want == got ? 0 : INFINITY;
  const double unit = wide ? epsilon(dtype) : std::max(epsilon(dtype), epsilon(DType::f32));
  const double smallest = dtype == DType::f16 ? 0x1p-14 : dtype == DType::f64 && wide ? 0x1p-1022 : 0x1p-126;
  return std::fabs(got - want) / (unit * std::max({std::fabs(want), scale, smallest}));
}

// The first difference, or an empty string. `scale` is asked for each element.
template <class Scale>
std::string compare(const char* name, const Array& got, const Array& want, bool wide, double& worst,
                    Scale&& scale) {
  if (want.view.data == nullptr) return "";
  std::vector<bool> inside(want.bytes, false);
  const char* start = want.memory.get();
  for (int64_t i = 0; i < want.view.count; ++i) {
    const size_t at = size_t(static_cast<char*>(want.view.data) - start) +
                      size_t(offset_of(want.view, i) * size_of(want.view.dtype));
    for (int b = 0; b < size_of(want.view.dtype); ++b) inside[at + size_t(b)] = true;
    const double error = error_in_ulps(got.at(i), want.at(i), scale(i), want.view.dtype, wide);
    worst = std::max(worst, error);
    if (error <= kLimit) continue;
    char text[200];
    snprintf(text, sizeof(text), "%s[%lld] is %.9g, expected %.9g: %.3g ulp", name, (long long)i, got.at(i),
             want.at(i), error);
    return text;
  }
  for (size_t b = 0; b < want.bytes; ++b) {
    if (!inside[b] && got.memory.get()[b] != start[b]) return std::string(name) + ": a gap was written to";
  }
  return "";
}

inline bool same_bits(const Array& a, const Array& b) {
  return a.bytes == b.bytes && (a.bytes == 0 || memcmp(a.memory.get(), b.memory.get(), a.bytes) == 0);
}

using Arrays = std::vector<Array>;

inline Arrays clone(const Arrays& arrays) {
  Arrays copies;
  for (const Array& array : arrays) copies.push_back(array.clone());
  return copies;
}

inline bool same_bits(const Arrays& a, const Arrays& b) {
  return std::equal(a.begin(), a.end(), b.begin(),
                    [](const Array& x, const Array& y) { return same_bits(x, y); });
}

// Reproducible choices.
struct Random {
  std::mt19937_64 engine;

  double uniform(double low, double high) { return low + (high - low) * double(engine() >> 11) * 0x1p-53; }
  int below(int n) { return int(engine() % uint64_t(n)); }
  bool coin() { return below(2) == 1; }
  DType dtype() {
    const DType all[] = {DType::f32, DType::f64, DType::bf16, DType::f16};
    return all[below(4)];
  }
};

}  // namespace parity
