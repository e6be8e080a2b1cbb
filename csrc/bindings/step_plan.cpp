#include "bindings/step_plan.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/rounding.h"

namespace py = pybind11;

namespace fusestep {
namespace {

void need_tensor(const OpInfo& info, const Array& array, const char* name, const Array& param) {
  if (!is_floating(array.dtype)) throw Unsupported{"`" + std::string(name) + "` is not floating point"};
  if (array.device != param.device || array.device_index != param.device_index) {
    throw std::runtime_error(std::string(info.name) + ": `" + name +
                             "` and its parameter are on different devices");
  }
}

// Those of `views` that are present lie where the parameter does.
void need_on_device(const Array& param, const View* views, int count) {
  for (int i = 0; i < count; ++i) {
    const bool together = views[i].device == param.device && views[i].device_index == param.device_index;
    if (present(views[i]) && !together) throw Unsupported{"numbers are on another device"};
  }
}

void need_shape(const OpInfo& info, const Array& array, const char* name, const Array& param) {
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

bool is_expanded(const Array& array) {
  for (int d = 0; d < array.dims; ++d) {
    if (array.sizes[d] > 1 && array.strides[d] == 0) return array.count > 0;
  }
  return false;
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

}  // namespace

StepPlan::StepPlan(const OpInfo& info, const py::iterable& groups, uint64_t seed) : info_(info), seed_(seed) {
  for (const py::handle from : groups) {
    const py::tuple tuple = py::reinterpret_borrow<py::tuple>(from);
    StepGroup& group = groups_.emplace_back();
    read_group(info, tuple, group);
    const size_t count = py::len(tuple[3]);
    for (size_t list = 4; list < 7; ++list) {
      if (py::len(tuple[list]) == count) continue;
      throw py::value_error("as many gradients and states as parameters are needed: got " +
                            std::to_string(count) + " parameters, " + std::to_string(py::len(tuple[4])) +
                            " gradients");
    }
    for (size_t i = 0; i < count; ++i) read_item(group, tuple, i);
  }
}

void StepPlan::read_item(const StepGroup& group, const py::tuple& lists, size_t i) {
  const py::list params = lists[3], grads = lists[4], states = lists[5], first_steps = lists[6];
  const py::object param = params[i], state = states[i];
  Array p, g;
  UpdateItem item;
  read_array(param, "param", p);
  need_tensor(info_, p, "param", p);
  need_writeable(p, "param");
  if (info_.by_rows) {
    read_rows(grads[i], p, g, item);
  } else {
    read_array(grads[i], "grad", g);
    need_tensor(info_, g, "grad", p);
    need_shape(info_, g, "grad", p);
    alive_.push_back(grads[i]);
  }
  if (overlap(p, g) && (info_.by_rows || !same_memory(p, g))) {
    throw Unsupported{"`grad` overlaps its parameter"};
  }
  item.param = view_of(p);
  item.grad = view_of(g);
  item.hyper = group.hyper;
  item.hyper_at = group.asks_device ? group.hyper_at : nullptr;
  item.grad_scale = group.grad_scale;
  item.max_norm = group.max_norm;
  item.rounding = p.dtype == DType::bf16 || p.dtype == DType::f16 ? group.rounding : Rounding::nearest;
  item.seed = random_bits(seed_, items.size());
  item.decay = group.decay;
  // Bits of first_steps: the first step of the rule, and the first of the average.
  const int firsts = first_steps[i].cast<int>();
  if ((firsts & 2) != 0) item.decay = 0;
  item.number[0] = {0, (firsts & 1) != 0 ? 1.0 : 2.0};  // for a rule that does not count
  read_states(group, state, p, g, item);
  if (items.empty()) {
    first = p;
    first_param = param;
  } else if (p.device != first.device || p.device_index != first.device_index) {
    throw Unsupported{"parameters are on several devices"};
  }
  elements += info_.by_rows ? g.count : p.count;
  params_.push_back(extent_of(p));
  grads_.push_back(extent_of(g));
  gradients_.push_back(g);
  alive_.push_back(param);
  items.push_back(item);
}

View StepPlan::read_state(py::handle state, py::handle key, const char* name, const Array& param,
                          const Array& grad) {
  PyObject* found = PyObject_GetItem(state.ptr(), key.ptr());
  if (found == nullptr) throw py::error_already_set();
  const py::object tensor = py::reinterpret_steal<py::object>(found);
  Array array;
  // The parameter is one of ours, so a state that is not fit for it is a mistake: torch would notice it
  // only after updating the parameters before this one.
  try {
    read_array(tensor, name, array);
    need_tensor(info_, array, name, param);
    need_shape(info_, array, name, param);
  } catch (const Unsupported& unsupported) {
    throw std::runtime_error(std::string(info_.name) + ": state " + unsupported.reason);
  }
  if (is_expanded(array)) {
    throw std::runtime_error(std::string(info_.name) + ": state `" + name + "` overlaps itself");
  }
  need_writeable(array, name);  // of strides that may interleave torch is the judge
  alive_.push_back(tensor);
  others_.push_back(extent_of(array));
  if (overlap(param, array) || overlap(grad, array)) {
    throw std::runtime_error(std::string(info_.name) + ": state `" + name +
                             "` shares memory with its parameter or gradient");
  }
  return view_of(array);
}

void StepPlan::read_states(const StepGroup& group, const py::object& state, const Array& param,
                           const Array& grad, UpdateItem& item) {
  for (size_t i = 0; i < group.keys.size(); ++i) {
    const int at = group.state_at[i];
    item.state[at] = read_state(state, group.keys[i], info_.states[at], param, grad);
  }
  if (group.average_key) item.average = read_state(state, group.average_key, "average", param, grad);
  if (item.rounding == Rounding::kahan) {
    if (!group.lost_key) throw py::value_error("`rounding=\"kahan\"` needs a state for what is lost");
    item.lost = read_state(state, group.lost_key, "compensation", param, grad);
  }
  read_numbers(state, param, item);
}

void StepPlan::read_numbers(const py::object& state, const Array& param, UpdateItem& item) {
  for (int i = 0; i < info_.number_count; ++i) {
    numbers.emplace_back(state, py::str(info_.numbers[i]));
    Extent extent;
    if (numbers.back().extent(extent)) others_.push_back(extent);
  }
  Number* const own = numbers.data() + numbers.size() - size_t(info_.number_count);
  const auto stored = [&](int i, double number) {
    own[i].set(number);
    return own[i].value();
  };
  count_on(info_, item, [&](int i) { return own[i].value(); }, stored);
  for (int i = 0; i < info_.number_count; ++i) {
    if (own[i].is_on_device()) item.number_at[i] = own[i].device_view();
  }
  if (!is_known_on_device(item)) return;
  need_on_device(param, item.number_at, info_.number_count);
  if (item.hyper_at != nullptr) need_on_device(param, item.hyper_at, info_.hyper_count);
  // The engine counts all others on from `step`, which alone may be on the host.
  for (int i = 1; i < info_.number_count; ++i) {
    if (!present(item.number_at[i])) throw Unsupported{"a number is on the host, others are not"};
  }
  if (param.count == 0) throw Unsupported{"an empty parameter counts on the device"};
}

void StepPlan::read_rows(const py::tuple& sparse, const Array& param, Array& values, UpdateItem& item) {
  Array rows;
  read_array(sparse[0], "rows", rows);
  read_array(sparse[1], "grad", values);
  need_tensor(info_, values, "grad", param);
  if (rows.dtype != DType::i64 || rows.dims != 1 || rows.device != param.device) {
    throw py::value_error(std::string(info_.name) + ": rows must be a vector of int64, got " +
                          describe(rows));
  }
  const int64_t total = py::cast<int64_t>(sparse[2]);  // rows of the parameter
  const int64_t length = total > 0 ? param.count / total : 0, count = rows.count;
  if (values.count != count * length || total * length != param.count) {
    throw std::runtime_error(std::string(info_.name) + ": `grad` has " + describe(values) + " for " +
                             std::to_string(count) + " rows of " + describe(param));
  }
  alive_.push_back(sparse);
  static const int64_t none = 0;  // an empty array may have no memory, which would mean all rows
  item.rows.row = count > 0 ? static_cast<const int64_t*>(rows.data) : &none;
  item.rows.count = count;
  item.rows.length = length;
  if (rows.device == Device::cpu) {
    if (!sort_rows(rows, total, rows_.emplace_back(), item.rows)) {
      throw py::index_error(std::string(info_.name) + ": a row of `grad` is out of range for " +
                            describe(param));
    }
  } else if (!is_row_major(rows)) {  // torch has sorted them there
    throw Unsupported{"rows of `grad` are not dense"};
  }
}

bool StepPlan::must_run_in_order() {
  if (share_memory(others_)) throw Unsupported{"states share memory"};
  const std::vector<Extent> own = params_;
  if (share_memory(params_)) return true;
  for (size_t i = 0; i < grads_.size(); ++i) {
    const Extent& grad = grads_[i];
    auto at = std::lower_bound(params_.begin(), params_.end(), grad, before);
    if (at != params_.begin() && (at == params_.end() || (at - 1)->end > grad.begin)) --at;
    for (; at != params_.end() && at->begin < grad.end; ++at) {
      if (at->end > grad.begin && at->begin != own[i].begin) return true;
    }
  }
  return false;
}

bool StepPlan::gradients_are_apart() const {
  for (const Array& grad : gradients_) {
    if (!grad.writeable || overlaps_itself(grad)) {
      throw std::runtime_error(
          std::string(info_.name) +
          ": a gradient to be written overlaps itself or is read-only: " + describe(grad));
    }
  }
  std::vector<Extent> all = grads_;
  all.insert(all.end(), params_.begin(), params_.end());
  all.insert(all.end(), others_.begin(), others_.end());
  return !share_memory(all);
}

std::vector<Extent> StepPlan::written() const {
  std::vector<Extent> all = params_;
  all.insert(all.end(), others_.begin(), others_.end());
  const auto is_empty = [](const Extent& extent) { return extent.begin == extent.end; };
  all.erase(std::remove_if(all.begin(), all.end(), is_empty), all.end());
  if (share_memory(all)) throw Unsupported{"parameters and states share memory"};
  return all;
}

}  // namespace fusestep
