// What the checks of the four shapes share: the two engines, hyper-parameters, and the report.
#pragma once

#include "arrays.h"
#include "core/op_table.h"
#include "emulator.h"
#include "formulas/catalog.h"

namespace fusestep {
namespace baseline {
extern const OpTable table;
}
}  // namespace fusestep

extern "C" const fusestep::OpTable* fusestep_engine();

namespace parity {

struct Report {
  int cases = 0, outside = 0;  // the latter with elements outside the domain of the formula
  double worst = 0;
  std::string failure;

  void fail(const std::string& what, const std::string& where) {
    if (failure.empty() && !what.empty()) failure = what + "  in " + where;
  }
};

struct Op {
  const OpInfo& info;
  const Kernel& cpu;
  const Kernel& cuda;
  unsigned seed;  // of the order of threads and blocks in the second run of each case
};

// Values that any op accepts, by name; the second takes the other side of most branches. Bit i of
// `seconds` chooses that of hyper-parameter i.
inline std::vector<double> hyper_of(const OpInfo& info, unsigned seconds) {
  struct Known {
    const char* name;
    double first, second;
  };
  const std::vector<Known> of_rules = {{"lr", 0.01, 0.5},
                                       {"eps", 1e-6, 1e-3},
                                       {"alpha", 0.9, 0.5},
                                       {"beta1", 0.9, 0.5},
                                       {"beta2", 0.99, 0.75},
                                       {"momentum", 0.9, 0.5},
                                       {"nesterov", 1, 0},
                                       {"weight_decay", 0.1, 0},
                                       {"decoupled_weight_decay", 1, 0},
                                       {"lr_decay", 0.1, 0},
                                       {"rho", 0.9, 0.5},
                                       {"lambd", 1e-3, 0},
                                       {"t0", 1e6, 10},
                                       {"momentum_decay", 0.004, 0.1},
                                       {"eta_minus", 0.5, 0.9},
                                       {"eta_plus", 1.2, 1.01},
                                       {"step_size_min", 1e-6, 0.3},
                                       {"step_size_max", 50, 0.4}};
  const std::vector<Known> of_losses = {{"alpha", 0.25, -1},
                                        {"beta", 0.7, 0},
                                        {"delta", 1, 0.3},
                                        {"eps", 1e-6, 0.3},
                                        {"full", 1, 0},
                                        {"gamma", 2, 0},
                                        {"log_input", 1, 0},
                                        {"log_target", 1, 0},
                                        {"margin", 1, 0},
                                        {"p", 1, 2},
                                        {"softcap", 5, 0},
                                        {"label_smoothing", 0.1, 0},
                                        {"lse_square_scale", 0.01, 0}};
  std::vector<double> values;
  for (int i = 0; i < info.hyper_count; ++i) {
    const bool second = (seconds >> i & 1u) != 0;
    double value = second ? 0.7 : 0.1;
    for (const Known& entry : info.shape == Shape::update ? of_rules : of_losses) {
      if (strcmp(entry.name, info.hyper[i]) == 0) value = second ? entry.second : entry.first;
    }
    values.push_back(value);
  }
  return values;
}

// Dtypes and layouts of a case. The first turns take the ways through an engine that a random choice
// would seldom hit: all float32 and dense, then all half precision and dense.
struct Draw {
  Random& random;
  DType common;
  Layout general;
  bool mixed, shuffled;

  Draw(Random& random_, int turn)
      : random(random_),
        common(turn == 0   ? DType::f32
               : turn == 1 ? (random.coin() ? DType::bf16 : DType::f16)
                           : random.dtype()),
        general(turn < 2 ? Layout::dense : Layout(random.below(4))),
        mixed(turn > 1 && random.coin()),
        shuffled(turn > 1 && random.coin()) {}

  DType dtype() { return mixed ? random.dtype() : common; }
  Layout layout(int kinds) { return shuffled ? Layout(random.below(kinds)) : general; }
};

// As many rows as columns, if `count` allows.
inline std::vector<int64_t> rectangle(int64_t count) {
  int64_t rows = 1;
  for (int64_t r = 1; r * r <= count; ++r) rows = count % r == 0 ? r : rows;
  return {rows, count / rows};
}

// Device memory of exactly the bytes that the engine asks for; all are NaN.
inline std::vector<char> poisoned_workspace(Shape shape, int64_t count) {
  return std::vector<char>(size_t(fusestep_engine()->workspace_bytes(shape, count)), char(0xff));
}

// What the emulator makes of `blank`: run(results) in order, and once more in a random order.
template <class Run>
Arrays emulate(const Op& op, const Arrays& blank, Report& report, const std::string& where, Run&& run) {
  Arrays got = clone(blank), again = clone(blank);
  emulator::set_seed(0);
  run(got);
  emulator::set_seed(op.seed);
  run(again);
  if (!same_bits(got, again)) report.fail("another order of blocks gives other bits", where);
  ++report.cases;
  return got;
}

// What a rounding error of a reduced loss is relative to: the sum of the magnitudes of `count` losses,
// divided as the loss is. run(reduction, loss) is the CPU engine's.
template <class Run>
double scale_of_sum(Reduction reduction, int64_t count, Run&& run) {
  if (reduction == Reduction::none || count == 0) return 0;
  const Array each = allocate(DType::f64, {count}, Layout::dense);
  const Array sum = allocate(DType::f64, {1}, Layout::dense), mean = sum.clone();
  run(Reduction::none, each.view);
  run(Reduction::sum, sum.view);
  run(Reduction::mean, mean.view);
  double magnitude = 0;
  for (int64_t i = 0; i < count; ++i) magnitude += std::fabs(each.at(i));
  if (reduction == Reduction::mean) magnitude *= std::fabs(mean.at(0) / sum.at(0));
  return std::isfinite(magnitude) ? magnitude : 0;
}

inline const char* name_of(DType dtype) {
  return dtype == DType::f64 ? "f64" : dtype == DType::f32 ? "f32" : dtype == DType::f16 ? "f16" : "bf16";
}

inline std::string describe(const char* name, const View& view) {
  if (view.data == nullptr) return "";
  std::string text = std::string(" ") + name + "=" + name_of(view.dtype) + "(";
  for (int d = 0; d < view.dims; ++d) {
    text += std::to_string(view.sizes[d]) + ":" + std::to_string(view.strides[d]) +
            (d + 1 < view.dims ? " " : "");
  }
  return text + (view.contiguous ? ")" : ")*") +
         (reinterpret_cast<uintptr_t>(view.data) % 16 == 0 ? "" : "+1");
}

void check_pointwise(const Op& op, Report& report);
void check_rowwise(const Op& op, Report& report);
void check_dense(const Op& op, Report& report);
void check_update(const Op& op, Report& report);
void check_vectors(unsigned seed, Report& report);  // of the op table, not of the registry
void check_launches(Report& report);                // of every op, as the next
void check_far(Report& report);

}  // namespace parity
