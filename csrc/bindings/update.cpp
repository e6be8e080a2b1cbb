#include "bindings/update.h"

#include <algorithm>
#include <deque>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/engines.h"

namespace py = pybind11;

namespace fusestep {
namespace {

constexpr int kMaxHyper = 8;

struct Group {
  double hyper[kMaxHyper];
  double grad_scale;
  int state_at[kMaxStates];  // the formula's number of each state the group keeps
  std::vector<py::object> keys;
};

// A step counter, to be advanced once everything has been checked.
struct Counter {
  py::object state;    // the dictionary
  View view;           // a 0-d array, or
  bool plain = false;  // a Python number, as old checkpoints have it
  double value = 0;
};

// Everything a step will touch.
struct Plan {
  std::vector<UpdateItem> items;
  std::vector<Counter> counters;
  std::vector<Extent> params, others;  // memory that is written: parameters, states and counters
  std::vector<Extent> grads;
  std::deque<Group> groups;       // items point into these
  std::vector<py::object> alive;  // the GIL is released: somebody may replace a state meanwhile
  int64_t elements = 0;
  Array first;  // the first parameter: where the step runs
  py::handle first_param;
};

void read_group(const OpInfo& info, const py::tuple& from, Group& group) {
  const py::tuple hyper = from[0];
  if (int(hyper.size()) != info.hyper_count || info.hyper_count > kMaxHyper) {
    throw py::value_error(std::string(info.name) + " takes " + std::to_string(info.hyper_count) +
                          " hyper-parameters, got " + std::to_string(hyper.size()));
  }
  for (size_t i = 0; i < hyper.size(); ++i) group.hyper[i] = py::cast<double>(hyper[i]);
  group.grad_scale = py::cast<double>(from[1]);
  for (const py::handle key : py::tuple(from[2])) {
    const std::string name = py::cast<std::string>(key);
    const auto end = info.states + info.state_count;
    const auto at = std::find(info.states, end, name);
    if (at == end) throw py::key_error(std::string(info.name) + " keeps no state `" + name + "`");
    group.state_at[group.keys.size()] = int(at - info.states);
    group.keys.push_back(py::reinterpret_borrow<py::object>(key));
  }
}

Counter read_counter(const py::object& state) {
  // Never released: a static object would be, after the interpreter has gone.
  static PyObject* const interned = PyUnicode_InternFromString("step");
  const py::handle key(interned);
  Counter counter;
  counter.state = state;
  const py::object step = state[key];
  if (PyFloat_Check(step.ptr()) || PyLong_Check(step.ptr())) {
    counter.plain = true;
    counter.value = py::cast<double>(step) + 1;
    return counter;
  }
  Array array;
  read_array(step, "step", array, false);
  if (array.count != 1) {
    throw std::runtime_error("state `step` must be a single number, got " + describe(array));
  }
  if (!is_floating(array.dtype)) throw Unsupported{"state `step` is an integer"};
  if (array.device != Device::cpu) throw Unsupported{"state `step` is not on the CPU"};
  counter.view = view_of(array);
  counter.view.contiguous = true;
  counter.value = load_floating<double>(counter.view, 0) + 1;
  return counter;
}

void advance(const Counter& counter) {
  if (counter.plain) {
    counter.state["step"] = py::float_(counter.value);
  } else {
    store_floating(counter.view, 0, counter.value);
  }
}

void need_tensor(const OpInfo& info, const Array& array, const char* name, const Array& param) {
  if (!is_floating(array.dtype)) throw Unsupported{"`" + std::string(name) + "` is not floating point"};
  if (array.device != param.device || array.device_index != param.device_index) {
    throw std::runtime_error(std::string(info.name) + ": `" + name +
                             "` and its parameter are on different devices");
  }
  if (!same_shape(array, param)) {
    throw std::runtime_error(std::string(info.name) + ": `" + name +
                             "` must have the shape of its parameter, got " + describe(array) + " for " +
                             describe(param));
  }
}

void need_writeable(const Array& array, const char* name) {
  if (!array.writeable) throw py::value_error("`" + std::string(name) + "` is read-only: " + describe(array));
  if (overlaps_itself(array)) throw Unsupported{"`" + std::string(name) + "` overlaps itself"};
}

// The same elements at the same places: then reading and writing block by block is safe.
bool same_memory(const Array& a, const Array& b) {
  if (a.data != b.data || a.dtype != b.dtype || !same_shape(a, b)) return false;
  for (int d = 0; d < a.dims; ++d) {
    if (a.sizes[d] != 1 && a.strides[d] != b.strides[d]) return false;
  }
  return true;
}

bool overlap(const Array& a, const Array& b) {
  const Extent x = extent_of(a), y = extent_of(b);
  return x.begin < y.end && y.begin < x.end;
}

void read_item(const OpInfo& info, const Group& group, const py::object& param, const py::object& grad,
               const py::object& state, bool first, Plan& plan) {
  Array p, g, s;
  UpdateItem item;
  read_array(param, "param", p);
  need_tensor(info, p, "param", p);
  need_writeable(p, "param");
  read_array(grad, "grad", g);
  need_tensor(info, g, "grad", p);
  if (overlap(p, g) && !same_memory(p, g)) throw Unsupported{"`grad` overlaps its parameter"};
  item.param = view_of(p);
  item.grad = view_of(g);
  for (size_t i = 0; i < group.keys.size(); ++i) {
    const char* name = info.states[group.state_at[i]];
    PyObject* found = PyObject_GetItem(state.ptr(), group.keys[i].ptr());
    if (found == nullptr) throw py::error_already_set();
    const py::object tensor = py::reinterpret_steal<py::object>(found);
    // The parameter is one of ours, so a state that is not fit for it is a mistake: torch would notice it
    // only after updating the parameters before this one.
    try {
      read_array(tensor, name, s);
      need_tensor(info, s, name, p);
      need_writeable(s, name);
      item.state[group.state_at[i]] = view_of(s);
    } catch (const Unsupported& unsupported) {
      throw std::runtime_error(std::string(info.name) + ": state " + unsupported.reason);
    }
    plan.alive.push_back(tensor);
    plan.others.push_back(extent_of(s));
    if (overlap(p, s) || overlap(g, s)) {
      throw std::runtime_error(std::string(info.name) + ": state `" + name +
                               "` shares memory with its parameter or gradient");
    }
  }
  item.hyper = group.hyper;
  item.grad_scale = group.grad_scale;
  item.step = first ? 1 : 2;  // for a rule that does not count, all that it may ask
  if (info.counts_steps) {
    plan.counters.push_back(read_counter(state));
    const Counter& counter = plan.counters.back();
    item.step = counter.value;
    if (!counter.plain) {
      const uintptr_t at = reinterpret_cast<uintptr_t>(counter.view.data);
      plan.others.push_back({at, at + uintptr_t(size_of(counter.view.dtype))});
    }
  }
  if (plan.items.empty()) {
    plan.first = p;
    plan.first_param = param;
  } else if (p.device != plan.first.device || p.device_index != plan.first.device_index) {
    throw Unsupported{"parameters are on several devices"};
  }
  plan.elements += p.count;
  plan.params.push_back(extent_of(p));
  plan.grads.push_back(extent_of(g));
  plan.alive.push_back(param);
  plan.alive.push_back(grad);
  plan.items.push_back(item);
}

bool before(const Extent& a, const Extent& b) { return a.begin < b.begin; }

// Sorts by address. Whether any two share memory.
bool share_memory(std::vector<Extent>& extents) {
  std::sort(extents.begin(), extents.end(), before);
  for (size_t i = 1; i < extents.size(); ++i) {
    if (extents[i].begin < extents[i - 1].end) return true;
  }
  return false;
}

// Parameters that share memory, or a gradient that lies in another parameter, are updated one after another,
// as a loop over them would. States that share memory are torch's to judge: the same parameter twice, say.
bool must_run_in_order(Plan& plan) {
  if (share_memory(plan.others)) throw Unsupported{"states share memory"};
  const std::vector<Extent> own = plan.params;
  if (share_memory(plan.params)) return true;
  for (size_t i = 0; i < plan.grads.size(); ++i) {
    const Extent& grad = plan.grads[i];
    auto at = std::lower_bound(plan.params.begin(), plan.params.end(), grad, before);
    if (at != plan.params.begin() && (at == plan.params.end() || (at - 1)->end > grad.begin)) --at;
    for (; at != plan.params.end() && at->begin < grad.end; ++at) {
      if (at->end > grad.begin && at->begin != own[i].begin) return true;
    }
  }
  return false;
}

}  // namespace

void run_step(const OpInfo& info, int op, const py::iterable& groups) {
  Plan plan;
  for (const py::handle from : groups) {
    const py::tuple tuple = py::reinterpret_borrow<py::tuple>(from);
    Group& group = plan.groups.emplace_back();
    read_group(info, tuple, group);
    const py::list params = tuple[3], grads = tuple[4], states = tuple[5], first = tuple[6];
    if (grads.size() != params.size() || states.size() != params.size() || first.size() != params.size()) {
      throw py::value_error("as many gradients and states as parameters are needed: got " +
                            std::to_string(params.size()) + " parameters, " + std::to_string(grads.size()) +
                            " gradients");
    }
    for (size_t i = 0; i < params.size(); ++i) {
      read_item(info, group, params[i], grads[i], states[i], first[i].cast<bool>(), plan);
    }
  }
  if (plan.items.empty()) return;

  UpdateArgs args{plan.items.data(), int64_t(plan.items.size()), must_run_in_order(plan), nullptr};
  Launch launch(plan.first_param, plan.first, Shape::update, args.count, plan.elements);
  args.stream = launch.stream();
  for (const Counter& counter : plan.counters) advance(counter);
  launch.run([&] { launch.table().kernels[op].update(args); });
  launch.check(info.name);
}

}  // namespace fusestep
