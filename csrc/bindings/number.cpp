#include "bindings/number.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "core/rounding.h"

namespace py = pybind11;

namespace fusestep {

Number::Number(const py::object& state, py::handle key)
    : state_(state), key_(py::reinterpret_borrow<py::object>(key)), object_(state[key]) {
  const std::string name = py::cast<std::string>(key_);
  if (PyFloat_Check(object_.ptr()) || PyLong_Check(object_.ptr())) {
    kind_ = PyLong_Check(object_.ptr()) ? Kind::integer : Kind::floating;
    value_ = py::cast<double>(object_);
    return;
  }
  Array array;
  read_array(object_, name.c_str(), array, false);
  if (array.count != 1) {
    throw std::runtime_error("state `" + name + "` must be a single number, got " + describe(array));
  }
  if (!is_floating(array.dtype)) throw Unsupported{"state `" + name + "` is an integer"};
  view_ = view_of(array);
  view_.contiguous = true;
  kind_ = array.device == Device::cpu ? Kind::array : Kind::device;
  value_ = kind_ == Kind::array ? load_floating<double>(view_, 0) : NAN;
}

void Number::set(double value) { value_ = kind_ == Kind::array ? rounded_to(view_.dtype, value) : value; }

void Number::store() const {
  switch (kind_) {
    case Kind::array:
      return store_floating(view_, 0, value_);
    case Kind::device:
      return;
    case Kind::floating:
      state_[key_] = py::float_(value_);
      return;
    case Kind::integer:
      if (value_ == std::floor(value_) && std::abs(value_) < 0x1p53) {
        state_[key_] = py::int_(int64_t(value_));
      } else {  // such as ASGD's rates in an old checkpoint
        state_[key_] = py::float_(value_);
      }
      return;
  }
}

bool Number::extent(Extent& extent) const {
  if (kind_ != Kind::array && kind_ != Kind::device) return false;
  const uintptr_t at = reinterpret_cast<uintptr_t>(view_.data);
  extent = {at, at + uintptr_t(size_of(view_.dtype))};
  return true;
}

bool Number::view(View& view) const {
  view = view_;
  return kind_ == Kind::array;
}

}  // namespace fusestep
