#include <algorithm>
#include <cmath>
#include <string>

#include "bindings/step_plan.h"

namespace py = pybind11;

namespace fusestep {
namespace {

Rounding rounding_of(const std::string& name) {
  if (name == "nearest") return Rounding::nearest;
  if (name == "stochastic") return Rounding::stochastic;
  if (name == "kahan") return Rounding::kahan;
  throw py::value_error("`rounding` must be \"nearest\", \"stochastic\" or \"kahan\", got \"" + name + "\"");
}

// Where a hyper-parameter lies, if that is on a device; else absent.
View hyper_on_device(const OpInfo& info, int number, const py::object& value) {
  if (PyFloat_Check(value.ptr()) || PyLong_Check(value.ptr())) return View();
  const std::string name = info.hyper[number];
  Array array;
  read_array(value, name.c_str(), array);
  if (array.device == Device::cpu) return View();
  if (array.count != 1 || !is_floating(array.dtype)) {
    throw Unsupported{"`" + name + "` is not a single floating point number"};
  }
  View view = view_of(array);
  view.contiguous = true;
  return view;
}

}  // namespace

void read_group(const OpInfo& info, const py::tuple& from, StepGroup& group) {
  const py::tuple hyper = from[0];
  if (int(hyper.size()) != info.hyper_count || info.hyper_count > kMaxHyper) {
    throw py::value_error(std::string(info.name) + " takes " + std::to_string(info.hyper_count) +
                          " hyper-parameters, got " + std::to_string(hyper.size()));
  }
  for (size_t i = 0; i < hyper.size(); ++i) {
    group.hyper_at[i] = hyper_on_device(info, int(i), hyper[i]);
    group.hyper[i] = present(group.hyper_at[i]) ? NAN : py::cast<double>(hyper[i]);
    group.asks_device = group.asks_device || present(group.hyper_at[i]);
  }
  group.grad_scale = py::cast<double>(from[1]);
  for (const py::handle key : py::tuple(from[2])) {
    const std::string name = py::cast<std::string>(key);
    const auto end = info.states + info.state_count;
    const auto at = std::find(info.states, end, name);
    if (at == end) throw py::key_error(std::string(info.name) + " keeps no state `" + name + "`");
    group.state_at[group.keys.size()] = int(at - info.states);
    group.keys.push_back(py::reinterpret_borrow<py::object>(key));
  }
  if (from[7].is_none()) return;
  const py::tuple extras = from[7];
  group.max_norm = py::cast<double>(extras[0]);
  group.decay = py::cast<double>(extras[1]);
  if (!extras[2].is_none()) group.average_key = extras[2];
  if (!extras[3].is_none()) group.lost_key = extras[3];
  group.rounding = rounding_of(py::cast<std::string>(extras[4]));
}

}  // namespace fusestep
