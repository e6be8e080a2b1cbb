#include <algorithm>
#include <unordered_map>
#include <utility>

#include "bindings/cached_plan.h"

namespace py = pybind11;

namespace fusestep {

CachedPlan::CachedPlan(const OpInfo& info, int op, const py::iterable& steps, const OptimizerParts& parts,
                       const py::object& options, const py::object& defaults)
    : info_(info),
      op_(op),
      defaults_(info, parts.defaults, defaults),
      state_type_(Py_TYPE(parts.state.ptr())) {
  StepPlan plan(info, steps, 0);
  if (plan.items.empty() || plan.must_run_in_order()) throw Unsupported{"parameters share memory"};
  const py::list groups = parts.groups;
  size_t number = 0;
  for (const py::handle step : steps)
    add_group(py::reinterpret_borrow<py::tuple>(step), groups[number++], options);
  std::unordered_map<PyObject*, int64_t> number_of;
  for (size_t i = 0; i < params_.size(); ++i) number_of[params_[i]] = int64_t(i);
  for (const auto& [param, state] : py::dict(parts.state)) {
    const auto at = number_of.find(param.ptr());
    entries_.push_back({at == number_of.end() ? -1 : at->second, {}});
    add_entry(entries_.back(), state);
  }
  finish(plan);
  let_go();
}

void CachedPlan::add_group(const py::tuple& step, const py::dict& group, const py::object& options) {
  groups_.push_back({{}, Watched(info_, group, options), Py_ssize_t(py::len(group["params"]))});
  read_group(info_, step, groups_.back().step);
  if (groups_.back().step.asks_device) throw Unsupported{"an option is on the device"};
  if (groups_.back().step.rounding == Rounding::stochastic) throw Unsupported{"each step needs a seed"};
  const py::list known = step[3];
  size_t next = 0;
  for (const py::handle param : group["params"]) {
    params_.push_back(param.inc_ref().ptr());
    const bool has_item = next < known.size() && py::handle(known[next]).is(param);
    item_of_.push_back(has_item ? int64_t(items_.size()) : -1);
    if (has_item) add_item(step, groups_.size() - 1, next++);
  }
}

void CachedPlan::add_item(const py::tuple& step, size_t group, size_t number) {
  const py::list params = step[3], grads = step[4];
  const py::object param = params[number], grad = grads[number];
  items_.push_back({layout_of(param, true), layout_of(grad, true), nullptr, nullptr, group, 0, 0});
  items_.back().param->fits(param.ptr(), items_.back().param_at);
}

const Layout* CachedPlan::layout_of(py::handle tensor, bool may_be_negated) {
  constexpr size_t kSearched = 16;
  const Layout layout(tensor, may_be_negated);
  for (size_t i = 0; i < std::min(kSearched, layouts_.size()); ++i) {
    const Layout& other = layouts_[layouts_.size() - 1 - i];
    if (other == layout) return &other;
  }
  return &layouts_.emplace_back(layout);
}

void CachedPlan::add_entry(Entry& entry, py::handle state) {
  const int64_t number = entry.param < 0 ? -1 : item_of_[size_t(entry.param)];
  const int64_t param = std::exchange(entry.param, -1);
  if (number < 0) return;
  if (!PyDict_CheckExact(state.ptr())) throw Unsupported{"a state that is no dictionary"};
  Item& item = items_[size_t(number)];
  const StepGroup& group = groups_[item.group].step;
  std::vector<py::object> names = group.keys;
  if (group.average_key) names.push_back(group.average_key);
  if (group.lost_key) names.push_back(group.lost_key);
  const size_t numbers_from = names.size();
  for (int i = 0; i < info_.number_count; ++i) names.push_back(py::str(info_.numbers[i]));
  item.first_part = parts_.size();
  for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(state)) {
    const py::object name = py::reinterpret_borrow<py::object>(key);
    if (!PyUnicode_CheckExact(key.ptr())) throw Unsupported{"a state whose name is no string"};
    const auto named = [&](const py::object& other) { return other.equal(name); };
    const size_t at = size_t(std::find_if(names.begin(), names.end(), named) - names.begin());
    entry.keys.push_back({name, at < names.size()});
    if (at == names.size()) continue;
    Part& part = parts_.emplace_back(Part{layout_of(value, at < numbers_from), nullptr});
    part.layout->fits(value.ptr(), part.at);
    ++item.part_count;
  }
  if (item.part_count > 0) entry.param = param;
}

void CachedPlan::finish(StepPlan& plan) {
  written_ = plan.written();
  updates_ = plan.items;
  first_ = plan.first;
  for (size_t i = 0; i < items_.size(); ++i) updates_[i].hyper = groups_[items_[i].group].step.hyper;
  for (const Number& number : plan.numbers) {
    View view;
    if (!number.view(view)) throw Unsupported{"a state is a number of Python, or elsewhere"};
    numbers_.push_back(view);
  }
}

}  // namespace fusestep
