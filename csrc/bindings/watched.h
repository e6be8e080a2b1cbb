// Dictionaries of options, remembered to see whether something in them has changed.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "formulas/catalog.h"

namespace fusestep {

// The values that matter of a dictionary of options. Those that cannot change in place are known again by
// their identity; the others (a tensor, a list) count as changed each time.
class Watched {
 public:
  // `relevant`: a collection of the keys whose values matter. Throws Unsupported if a key is no string.
  Watched(const OpInfo& info, const pybind11::dict& options, const pybind11::object& relevant);

  enum class Change { none, hyper, other, keys };
  // `hyper`: numbers that the rule takes as they are have changed, and `hyper` now holds them. `other`: some
  // value may have changed. `keys`: those are not the same. Runs no Python code.
  Change compare(PyObject* options, double* hyper);
  // Takes over the values, once they have been described anew. The keys are the same.
  void remember(PyObject* options);

 private:
  struct Option {
    pybind11::object key, value;  // null: it does not matter, or may change in place
    bool relevant;
    int hyper_at;  // which hyper-parameter it is as it stands, or -1
  };
  std::vector<Option> options_;
};

}  // namespace fusestep
