#include "bindings/loss_checks.h"

namespace py = pybind11;

namespace fusestep {
namespace {

// An output must be memory of its own that may be written.
void need_output(const std::optional<Array>& output, const char* name, int64_t count, const Call& call) {
  if (!output) return;
  const Array& out = *output;
  need_floating(out, name);
  if (!out.writeable) throw py::value_error("`" + std::string(name) + "` is read-only");
  if (out.count != count) {
    throw py::value_error("`" + std::string(name) + "` must have " + std::to_string(count) +
                          " elements, got " + describe(out));
  }
  const Extent a = extent_of(out);
  bool shared = overlaps_itself(out);
  const auto compare = [&](const std::optional<Array>& input) {
    if (!input) return;
    const Extent b = extent_of(*input);
    shared = shared || (a.begin < b.end && b.begin < a.end);
  };
  for (const auto& operand : call.operand) compare(operand);
  compare(call.weight);
  if (shared) throw py::value_error("`" + std::string(name) + "` overlaps itself or an input");
}

}  // namespace

void need_floating(const Array& array, const char* name) {
  if (!is_floating(array.dtype)) {
    throw Unsupported{"`" + std::string(name) + "` must be floating point, got " + describe(array)};
  }
}

void need_same_device(const Array& array, const char* name, const Array& input, const char* input_name) {
  if (array.device != input.device || array.device_index != input.device_index) {
    const auto place = [](const Array& a) {
      return a.device == Device::cpu ? std::string("cpu") : "cuda:" + std::to_string(a.device_index);
    };
    throw std::runtime_error("`" + std::string(name) + "` is on " + place(array) + ", but `" + input_name +
                             "` is on " + place(input) + "; expected them on the same device");
  }
}

std::string grad_name(const OpInfo& info, size_t operand) {
  return std::string("grad_") + info.operands[operand];
}

void need_outputs(const Call& call, int64_t loss_count) {
  need_output(call.loss, "loss", loss_count, call);
  for (int k = 0; k < call.info.operand_count; ++k) {
    if (!call.grad[k]) continue;
    const std::string name = grad_name(call.info, size_t(k));
    need_output(call.grad[k], name.c_str(), call.operand[k]->count, call);
    if (!same_shape(*call.grad[k], *call.operand[k])) {
      throw py::value_error("`" + name + "` must have the shape of `" + call.info.operands[k] + "`, got " +
                            describe(*call.grad[k]));
    }
  }
  if (call.seed) {
    need_floating(*call.seed, "grad_output");
    if (call.seed->count != loss_count) {
      throw std::runtime_error("`grad_output` must have " + std::to_string(loss_count) + " elements, got " +
                               describe(*call.seed));
    }
  }
}

void need_shape_of_first(const Call& call, const std::optional<Array>& array, const char* name) {
  if (!array) return;
  need_floating(*array, name);
  if (!same_shape(call.first(), *array)) {
    throw std::runtime_error(std::string(call.info.name) + ": `" + name + "` must have the shape of `" +
                             call.info.operands[0] + "`, got " + describe(*array) + " for " +
                             describe(call.first()));
  }
}

}  // namespace fusestep
