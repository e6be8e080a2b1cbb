// What one step will touch, read from Python and checked before anything is written.
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/number.h"
#include "bindings/sorted_rows.h"
#include "core/op_table.h"
#include "formulas/catalog.h"

namespace fusestep {

constexpr int kMaxHyper = 8;

// The options of a parameter group: hyper-parameters of the formula, and what any rule may be asked for.
struct StepGroup {
  double hyper[kMaxHyper];
  View hyper_at[kMaxHyper];  // where one lies that is on a device; absent if it is in `hyper`
  bool asks_device = false;  // whether any is there
  double grad_scale;
  int state_at[kMaxStates];  // the formula's number of each state the group keeps
  std::vector<pybind11::object> keys;
  double max_norm = 0;
  double decay = 0;
  pybind11::object average_key, lost_key;  // states, or null
  Rounding rounding = Rounding::nearest;
};

// From a StepGroup of python/fusestep/_rules.py, of which the lists are not read.
void read_group(const OpInfo& info, const pybind11::tuple& from, StepGroup& group);

// The numbers of an item, one step on. `value(i)`: of number i; `stored(i, x)`: what x is once it is put
// down.
template <class Value, class Stored>
void count_on(const OpInfo& info, UpdateItem& item, Value&& value, Stored&& stored) {
  for (int i = 0; i < info.number_count; ++i) {
    const double before = value(i);
    item.number[i] = {before, before + (i == 0 ? 1 : 0)};  // `step` is the first
  }
  info.advance(item.hyper, item.number);
  for (int i = 0; i < info.number_count; ++i) item.number[i].after = stored(i, item.number[i].after);
}

class StepPlan {
 public:
  StepPlan(const OpInfo& info, const pybind11::iterable& groups, uint64_t seed);

  std::vector<UpdateItem> items;
  std::vector<Number> numbers;
  int64_t elements = 0;
  Array first;  // the first parameter: where the step runs
  pybind11::object first_param;

  // Parameters that share memory, or a gradient that lies in another parameter, are updated one after
  // another, as a loop over them would. Throws Unsupported if states share memory.
  bool must_run_in_order();
  // Whether each gradient is an array of its own, which may be written while others are read. Throws if
  // one cannot be written at all.
  bool gradients_are_apart() const;
  // Parameters, states and numbers, in order. Throws Unsupported if any share memory.
  std::vector<Extent> written() const;

 private:
  void read_item(const StepGroup& group, const pybind11::tuple& lists, size_t i);
  void read_states(const StepGroup& group, const pybind11::object& state, const Array& param,
                   const Array& grad, UpdateItem& item);
  void read_numbers(const pybind11::object& state, const Array& param, UpdateItem& item);
  View read_state(pybind11::handle state, pybind11::handle key, const char* name, const Array& param,
                  const Array& grad);
  void read_rows(const pybind11::tuple& sparse, const Array& param, Array& values, UpdateItem& item);

  const OpInfo& info_;
  uint64_t seed_;
  std::deque<StepGroup> groups_;  // items point into these
  std::deque<SortedRows> rows_;
  std::vector<pybind11::object> alive_;  // the GIL is released: somebody may replace a state meanwhile
  std::vector<Extent> params_, others_;  // memory that is written: parameters, states and numbers
  std::vector<Extent> grads_;
  std::vector<Array> gradients_;
};

}  // namespace fusestep
