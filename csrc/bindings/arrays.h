// The border: arrays of torch and NumPy become Views.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "core/view.h"

namespace fusestep {

constexpr int kMaxArrayDims = 64;

// An array as its library describes it. Pointers are borrowed: the caller holds the object.
struct Array {
  void* data = nullptr;
  DType dtype = DType::f32;
  Device device = Device::cpu;
  int device_index = 0;
  bool writeable = true;
  int dims = 0;
  int64_t count = 1;
  int64_t sizes[kMaxArrayDims];
  int64_t strides[kMaxArrayDims];  // in elements
};

// What the kernels cannot take (a dtype, a layout, a device, a tensor without memory). Python falls back
// to torch's own function; to NumPy users it is the TypeError that it derives from.
struct Unsupported {
  std::string reason;
};

// Throws Unsupported, or TypeError if `object` is no array at all. `name` is for messages. Outputs and
// counters are not views of anything: for them the question for torch's negative bit can be spared.
void read_array(pybind11::handle object, const char* name, Array& array, bool may_be_negated = true);

// "float32 of shape (3, 4)"
std::string describe(const Array& array);
std::string describe_shape(const Array& array, int first, int last);

bool is_row_major(const Array& array);
bool same_shape(const Array& a, const Array& b);

// All dimensions, or all but `class_dim`, which then comes last. Dimensions are merged where strides
// allow. Throws Unsupported if more than kMaxDims remain.
View view_of(const Array& array);
View row_view_of(const Array& array, int class_dim);

// Two elements of the array share memory (broadcast or overlapping strides).
bool overlaps_itself(const Array& array);

// First and one-past-last byte touched.
struct Extent {
  uintptr_t begin, end;
};
Extent extent_of(const Array& array);
bool overlap(const Array& a, const Array& b);

// The same elements at the same places: then reading and writing block by block is safe.
bool same_memory(const Array& a, const Array& b);

// torch's way to announce its DLPack functions can be switched off, to test the road for torch < 2.10.
void use_exchange_api(bool use);
bool uses_exchange_api();

}  // namespace fusestep
