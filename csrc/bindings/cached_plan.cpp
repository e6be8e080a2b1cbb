#include "bindings/cached_plan.h"

#include <algorithm>

#include "bindings/update.h"
#include "core/rounding.h"

namespace py = pybind11;

namespace fusestep {
namespace {

// After a failed call: what a step would raise is left to the step that raises it, but an interrupt is passed
// on.
bool refused() {
  if (!PyErr_ExceptionMatches(PyExc_Exception)) throw py::error_already_set();
  PyErr_Clear();
  return false;
}

// A property or a method without arguments of plain tensors, found in the class once.
class Member {
 public:
  explicit Member(const char* name) : name_(PyUnicode_InternFromString(name)) {
    PyObject* found = py::object(py::module_::import("torch").attr("Tensor").attr(name)).release().ptr();
    if (Py_TYPE(found) == &PyGetSetDescr_Type) {
      get_ = reinterpret_cast<PyGetSetDescrObject*>(found)->d_getset;
    } else if (Py_TYPE(found) == &PyMethodDescr_Type) {
      PyMethodDef* const method = reinterpret_cast<PyMethodDescrObject*>(found)->d_method;
      if (method->ml_flags == METH_NOARGS) call_ = method->ml_meth;
    }
  }
  // New references, or null with an error.
  PyObject* get(PyObject* tensor) const {
    return get_ != nullptr ? get_->get(tensor, get_->closure) : PyObject_GetAttr(tensor, name_);
  }
  PyObject* call(PyObject* tensor) const {
    return call_ != nullptr ? call_(tensor, nullptr) : PyObject_CallMethodNoArgs(tensor, name_);
  }

 private:
  PyObject* name_;
  PyGetSetDef* get_ = nullptr;
  PyCFunction call_ = nullptr;
};

bool same(const py::object& a, const py::object& b) { return (!a && !b) || (a && b && a.equal(b)); }

bool same_states(const StepGroup& a, const StepGroup& b) {
  return std::equal(a.keys.begin(), a.keys.end(), b.keys.begin(), b.keys.end(), same) &&
         same(a.average_key, b.average_key) && same(a.lost_key, b.lost_key) && a.max_norm == b.max_norm &&
         a.decay == b.decay && a.rounding == b.rounding;
}

// Whether memory meets that of one of `extents`, which are in order and apart.
bool meets(const std::vector<Extent>& extents, const Extent& memory) {
  const auto ends_before = [](const Extent& extent, uintptr_t at) { return extent.end <= at; };
  const auto at = std::lower_bound(extents.begin(), extents.end(), memory.begin, ends_before);
  return at != extents.end() && at->begin < memory.end;
}

}  // namespace

bool CachedPlan::step(const OptimizerParts& parts, const py::object& describe, const py::object& norm,
                      const py::object& changed) {
  if (busy_ || broken_) return false;
  struct Busy {
    CachedPlan& plan;
    ~Busy() {
      plan.let_go();
      plan.busy_ = false;
    }
  } busy{*this};
  busy_ = true;
  // What may run Python code comes first. Then nothing can change any more, until the GIL is released.
  if (!options_fit(parts, describe) || !collect(parts.groups.ptr())) return false;
  if (!tensors_fit() || !states_fit(parts.state.ptr())) return false;
  if (!norm.is_none() && !clips()) return false;
  run(norm);
  changed(written_params());
  return true;
}

bool CachedPlan::options_fit(const OptimizerParts& parts, const py::object& describe) {
  using Change = Watched::Change;
  PyObject* const groups = parts.groups.ptr();
  if (defaults_.compare(parts.defaults.ptr(), nullptr) != Change::none) return false;
  for (size_t i = 0; i < groups_.size(); ++i) {
    if (!PyList_CheckExact(groups) || size_t(PyList_GET_SIZE(groups)) != groups_.size()) return false;
    const py::object options = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(groups, Py_ssize_t(i)));
    const Change change = groups_[i].watched.compare(options.ptr(), groups_[i].step.hyper);
    if (change == Change::keys) return false;
    if (change == Change::other && !describe_anew(groups_[i], options.ptr(), describe)) return false;
  }
  return true;
}

bool CachedPlan::describe_anew(Group& group, PyObject* options, const py::object& describe) {
  group.watched.remember(options);  // before they are read: what changes meanwhile is noticed next time
  broken_ = true;
  PyObject* described = PyObject_CallOneArg(describe.ptr(), options);
  if (described == nullptr) return refused();
  const py::object result = py::reinterpret_steal<py::object>(described);
  if (result.is_none()) return false;
  StepGroup now;
  read_group(info_, result, now);
  if (now.asks_device || !same_states(now, group.step)) return false;
  std::copy(now.hyper, now.hyper + kMaxHyper, group.step.hyper);
  group.step.grad_scale = now.grad_scale;
  for (size_t i = 0; i < items_.size(); ++i) {
    if (&groups_[items_[i].group] == &group) updates_[i].grad_scale = now.grad_scale;
  }
  broken_ = false;
  return true;
}

