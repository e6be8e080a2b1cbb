#include "bindings/loss.h"

#include <string>

#include "bindings/arrays.h"
#include "bindings/engines.h"

namespace py = pybind11;

namespace fusestep {
namespace {

Reduction reduction_from(const std::string& name) {
  if (name == "mean") return Reduction::mean;
  if (name == "sum") return Reduction::sum;
  if (name == "none") return Reduction::none;
  throw py::value_error("`reduction` must be 'none', 'mean' or 'sum', got '" + name + "'");
}

// Reads element `index` of the tuple, if it has one that is not None.
bool read_optional(const py::tuple& from, size_t index, const char* name, Array& array, bool may_be_negated) {
  if (index >= from.size() || from[index].is_none()) return false;
  read_array(from[index], name, array, may_be_negated);
  return true;
}

void need_floating(const Array& array, const char* name) {
  if (!is_floating(array.dtype)) {
    throw Unsupported{"`" + std::string(name) + "` must be floating point, got " + describe(array)};
  }
}

void need_same_device(const Array& array, const char* name, const Array& input) {
  if (array.device != input.device || array.device_index != input.device_index) {
    const auto place = [](const Array& a) {
      return a.device == Device::cpu ? std::string("cpu") : "cuda:" + std::to_string(a.device_index);
    };
    throw std::runtime_error("`" + std::string(name) + "` is on " + place(array) + ", but `input` is on " +
                             place(input) + "; expected them on the same device");
  }
}

// An output must be memory of its own that may be written.
void need_output(const Array& out, const char* name, int64_t count, const Array* inputs, int inputs_count) {
  need_floating(out, name);
  if (!out.writeable) throw py::value_error("`" + std::string(name) + "` is read-only");
  if (out.count != count) {
    throw py::value_error("`" + std::string(name) + "` must have " + std::to_string(count) +
                          " elements, got " + describe(out));
  }
  const Extent a = extent_of(out);
  bool shared = overlaps_itself(out);
  for (int i = 0; i < inputs_count; ++i) {
    const Extent b = extent_of(inputs[i]);
    shared = shared || (a.begin < b.end && b.begin < a.end);
  }
  if (shared) throw py::value_error("`" + std::string(name) + "` overlaps itself or an input");
}

struct Call {
  Array inputs[3];
  int input_count = 0;
  Array loss, grad_input, grad_target, seed;
  bool has_weight = false, has_loss = false, has_grad_input = false, has_grad_target = false,
       has_seed = false;
};

void need_outputs(const Call& call, int64_t loss_count) {
  const Array* inputs = call.inputs;
  const int n = call.input_count;
  if (call.has_loss) need_output(call.loss, "loss", loss_count, inputs, n);
  if (call.has_grad_input) need_output(call.grad_input, "grad_input", inputs[0].count, inputs, n);
  if (call.has_grad_target) need_output(call.grad_target, "grad_target", inputs[1].count, inputs, n);
  if (call.has_seed) {
    need_floating(call.seed, "grad_output");
    if (call.seed.count != loss_count) {
      throw std::runtime_error("`grad_output` must have " + std::to_string(loss_count) + " elements, got " +
                               describe(call.seed));
    }
  }
}

void run_pointwise(const char* op, int index, const Call& call, PointwiseArgs& args, py::handle input) {
  const Array &x = call.inputs[0], &t = call.inputs[1];
  need_floating(t, "target");
  if (!same_shape(x, t)) {
    throw std::runtime_error(std::string(op) + ": `target` must have the shape of `input`, got " +
                             describe(t) + " for " + describe(x));
  }
  const bool each = args.reduction == Reduction::none;
  need_outputs(call, each ? x.count : 1);
  args.input = view_of(x);
  args.target = view_of(t);
  if (call.has_loss) args.loss = view_of(call.loss);
  if (call.has_grad_input) args.grad_input = view_of(call.grad_input);
  if (call.has_grad_target) args.grad_target = view_of(call.grad_target);
  if (call.has_seed) args.seed = view_of(call.seed);
  Launch launch(input, x, Shape::pointwise, x.count, x.count);
  args.stream = launch.stream();
  args.workspace = launch.workspace();
  launch.run([&] { launch.table().kernels[index].pointwise(args); });
  launch.check(op);
}

// Input (C), (N, C) or (N, C, d1, …); target without the class dimension (or (1,) for an input (C)).
void need_labels(const char* op, const Array& x, const Array& t, int class_dim) {
  if (is_floating(t.dtype)) {
    throw Unsupported{"`target` must hold class indices, got " + describe(t)};
  }
  if (x.dims == 1) {
    if (t.dims == 0 || (t.dims == 1 && t.sizes[0] == 1)) return;
    throw py::value_error(std::string(op) + ": `target` must be a single label for `input` of shape " +
                          describe_shape(x, 0, 1) + ", got " + describe(t));
  }
  if (t.dims > 0 && t.sizes[0] != x.sizes[0]) {
    throw py::value_error(std::string(op) + ": `target` must have the batch size of `input`, " +
                          std::to_string(x.sizes[0]) + ", got " + describe(t));
  }
  bool fits = t.dims == x.dims - 1;
  for (int d = 0, from = 0; fits && d < x.dims; ++d) {
    if (d != class_dim) fits = t.sizes[from++] == x.sizes[d];
  }
  if (!fits) {
    throw std::runtime_error(std::string(op) +
                             ": `target` must have the shape of `input` without its class dimension " +
                             std::to_string(class_dim) + ", got " + describe(t) + " for " + describe(x));
  }
}

void run_rowwise(const char* op, int index, const Call& call, RowwiseArgs& args, py::handle input) {
  const Array &x = call.inputs[0], &t = call.inputs[1], &w = call.inputs[2];
  if (x.dims == 0)
    throw std::runtime_error(std::string(op) + ": `input` must have a class dimension, got " + describe(x));
  const int class_dim = x.dims == 1 ? 0 : 1;
  need_labels(op, x, t, class_dim);
  const int64_t classes = x.sizes[class_dim], rows = t.count;
  if (call.has_weight) {
    const bool half = x.dtype == DType::bf16 || x.dtype == DType::f16;
    if (w.dtype != x.dtype && !(half && w.dtype == DType::f32)) {
      throw std::runtime_error(std::string(op) + ": `weight` must have the dtype of `input`, got " +
                               describe(w) + " for " + describe(x));
    }
    if (w.dims != 1 || w.count != classes) {
      throw std::runtime_error(std::string(op) + ": `weight` must have one element for each of the " +
                               std::to_string(classes) + " classes, got " + describe(w));
    }
    args.weight = view_of(w);
  }
  const bool each = args.reduction == Reduction::none;
  need_outputs(call, each ? rows : 1);
  args.input = row_view_of(x, class_dim);
  args.target = view_of(t);
  if (call.has_loss) args.loss = view_of(call.loss);
  if (call.has_grad_input) args.grad_input = row_view_of(call.grad_input, class_dim);
  if (call.has_seed) args.seed = view_of(call.seed);
  args.rows = rows;
  args.classes = classes;
  Launch launch(input, x, Shape::rowwise, rows, x.count);
  args.stream = launch.stream();
  args.workspace = launch.workspace();
  const BadLabel bad = launch.run([&] { return launch.table().kernels[index].rowwise(args); });
  launch.check(op);
  if (bad.found) {
    throw py::index_error(std::string(op) + ": Target " + std::to_string(bad.label) +
                          " is out of bounds: `target` must hold labels in [0, " + std::to_string(classes) +
                          ") or ignore_index " + std::to_string(args.ignore_index));
  }
}

}  // namespace

void run_loss(const OpInfo& info, int op, const py::tuple& inputs, const py::tuple& outputs,
              const py::tuple& hyper, const std::string& reduction, const py::object& seed,
              int64_t ignore_index) {
  double values[8] = {};
  if (int(hyper.size()) != info.hyper_count) {
    throw py::value_error(std::string(info.name) + " takes " + std::to_string(info.hyper_count) +
                          " hyper-parameters, got " + std::to_string(hyper.size()));
  }
  for (size_t i = 0; i < hyper.size(); ++i) values[i] = py::cast<double>(hyper[i]);

  Call call;
  call.input_count = 2;
  read_array(inputs[0], "input", call.inputs[0]);
  read_array(inputs[1], "target", call.inputs[1]);
  need_floating(call.inputs[0], "input");
  need_same_device(call.inputs[1], "target", call.inputs[0]);
  if (read_optional(inputs, 2, "weight", call.inputs[2], true)) {
    call.has_weight = true;
    call.input_count = 3;
    need_same_device(call.inputs[2], "weight", call.inputs[0]);
  }
  call.has_loss = read_optional(outputs, 0, "loss", call.loss, false);
  call.has_grad_input = read_optional(outputs, 1, "grad_input", call.grad_input, false);
  call.has_grad_target = read_optional(outputs, 2, "grad_target", call.grad_target, false);
  if (call.has_grad_input && !same_shape(call.grad_input, call.inputs[0])) {
    throw py::value_error("`grad_input` must have the shape of `input`, got " + describe(call.grad_input));
  }
  if (!seed.is_none()) {
    call.has_seed = true;
    read_array(seed, "grad_output", call.seed);
  }

  if (info.shape == Shape::pointwise) {
    PointwiseArgs args{};
    args.reduction = reduction_from(reduction);
    args.hyper = values;
    run_pointwise(info.name, op, call, args, inputs[0]);
  } else {
    RowwiseArgs args{};
    args.reduction = reduction_from(reduction);
    args.hyper = values;
    args.ignore_index = ignore_index;
    run_rowwise(info.name, op, call, args, inputs[0]);
  }
}

}  // namespace fusestep
