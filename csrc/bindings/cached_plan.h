// A step that has been taken once and checked as a whole, to be repeated while nothing has changed.
//
// NOTE [cached plan]: nothing is assumed that somebody could have changed since the last step: options,
// parameters, gradients, states and their memory are looked at each time. What is spared is what follows from
// them: described groups, views, checks of shapes and dtypes, and whether anything shares memory. A plan
// keeps no tensor, dictionary or optimizer alive, so it takes part in no cycle of references.
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <vector>

#include "bindings/layout.h"
#include "bindings/step_plan.h"
#include "bindings/watched.h"

namespace fusestep {

// The attributes of a torch optimizer that a step reads.
struct OptimizerParts {
  const pybind11::object& groups;    // param_groups
  const pybind11::object& state;     // by parameter
  const pybind11::object& defaults;  // of the options
};

class CachedPlan {
 public:
  // `steps`: a StepGroup of fusestep._rules for each group, with those of its parameters that have states;
  // where there is no gradient, the parameter itself stands in for it. `options`, `defaults`: the keys that
  // matter of a group and of the defaults. Throws if the step cannot be repeated.
  CachedPlan(const OpInfo& info, int op, const pybind11::iterable& steps, const OptimizerParts& parts,
             const pybind11::object& options, const pybind11::object& defaults);

  // Takes a step, or returns false with nothing written. `describe`: makes a StepGroup without parameters of
  // a group, or None if torch must take the step. `norm`: for the norm of all gradients, or None. `changed`:
  // called with the list of parameters that the step has written.
  bool step(const OptimizerParts& parts, const pybind11::object& describe, const pybind11::object& norm,
            const pybind11::object& changed);

 private:
  struct Group {
    StepGroup step;
    Watched watched;
    Py_ssize_t count = 0;  // of its parameters
  };
  struct Item {
    const Layout *param, *grad;
    void* param_at;
    const void* grad_at;  // where a gradient lay that shares no memory with what is written
    size_t group, first_part, part_count;
  };
  struct Part {  // a state or a number of an item
    const Layout* layout;
    void* at;
  };
  struct Key {
    pybind11::object key;
    bool is_part;
  };
  struct Entry {    // of the optimizer's state, in its order
    int64_t param;  // its number among the parameters, or -1 if the state does not matter
    std::vector<Key> keys;
  };

  void add_group(const pybind11::tuple& step, const pybind11::dict& group, const pybind11::object& options);
  void add_item(const pybind11::tuple& step, size_t group, size_t number);
  void add_entry(Entry& entry, pybind11::handle state);
  const Layout* layout_of(pybind11::handle tensor, bool may_be_negated);
  void finish(StepPlan& plan);

  bool options_fit(const OptimizerParts& parts, const pybind11::object& describe);
  bool describe_anew(Group& group, PyObject* options, const pybind11::object& describe);
  bool collect(PyObject* groups);
  bool tensors_fit();
  bool gradient_fits(Item& item, UpdateItem& update, PyObject* grad);
  bool states_fit(PyObject* state);
  bool parts_fit(const Entry& entry, PyObject* state);
  bool clips() const;
  void count(size_t item);
  void run(const pybind11::object& norm);
  pybind11::list written_params() const;
  void let_go();

  const OpInfo& info_;
  const int op_;
  std::deque<Group> groups_;  // updates point into these
  Watched defaults_;
  std::vector<int64_t> item_of_;  // of each parameter, or -1
  std::deque<Layout> layouts_;    // mostly the same few
  std::vector<Item> items_;
  std::vector<UpdateItem> updates_, some_;  // of all items; of those that have a gradient now
  std::vector<View> numbers_;               // of all items
  std::vector<Part> parts_;
  std::vector<Entry> entries_;
  std::vector<Extent> written_;  // in order, and apart
  PyTypeObject* state_type_;
  Array first_;

  // Only during a step.
  bool busy_ = false, broken_ = false;
  int64_t elements_ = 0;
  std::vector<size_t> present_;                   // the items that have a gradient
  std::vector<PyObject*> params_, grads_, held_;  // owned; a gradient may be null
};

}  // namespace fusestep