bool CachedPlan::collect(PyObject* groups) {
  static PyObject* const params_key = PyUnicode_InternFromString("params");
  static const Member grad("grad"), is_inference("is_inference");
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (size_t(PyList_GET_SIZE(groups)) != groups_.size()) return false;
    PyObject* const group = PyList_GET_ITEM(groups, Py_ssize_t(g));
    PyObject* const list = PyDict_CheckExact(group) ? PyDict_GetItemWithError(group, params_key) : nullptr;
    if (list == nullptr || !PyList_CheckExact(list)) return false;
    held_.push_back(Py_NewRef(list));
    for (Py_ssize_t i = 0; i < groups_[g].count; ++i) {
      if (PyList_GET_SIZE(list) != groups_[g].count) return false;
      PyObject* const param = Py_NewRef(PyList_GET_ITEM(list, i));
      params_.push_back(param);
      PyObject* own = is_plain(param) ? grad.get(param) : nullptr;
      if (own == nullptr) return PyErr_Occurred() != nullptr && refused();
      if (own == Py_None) Py_CLEAR(own);
      grads_.push_back(own);
      if (own == nullptr) continue;
      PyObject* const answer = is_inference.call(param);
      if (answer == nullptr) return refused();
      Py_DECREF(answer);
      if (answer != Py_False) return false;
    }
  }
  return true;
}

bool CachedPlan::tensors_fit() {
  elements_ = 0;
  for (size_t i = 0; i < params_.size(); ++i) {
    if (grads_[i] == nullptr) continue;
    if (item_of_[i] < 0) return false;
    const size_t number = size_t(item_of_[i]);
    Item& item = items_[number];
    void* at;
    if (!item.param->fits(params_[i], at) || at != item.param_at) return false;
    if (!gradient_fits(item, updates_[number], grads_[i])) return false;
    elements_ += item.param->count();
  }
  return true;
}

bool CachedPlan::gradient_fits(Item& item, UpdateItem& update, PyObject* grad) {
  void* at;
  if (!item.grad->fits(grad, at)) return false;
  if (at == item.grad_at || item.grad->count() == 0) return true;
  if (meets(written_, item.grad->extent(at))) return false;
  item.grad_at = update.grad.data = at;
  return true;
}

bool CachedPlan::states_fit(PyObject* state) {
  if (Py_TYPE(state) != state_type_ || size_t(PyDict_GET_SIZE(state)) != entries_.size()) return false;
  PyObject *param, *states;
  Py_ssize_t at = 0;
  for (const Entry& entry : entries_) {
    if (!PyDict_Next(state, &at, &param, &states)) return false;
    if (entry.param < 0) continue;
    if (param != params_[size_t(entry.param)]) return false;
    if (grads_[size_t(entry.param)] != nullptr && !parts_fit(entry, states)) return false;
  }
  return true;
}

bool CachedPlan::parts_fit(const Entry& entry, PyObject* state) {
  const Item& item = items_[size_t(item_of_[size_t(entry.param)])];
  if (!PyDict_CheckExact(state) || size_t(PyDict_GET_SIZE(state)) != entry.keys.size()) return false;
  const bool hold = is_worth_releasing(elements_);  // somebody may replace a state meanwhile
  const Part* part = &parts_[item.first_part];
  PyObject *key, *value;
  Py_ssize_t position = 0;
  for (const Key& expected : entry.keys) {
    if (!PyDict_Next(state, &position, &key, &value) || key != expected.key.ptr()) return false;
    if (!expected.is_part) continue;
    void* at;
    if (!part->layout->fits(value, at) || at != part->at) return false;
    if (hold) held_.push_back(Py_NewRef(value));
    ++part;
  }
  return true;
}

bool CachedPlan::clips() const {
  for (size_t i = 0; i < params_.size(); ++i) {
    if (grads_[i] != nullptr && updates_[size_t(item_of_[i])].max_norm > 0) return true;
  }
  return false;
}

void CachedPlan::count(size_t item) {
  const View* const numbers = numbers_.data() + item * size_t(info_.number_count);
  count_on(
      info_, updates_[item], [&](int i) { return load_floating<double>(numbers[i], 0); },
      [&](int i, double number) { return rounded_to(numbers[i].dtype, number); });
}

void CachedPlan::run(const py::object& norm) {
  present_.clear();
  for (size_t i = 0; i < params_.size(); ++i) {
    if (grads_[i] != nullptr) present_.push_back(size_t(item_of_[i]));
  }
  if (present_.empty()) return;
  for (const size_t item : present_) count(item);
  const UpdateItem* items = updates_.data();
  if (present_.size() < updates_.size()) {
    some_.clear();
    for (const size_t item : present_) some_.push_back(updates_[item]);
    items = some_.data();
  }
  double* const to = norm_of(norm, first_.device);
  const UpdateArgs args{items, int64_t(present_.size()), false, Gradients::kept, to, nullptr};
  launch_step({info_, op_, params_[0], first_, elements_}, args, to, [&] {
    const size_t count = size_t(info_.number_count);
    for (const size_t item : present_) {
      for (size_t i = 0; i < count; ++i) {
        store_floating(numbers_[item * count + i], 0, updates_[item].number[i].after);
      }
    }
  });
}

py::list CachedPlan::written_params() const {
  py::list list(present_.size());
  Py_ssize_t at = 0;
  for (size_t i = 0; i < params_.size(); ++i) {
    if (grads_[i] != nullptr) PyList_SET_ITEM(list.ptr(), at++, Py_NewRef(params_[i]));
  }
  return list;
}

void CachedPlan::let_go() {
  for (auto* objects : {&params_, &grads_, &held_}) {
    for (PyObject* object : *objects) Py_XDECREF(object);
    objects->clear();
  }
}

}  // namespace fusestep
