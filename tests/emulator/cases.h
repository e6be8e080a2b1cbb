// What the checks of the three shapes share: the two engines, hyper-parameters, and the report.
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
  int cases = 0;
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

// Values that any op accepts, by name; the second set takes the other side of most branches.
inline std::vector<double> hyper_of(const OpInfo& info, bool second) {
  const struct {
    const char* name;
    double first, second;
  } known[] = {{"lr", 0.01, 0.5},          {"eps", 1e-6, 1e-3},      {"alpha", 0.9, 0.5},
               {"beta1", 0.9, 0.5},        {"beta2", 0.99, 0.75},    {"momentum", 0.9, 0.5},
               {"nesterov", 1, 0},         {"weight_decay", 0.1, 0}, {"decoupled_weight_decay", 1, 0},
               {"label_smoothing", 0.1, 0}};
  std::vector<double> values;
  for (int i = 0; i < info.hyper_count; ++i) {
    double value = second ? 0.7 : 0.1;
    for (const auto& entry : known) {
      if (strcmp(entry.name, info.hyper[i]) == 0) value = second ? entry.second : entry.first;
    }
    values.push_back(value);
  }
  return values;
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
void check_update(const Op& op, Report& report);

}  // namespace parity
