#include "bindings/loss.h"

#include <algorithm>
#include <optional>
#include <string>

#include "bindings/engines.h"
#include "bindings/loss_checks.h"
#include "bindings/pool.h"

namespace py = pybind11;

namespace fusestep {
namespace {

Reduction reduction_from(const std::string& name) {
  if (name == "mean") return Reduction::mean;
  if (name == "sum") return Reduction::sum;
  if (name == "none") return Reduction::none;
  throw py::value_error("`reduction` must be 'none', 'mean' or 'sum', got '" + name + "'");
}

// Reads the array, unless the object is None. (An Array is large: it is filled where it stays.)
void read_optional(py::handle object, const char* name, std::optional<Array>& array, bool may_be_negated) {
  if (!object.is_none()) read_array(object, name, array.emplace(), may_be_negated);
}

View view_if(const std::optional<Array>& array) { return array ? view_of(*array) : View(); }

// Fills in what the arguments of all shapes share, and runs kernel(its table entry, args).
template <class Args, class Run>
auto run_kernel(const Call& call, Shape shape, int64_t count, Args& args, Run&& run) {
  args.loss = view_if(call.loss);
  args.seed = view_if(call.seed);
  args.reduction = call.reduction;
  args.hyper = call.hyper;
  Launch launch(call.given.operands[0], call.first(), shape, count, call.first().count);
  args.stream = launch.stream();
  args.workspace = launch.workspace();
  const auto result = launch.run([&] { return run(launch.table().kernels[call.op]); });
  launch.check(call.info.name);
  return result;
}

void run_pointwise(const Call& call) {
  const Array& x = call.first();
  PointwiseArgs args{};
  for (int k = 0; k < call.info.operand_count; ++k) {
    need_shape_of_first(call, call.operand[k], call.info.operands[k]);
    args.operand[k] = view_if(call.operand[k]);
  }
  need_shape_of_first(call, call.weight, "weight");
  need_outputs(call, call.each() ? x.count : 1);
  args.weight = view_if(call.weight);
  for (int k = 0; k < call.info.operand_count; ++k) args.grad[k] = view_if(call.grad[k]);
  args.divisor = call.given.divisor;
  const bool inside = run_kernel(call, Shape::pointwise, x.count, args,
                                 [&](const Kernel& kernel) { return kernel.pointwise(args); });
  if (!inside) throw OutOfRange{std::string(call.info.name) + ": " + call.info.domain};
}

// Input (C), (N, C) or (N, C, d1, …); target without the class dimension (or (1,) for an input (C)).
void need_labels(const char* op, const Array& x, const Array& t, int class_dim) {
  if (is_floating(t.dtype)) {
    throw Unsupported{"`target` must hold class indices, got " + describe(t)};
  }
  if (x.dims == 1) {
    if (t.dims == 0 || (t.dims == 1 && t.sizes[0] == 1)) return;
    const std::string message = std::string(op) + ": `target` must be a single label for `input` of shape " +
                                describe_shape(x, 0, 1) + ", got " + describe(t);
    if (t.dims == 1) throw py::value_error(message);
    throw std::runtime_error(message);
  }
  if ((t.dims > 0 ? t.sizes[0] : 0) != x.sizes[0]) {
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

// `promotes`: their dtype need not be that of the input.
View class_weights(const Call& call, int64_t classes, bool promotes) {
  if (!call.weight) return View();
  const Array &x = call.first(), &w = *call.weight;
  need_floating(w, "weight");
  const bool half = x.dtype == DType::bf16 || x.dtype == DType::f16;
  if (w.dtype != x.dtype && !promotes && !(half && w.dtype == DType::f32)) {
    throw std::runtime_error(std::string(call.info.name) + ": `weight` must have the dtype of `input`, got " +
                             describe(w) + " for " + describe(x));
  }
  if (w.dims != 1) throw Unsupported{"`weight` must have one dimension, got " + describe(w)};
  if (w.count != classes) {
    throw std::runtime_error(std::string(call.info.name) +
                             ": `weight` must have one element for each of the " + std::to_string(classes) +
                             " classes, got " + describe(w));
  }
  return view_of(w);
}

void run_rowwise(const Call& call) {
  const Array &x = call.first(), &t = *call.operand[1];
  const char* op = call.info.name;
  if (x.dims == 0) throw Unsupported{"`input` must have a class dimension, got " + describe(x)};
  const int class_dim = x.dims == 1 ? 0 : 1;
  need_labels(op, x, t, class_dim);
  RowwiseArgs args{};
  args.classes = x.sizes[class_dim];
  args.rows = t.count;
  args.weight = class_weights(call, args.classes, false);
  need_outputs(call, call.each() ? args.rows : 1);
  args.input = row_view_of(x, class_dim);
  args.target = view_of(t);
  if (call.grad[0]) args.grad_input = row_view_of(*call.grad[0], class_dim);
  args.ignores = call.given.ignore_index.has_value();
  args.ignore_index = call.given.ignore_index.value_or(0);
  const BadLabel bad = run_kernel(call, Shape::rowwise, args.rows, args,
                                  [&](const Kernel& kernel) { return kernel.rowwise(args); });
  if (bad.found) {
    const std::string ignored = args.ignores ? " or ignore_index " + std::to_string(args.ignore_index) : "";
    throw OutOfRange{std::string(op) + ": Target " + std::to_string(bad.label) +
                     " is out of bounds: `target` must hold labels in [0, " + std::to_string(args.classes) +
                     ")" + ignored};
  }
}

void run_dense(Call& call) {
  // A number is a row of one class.
  const auto as_row = [](std::optional<Array>& array) {
    if (!array || array->dims > 0) return;
    array->dims = 1;
    array->sizes[0] = array->strides[0] = 1;
  };
  for (auto& operand : call.operand) as_row(operand);
  for (auto& grad : call.grad) as_row(grad);
  const Array& x = call.first();
  const int64_t dim = call.given.dim.value_or(x.dims > 1 ? 1 : 0);
  if (dim < -x.dims || dim >= x.dims) {
    throw py::index_error("Dimension out of range: `dim` must be in [" + std::to_string(-x.dims) + ", " +
                          std::to_string(x.dims - 1) + "], got " + std::to_string(dim));
  }
  const int class_dim = int(dim < 0 ? dim + x.dims : dim);
  DenseArgs args{};
  args.classes = x.sizes[class_dim];
  args.rows = 1;
  for (int d = 0; d < x.dims; ++d) args.rows *= d == class_dim ? 1 : x.sizes[d];
  for (int k = 1; k < call.info.operand_count; ++k) {
    need_shape_of_first(call, call.operand[k], call.info.operands[k]);
  }
  args.weight = class_weights(call, args.classes, true);
  need_outputs(call, call.each() ? args.rows : 1);
  const auto rows_of = [&](const std::optional<Array>& array) {
    return array ? row_view_of(*array, class_dim) : View();
  };
  args.input = rows_of(call.operand[0]);
  args.target = rows_of(call.operand[1]);
  args.first = rows_of(call.grad[0]);
  args.second = rows_of(call.grad[1]);
  run_kernel(call, Shape::dense, args.rows, args, [&](const Kernel& kernel) {
    kernel.dense(args);
    return true;
  });
}

}  // namespace

py::tuple run_loss(const OpInfo& info, int op, const LossCall& given) {
  Call call{info, op, given, {}, {}, {}, {}, {}, {}, reduction_from(given.reduction)};
  if (int(given.hyper.size()) != info.hyper_count) {
    throw py::value_error(std::string(info.name) + " takes " + std::to_string(info.hyper_count) +
                          " hyper-parameters, got " + std::to_string(given.hyper.size()));
  }
  for (size_t i = 0; i < given.hyper.size(); ++i) call.hyper[i] = py::cast<double>(given.hyper[i]);
  const size_t operands = given.operands.size(), most = size_t(info.operand_count);
  if (operands > most || operands < std::min<size_t>(most, 2) || given.outputs.size() > operands + 1) {
    throw py::value_error(std::string(info.name) + " takes " + std::to_string(most) + " operands, got " +
                          std::to_string(operands));
  }
  for (size_t k = 0; k < operands; ++k) {
    const char* name = info.operands[k];
    if (k < 2) {
      read_array(given.operands[k], name, call.operand[k].emplace());
    } else {
      read_optional(given.operands[k], name, call.operand[k], true);
    }
    if (k > 0 && call.operand[k]) need_same_device(*call.operand[k], name, call.first(), info.operands[0]);
  }
  need_floating(call.first(), info.operands[0]);
  read_optional(given.weight, "weight", call.weight, true);
  if (call.weight) need_same_device(*call.weight, "weight", call.first(), info.operands[0]);
  if (given.outputs.size() > 0) read_optional(given.outputs[0], "loss", call.loss, false);
  py::tuple grads(given.outputs.size() > 0 ? given.outputs.size() - 1 : 0);
  for (size_t k = 0; k < grads.size(); ++k) {
    py::object grad = given.outputs[k + 1];
    if (grad.ptr() == Py_True && call.operand[k]) {
      grad = empty_like(given.operands[k], *call.operand[k], false);
    } else if (PyBool_Check(grad.ptr())) {
      grad = py::none();
    }
    if (!grad.is_none()) read_array(grad, grad_name(info, k).c_str(), call.grad[k].emplace(), false);
    grads[k] = std::move(grad);
  }
  read_optional(given.seed, "grad_output", call.seed, true);
  switch (info.shape) {
    case Shape::pointwise:
      run_pointwise(call);
      break;
    case Shape::rowwise:
      run_rowwise(call);
      break;
    default:
      run_dense(call);
  }
  return grads;
}

}  // namespace fusestep
