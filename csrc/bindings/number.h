// Numbers that states keep, such as `step`.
#pragma once

#include <pybind11/pybind11.h>

#include "bindings/arrays.h"

namespace fusestep {

// A number that a tensor's state keeps, such as `step`; written once everything has been checked.
class Number {
 public:
  Number(const pybind11::object& state, pybind11::handle key);
  // On a device: then nobody here knows its value, and the engine counts it on.
  bool is_on_device() const { return kind_ == Kind::device; }
  double value() const { return value_; }
  void set(double value);
  void store() const;
  // Where it lies, if it is an array.
  bool extent(Extent& extent) const;
  // If it is an array of the host.
  bool view(View& view) const;
  const View& device_view() const { return view_; }

 private:
  enum class Kind { array, device, floating, integer };  // the last two are Python's, as in old checkpoints
  pybind11::object state_, key_, object_;
  Kind kind_;
  View view_;
  double value_;  // as it can be stored
};

}  // namespace fusestep
