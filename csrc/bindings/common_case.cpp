#include "bindings/common_case.h"

#include <dlpack/dlpack.h>

#include <algorithm>

#include "bindings/arrays.h"
#include "bindings/exchange.h"
#include "bindings/layout.h"

namespace py = pybind11;

namespace fusestep {
namespace {

// Of modules that stay, so the references are never given back.
PyObject* attribute_of(const char* module, const char* name) {
  return py::object(py::module_::import(module).attr(name)).release().ptr();
}

py::object owned(PyObject* result) {
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

// A function without arguments that returns a number or a bool, or None for false.
bool is_true(PyObject* function) {
  const int truth = PyObject_IsTrue(owned(PyObject_CallNoArgs(function)).ptr());
  if (truth < 0) throw py::error_already_set();
  return truth != 0;
}

bool nothing_listens() {
  static PyObject* const askers[] = {attribute_of("torch._C", "_are_functorch_transforms_active"),
                                     attribute_of("torch._C", "_len_torch_dispatch_stack"),
                                     attribute_of("torch._C", "_len_torch_function_stack"),
                                     attribute_of("torch._C", "_get_tracing_state")};
  if (std::any_of(std::begin(askers), std::end(askers), is_true)) return false;
  static PyObject* const forward_ad = attribute_of("torch.autograd.forward_ad", "__dict__");
  static PyObject* const level = PyUnicode_InternFromString("_current_level");
  PyObject* const found = PyDict_GetItemWithError(forward_ad, level);
  return found != nullptr && PyLong_AsLong(found) < 0;
}

bool is_floating(DLDataType type) {
  return (type.code == kDLFloat && type.bits >= 16) || (type.code == kDLBfloat && type.bits == 16);
}

bool are_alike(const DLTensor& a, const DLTensor& b) {
  return a.dtype.code == b.dtype.code && a.dtype.bits == b.dtype.bits && a.ndim == b.ndim &&
         a.device.device_type == b.device.device_type && a.device.device_id == b.device.device_id &&
         std::equal(a.shape, a.shape + a.ndim, b.shape);
}

// All have memory that the kernels can walk. (What a DLTensor borrows stays as long as its tensor.)
bool are_strided_alike(const py::tuple& operands) {
  const DLPackExchangeAPI* const api = exchange_api_of(operands[0]);
  if (api == nullptr || !uses_exchange_api()) return false;
  DLTensor first, other;
  if (api->dltensor_from_py_object_no_sync(operands[0].ptr(), &first) != 0) {
    PyErr_Clear();
    return false;
  }
  if (!is_floating(first.dtype)) return false;
  for (size_t i = 1; i < operands.size(); ++i) {
    if (api->dltensor_from_py_object_no_sync(operands[i].ptr(), &other) != 0) {
      PyErr_Clear();
      return false;
    }
    if (!are_alike(first, other)) return false;
  }
  return true;
}

bool requires_grad(PyObject* tensor) {
  static PyObject* const name = PyUnicode_InternFromString("requires_grad");
  return owned(PyObject_GetAttr(tensor, name)).ptr() == Py_True;
}

}  // namespace

std::optional<bool> common_case(const py::tuple& operands) {
  const auto every = [&](auto&& fits) {
    for (size_t i = 0; i < operands.size(); ++i) {
      if (!fits(operands[i].ptr())) return false;
    }
    return true;
  };
  if (!every(is_plain) || !nothing_listens() || !are_strided_alike(operands)) return std::nullopt;
  static PyObject* const grad_mode = attribute_of("torch", "is_grad_enabled");
  return is_true(grad_mode) && !every([](PyObject* tensor) { return !requires_grad(tensor); });
}

}  // namespace fusestep
