#include "bindings/watched.h"

#include <string.h>

#include "bindings/arrays.h"

namespace py = pybind11;

namespace fusestep {
namespace {

bool is_number(PyObject* value) { return PyFloat_CheckExact(value) || PyLong_CheckExact(value); }

bool is_immutable(PyObject* value) {
  if (PyTuple_CheckExact(value)) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i) {
      if (!is_immutable(PyTuple_GET_ITEM(value, i))) return false;
    }
    return true;
  }
  return is_number(value) || PyBool_Check(value) || PyUnicode_CheckExact(value) || value == Py_None;
}

// An option that also asks for a state is more than a number.
int hyper_named(const OpInfo& info, const char* name) {
  for (int i = 0; i < info.state_count; ++i) {
    if (strcmp(info.asked_by[i], name) == 0) return -1;
  }
  for (int i = 0; i < info.hyper_count; ++i) {
    if (strcmp(info.hyper[i], name) == 0) return i;
  }
  return -1;
}

}  // namespace

Watched::Watched(const OpInfo& info, const py::dict& options, const py::object& relevant) {
  for (const auto& [key, value] : options) {
    if (!PyUnicode_CheckExact(key.ptr())) throw Unsupported{"an option whose name is no string"};
    Option& option = options_.emplace_back();
    option.key = py::reinterpret_borrow<py::object>(key);
    option.relevant = relevant.contains(key);
    option.hyper_at = option.relevant ? hyper_named(info, PyUnicode_AsUTF8(key.ptr())) : -1;
  }
  remember(options.ptr());
}

Watched::Change Watched::compare(PyObject* options, double* hyper) {
  if (!PyDict_CheckExact(options) || size_t(PyDict_GET_SIZE(options)) != options_.size()) return Change::keys;
  Change change = Change::none;
  PyObject *key, *value;
  Py_ssize_t at = 0;
  for (Option& option : options_) {
    if (!PyDict_Next(options, &at, &key, &value) || key != option.key.ptr()) return Change::keys;
    if (!option.relevant || value == option.value.ptr()) continue;
    if (option.hyper_at < 0 || !is_number(value)) {
      change = Change::other;
      continue;
    }
    const double number = PyFloat_AsDouble(value);
    if (number == -1 && PyErr_Occurred()) {  // an integer too large for it
      PyErr_Clear();
      change = Change::other;
      continue;
    }
    hyper[option.hyper_at] = number;
    option.value = py::reinterpret_borrow<py::object>(value);
    if (change == Change::none) change = Change::hyper;
  }
  return change;
}

void Watched::remember(PyObject* options) {
  PyObject *key, *value;
  Py_ssize_t at = 0;
  for (Option& option : options_) {
    if (!PyDict_Next(options, &at, &key, &value)) return;
    const bool kept = option.relevant && is_immutable(value);
    option.value = kept ? py::reinterpret_borrow<py::object>(value) : py::object();
  }
}

}  // namespace fusestep
