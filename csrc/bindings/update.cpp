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
  bool maximize;
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
  std::vector<Extent> params;
  std::deque<Group> groups;  // items point into these
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
  group.maximize = py::cast<bool>(from[1]);
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
  static const py::object key = py::reinterpret_steal<py::object>(PyUnicode_InternFromString("step"));
  Counter counter;
  counter.state = state;
  const py::object step = state[key];
  if (PyFloat_Check(step.ptr()) || PyLong_Check(step.ptr())) {
    counter.plain = true;
    counter.value = py::cast<double>(step) + 1;
    return counter;
  }
  Array array;
  read_array(step, "step", array);
  if (array.count != 1 || !is_floating(array.dtype)) {
    throw std::runtime_error("state `step` must be a single floating point number, got " + describe(array));
  }
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
               const py::object& state, bool fresh, Plan& plan) {
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
    if (overlap(p, s) || overlap(g, s)) {
      throw std::runtime_error(std::string(info.name) + ": state `" + name +
                               "` shares memory with its parameter or gradient");
    }
  }
  item.hyper = group.hyper;
  item.grad_scale = group.maximize ? -1 : 1;
  item.step = fresh ? 1 : 2;
  if (info.counts_steps) {
    plan.counters.push_back(read_counter(state));
    item.step = plan.counters.back().value;
  }
  if (plan.items.empty()) {
    plan.first = p;
    plan.first_param = param;
  } else if (p.device != plan.first.device || p.device_index != plan.first.device_index) {
    throw Unsupported{"parameters are on several devices"};
  }
  plan.elements += p.count;
  plan.params.push_back(extent_of(p));
  plan.alive.push_back(param);
  plan.alive.push_back(grad);
  plan.items.push_back(item);
}

// Parameters that share memory are updated one after another, as a loop over them would.
bool share_memory(std::vector<Extent>& extents) {
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < extents.size(); ++i) {
    if (extents[i].begin < extents[i - 1].end) return true;
  }
  return false;
}

}  // namespace

void run_step(const OpInfo& info, int op, const py::list& groups) {
  Plan plan;
  for (const py::handle from : groups) {
    const py::tuple tuple = py::reinterpret_borrow<py::tuple>(from);
    Group& group = plan.groups.emplace_back();
    read_group(info, tuple, group);
    const py::list params = tuple[3], grads = tuple[4], states = tuple[5];
    const py::object fresh = tuple[6];
    const bool any_fresh = py::len(fresh) > 0;
    if (grads.size() != params.size() || states.size() != params.size()) {
      throw py::value_error("as many gradients and states as parameters are needed: got " +
                            std::to_string(params.size()) + " parameters, " + std::to_string(grads.size()) +
                            " gradients");
    }
    for (size_t i = 0; i < params.size(); ++i) {
      const bool is_fresh = any_fresh && fresh.contains(py::int_(i));
      read_item(info, group, params[i], grads[i], states[i], is_fresh, plan);
    }
  }
  if (plan.items.empty()) return;

  UpdateArgs args{plan.items.data(), int64_t(plan.items.size()), share_memory(plan.params), nullptr};
  Launch launch(plan.first_param, plan.first, Shape::update, args.count, plan.elements);
  args.stream = launch.stream();
  for (const Counter& counter : plan.counters) advance(counter);
  launch.run([&] { launch.table().kernels[op].update(args); });
  launch.check(info.name);
}

}  // namespace fusestep
