// Dtype, device, sizes and strides of a tensor, remembered to see whether a later tensor has the same.
#pragma once

#include <dlpack/dlpack.h>
#include <pybind11/pybind11.h>

#include "bindings/arrays.h"

namespace fusestep {

// Of one of torch's own two classes: a subclass may mean something else by its memory.
bool is_plain(PyObject* tensor);

class Layout {
 public:
  // Throws Unsupported if the tensor cannot be compared: another class than torch's own two, no exchange API,
  // too many dimensions. `may_be_negated`: its negative bit matters.
  Layout(pybind11::handle tensor, bool may_be_negated);

  bool operator==(const Layout& other) const;

  // Whether `tensor` has the same layout and memory of its own; `data` is where its elements are then.
  // Unless the answer is no, this runs no Python code and keeps the GIL. It leaves no error behind.
  bool fits(PyObject* tensor, void*& data) const;

  int64_t count() const { return count_; }
  Extent extent(const void* data) const;

 private:
  const DLPackExchangeAPI* api_;
  DLDataType dtype_;
  DLDevice device_;
  int dims_;
  bool may_be_negated_;
  int64_t count_, low_, high_;   // bytes from the first element to the ends
  int64_t shape_[2 * kMaxDims];  // sizes, then strides
};

}  // namespace fusestep
