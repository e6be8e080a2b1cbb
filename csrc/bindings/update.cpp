#include "bindings/update.h"

#include <stdexcept>

#include "bindings/step_plan.h"

namespace py = pybind11;

namespace fusestep {
namespace {

Gradients gradients_of(const std::string& name) {
  if (name == "kept") return Gradients::kept;
  if (name == "unscaled") return Gradients::unscaled;
  if (name == "cleared") return Gradients::cleared;
  throw py::value_error("`gradients` must be \"kept\", \"unscaled\" or \"cleared\", got \"" + name + "\"");
}

// A number of GradScaler on the device of the parameters; null if `object` is None.
const float* scaler_number(const py::object& object, const char* name, const Array& param) {
  if (object.is_none()) return nullptr;
  Array array;
  read_array(object, name, array);
  if (array.dtype != DType::f32 || array.count != 1) {
    throw py::value_error("`" + std::string(name) + "` must be a single float32, got " + describe(array));
  }
  if (param.device != Device::cuda || array.device != param.device ||
      array.device_index != param.device_index) {
    throw Unsupported{"`" + std::string(name) + "` is not on the device of the parameters"};
  }
  return static_cast<const float*>(array.data);
}

}  // namespace

double* norm_of(const py::object& object, Device device) {
  if (object.is_none()) return nullptr;
  Array norm;
  read_array(object, "norm", norm, false);
  if (norm.dtype != DType::f64 || norm.count != 1 || !norm.writeable || norm.device != device) {
    throw py::value_error("`norm` must be a single float64 on the device of the parameters, got " +
                          describe(norm));
  }
  return static_cast<double*>(norm.data);
}

bool run_step(const OpInfo& info, int op, const StepCall& call) {
  StepPlan plan(info, call.groups, call.seed);
  const Gradients wanted = gradients_of(call.gradients);
  if (info.by_rows && (wanted != Gradients::kept || !call.norm.is_none())) {
    throw py::value_error(std::string(info.name) + " neither clips nor writes gradients");
  }
  if (plan.items.empty()) return true;

  UpdateArgs args{plan.items.data(),
                  int64_t(plan.items.size()),
                  plan.must_run_in_order(),
                  Gradients::kept,
                  nullptr,
                  nullptr};
  const bool apart = wanted != Gradients::kept && plan.gradients_are_apart();
  if (apart) args.gradients = wanted;
  args.loss_scale = scaler_number(call.loss_scale, "loss_scale", plan.first);
  args.found_inf = scaler_number(call.found_inf, "found_inf", plan.first);
  if (args.found_inf != nullptr) {
    for (const Number& number : plan.numbers) {
      if (!number.is_on_device()) throw Unsupported{"`step` is not on the device"};
    }
  }
  double* const norm = norm_of(call.norm, plan.first.device);
  args.norm = norm;
  launch_step({info, op, plan.first_param, plan.first, plan.elements}, args,
              call.norm_is_known ? nullptr : norm, [&] {
                for (const Number& number : plan.numbers) number.store();
              });
  return apart || wanted == Gradients::kept;
}

}  // namespace fusestep
