#include "bindings/layout.h"

#include <algorithm>

#include "bindings/exchange.h"

namespace py = pybind11;

namespace fusestep {
namespace {

bool same(DLDataType a, DLDataType b) { return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes; }

bool same(DLDevice a, DLDevice b) { return a.device_type == b.device_type && a.device_id == b.device_id; }

// By the keys it dispatches on: Tensor.is_neg() would release the GIL.
bool is_negated(PyObject* tensor) {
  static PyObject* const has = PyUnicode_InternFromString("has");
  static PyObject* const keys_of =
      py::object(py::module_::import("torch._C").attr("_dispatch_keys")).release().ptr();
  static PyObject* const negative =
      py::object(py::module_::import("torch._C").attr("DispatchKey").attr("Negative")).release().ptr();
  const py::object keys = py::reinterpret_steal<py::object>(PyObject_CallOneArg(keys_of, tensor));
  PyObject* const answer = keys ? PyObject_CallMethodOneArg(keys.ptr(), has, negative) : nullptr;
  if (answer == nullptr) PyErr_Clear();
  Py_XDECREF(answer);
  return answer != Py_False;
}

}  // namespace

bool is_plain(PyObject* tensor) {
  static PyObject* const types[] = {
      py::object(py::module_::import("torch").attr("Tensor")).release().ptr(),
      py::object(py::module_::import("torch.nn").attr("Parameter")).release().ptr()};
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(tensor));
  return type == types[0] || type == types[1];
}

Layout::Layout(py::handle tensor, bool may_be_negated) : api_(exchange_api_of(tensor)) {
  if (!is_plain(tensor.ptr())) throw Unsupported{"a tensor of another class than torch's own"};
  Array array;
  read_array(tensor, "tensor", array, false);
  DLTensor found;
  if (!uses_exchange_api() || api_ == nullptr ||
      api_->dltensor_from_py_object_no_sync(tensor.ptr(), &found) != 0) {
    PyErr_Clear();
    throw Unsupported{"a tensor without the exchange API"};
  }
  if (found.ndim > kMaxDims || found.strides == nullptr) throw Unsupported{"a tensor of many dimensions"};
  dtype_ = found.dtype;
  device_ = found.device;
  dims_ = found.ndim;
  may_be_negated_ = may_be_negated && (array.count == 1 || !is_row_major(array));
  count_ = array.count;
  for (int d = 0; d < dims_; ++d) {
    shape_[d] = found.shape[d];
    shape_[dims_ + d] = found.strides[d];
  }
  if (may_be_negated_ && is_negated(tensor.ptr())) throw Unsupported{"a tensor with its negative bit set"};
  const Extent extent = extent_of(array);
  low_ = int64_t(extent.begin - reinterpret_cast<uintptr_t>(array.data));
  high_ = int64_t(extent.end - reinterpret_cast<uintptr_t>(array.data));
}

bool Layout::operator==(const Layout& other) const {
  return api_ == other.api_ && same(dtype_, other.dtype_) && same(device_, other.device_) &&
         dims_ == other.dims_ && may_be_negated_ == other.may_be_negated_ &&
         std::equal(shape_, shape_ + 2 * dims_, other.shape_);
}

bool Layout::fits(PyObject* tensor, void*& data) const {
  if (!is_plain(tensor)) return false;
  DLTensor found;
  if (api_->dltensor_from_py_object_no_sync(tensor, &found) != 0) {
    PyErr_Clear();
    return false;
  }
  if (!same(found.dtype, dtype_) || !same(found.device, device_) || found.ndim != dims_) return false;
  for (int d = 0; d < dims_; ++d) {
    if (found.shape[d] != shape_[d] || found.strides[d] != shape_[dims_ + d]) return false;
  }
  if (found.data == nullptr && count_ > 0) return false;
  data = static_cast<char*>(found.data) + found.byte_offset;
  const bool aligned = reinterpret_cast<uintptr_t>(data) % (dtype_.bits / 8) == 0;
  if (device_.device_type != kDLCPU && !aligned) return false;
  return !may_be_negated_ || !is_negated(tensor);
}

Extent Layout::extent(const void* data) const {
  const uintptr_t at = reinterpret_cast<uintptr_t>(data);
  return {at + uintptr_t(low_), at + uintptr_t(high_)};
}

}  // namespace fusestep
