#include "bindings/arrays.h"

namespace fusestep {
namespace {

const char* name_of(DType dtype) {
  static const char* const names[] = {"float32", "float64", "bfloat16", "float16", "int8",   "int16",
                                      "int32",   "int64",   "uint8",    "uint16",  "uint32", "uint64"};
  return names[int(dtype)];
}

// Appends dimension d to the view, or widens the last one if the two are one run of memory.
void add_dimension(View& view, int64_t size, int64_t stride) {
  if (size == 1) return;
  if (view.dims > 0 && view.strides[view.dims - 1] == size * stride) {
    view.sizes[view.dims - 1] *= size;
    view.strides[view.dims - 1] = stride;
    return;
  }
  if (view.dims == kMaxDims) throw Unsupported{"an array has too many dimensions"};
  view.sizes[view.dims] = size;
  view.strides[view.dims++] = stride;
}

View empty_view(const Array& array) {
  View view;
  view.data = array.data;
  view.dtype = array.dtype;
  view.device = array.device;
  view.device_index = array.device_index;
  view.count = array.count;
  // An operand that is there but has no elements still counts as present.
  static char nothing[16];
  if (view.data == nullptr) view.data = nothing;
  return view;
}

}  // namespace

bool is_row_major(const Array& array) {
  int64_t expected = 1;
  for (int d = array.dims - 1; d >= 0; --d) {
    if (array.sizes[d] != 1 && array.strides[d] != expected) return false;
    expected *= array.sizes[d];
  }
  return true;
}

std::string describe_shape(const Array& array, int first, int last) {
  std::string text = "(";
  for (int d = first; d < last; ++d) {
    text += std::to_string(array.sizes[d]);
    if (d + 1 < last) text += ", ";
  }
  return text + (last - first == 1 ? ",)" : ")");
}

std::string describe(const Array& array) {
  return std::string(name_of(array.dtype)) + " of shape " + describe_shape(array, 0, array.dims);
}

bool same_shape(const Array& a, const Array& b) {
  if (a.dims != b.dims) return false;
  for (int d = 0; d < a.dims; ++d) {
    if (a.sizes[d] != b.sizes[d]) return false;
  }
  return true;
}

View view_of(const Array& array) {
  View view = empty_view(array);
  view.contiguous = is_row_major(array);
  if (!view.contiguous) {
    for (int d = 0; d < array.dims; ++d) add_dimension(view, array.sizes[d], array.strides[d]);
  }
  return view;
}

View row_view_of(const Array& array, int class_dim) {
  View view = empty_view(array);
  for (int d = 0; d < array.dims; ++d) {
    if (d != class_dim) add_dimension(view, array.sizes[d], array.strides[d]);
  }
  if (view.dims == kMaxDims) throw Unsupported{"an array has too many dimensions"};
  const int64_t classes = array.sizes[class_dim], stride = array.strides[class_dim];
  const bool one_row = view.dims == 0, rows_adjoin = view.dims == 1 && view.strides[0] == classes;
  view.sizes[view.dims] = classes;
  view.strides[view.dims++] = classes == 1 ? 1 : stride;
  view.contiguous = (stride == 1 || classes == 1) && (one_row || rows_adjoin);
  return view;
}

bool overlaps_itself(const Array& array) {
  if (array.count <= 1) return false;
  // Smallest stride first, each dimension must step over everything the ones before it cover.
  bool used[kMaxArrayDims] = {};
  int64_t covered = 1;
  for (int i = 0; i < array.dims; ++i) {
    int next = -1;
    for (int d = 0; d < array.dims; ++d) {
      if (used[d]) continue;
      if (next < 0 || std::abs(array.strides[d]) < std::abs(array.strides[next])) next = d;
    }
    used[next] = true;
    if (array.sizes[next] == 1) continue;
    if (std::abs(array.strides[next]) < covered) return true;
    covered += std::abs(array.strides[next]) * (array.sizes[next] - 1);
  }
  return false;
}

Extent extent_of(const Array& array) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(array.data);
  if (array.count == 0) return {at, at};
  int64_t low = 0, high = 0;
  for (int d = 0; d < array.dims; ++d) {
    const int64_t reach = array.strides[d] * (array.sizes[d] - 1);
    (reach < 0 ? low : high) += reach;
  }
  const int64_t item = size_of(array.dtype);
  return {at + uintptr_t(low * item), at + uintptr_t((high + 1) * item)};
}

bool overlap(const Array& a, const Array& b) {
  const Extent x = extent_of(a), y = extent_of(b);
  return x.begin < y.end && y.begin < x.end;
}

bool same_memory(const Array& a, const Array& b) {
  if (a.data != b.data || a.dtype != b.dtype || !same_shape(a, b)) return false;
  for (int d = 0; d < a.dims; ++d) {
    if (a.sizes[d] != 1 && a.strides[d] != b.strides[d]) return false;
  }
  return true;
}

}  // namespace fusestep
