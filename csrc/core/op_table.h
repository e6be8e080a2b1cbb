// What crosses from the bindings to an engine: one argument struct per shape, one table per engine.
#pragma once

#include "core/count.h"
#include "core/view.h"

namespace fusestep {

enum class Shape : uint8_t { pointwise, rowwise, dense, update, vectors };
enum class Reduction : uint8_t { none, mean, sum };

constexpr int kMaxOperands = 3;
constexpr int kMaxStates = 3;
constexpr int kMaxNumbers = 3;

// Loss, gradients, or both, of one loss call. Absent outputs are not computed. All element-wise views
// have the same logical sizes. Reduced, `loss` and `seed` are single elements; otherwise they have one
// element per loss element. An absent seed, weight or operand means 1.
struct PointwiseArgs {
  View operand[kMaxOperands];
  View weight;
  View loss, grad[kMaxOperands];
  View seed;
  Reduction reduction;
  double divisor;  // of a mean, if not 0; else the engine's: the number of elements or their weight
  const double* hyper;
  void* stream;
  void* workspace;  // CUDA: workspace_bytes of device memory, ordered by `stream`
};

// The class dimension of `input` and `grad_input` comes last; the dimensions before it are those of
// `target`, `loss` and `seed`. `weight` has one element per class.
struct RowwiseArgs {
  View input, target, weight;
  View loss, grad_input;
  View seed;
  Reduction reduction;
  int64_t rows, classes;
  bool ignores;  // whether rows with the label ignore_index are left out
  int64_t ignore_index;
  const double* hyper;
  void* stream;
  void* workspace;
};

// As RowwiseArgs, with a target that has a number for each class, or with none. `first` and `second` are
// the formula's results (contracts.h); a mean divides by `rows`.
struct DenseArgs {
  View input, target, weight;
  View loss, first, second;
  View seed;
  Reduction reduction;
  int64_t rows, classes;
  const double* hyper;
  void* stream;
  void* workspace;
};

// How a parameter of 16 bits is stored: to the nearest value; up or down at random, so that the mean is
// right; or to the nearest, with what was lost kept in `lost` and put back at the next step.
enum class Rounding : uint8_t { nearest, stochastic, kahan };

// What becomes of the gradients once they are read. `unscaled`: multiplied by |grad_scale|.
enum class Gradients : uint8_t { kept, unscaled, cleared };

// The rows of a parameter that a sparse gradient has values for, each once. On the CPU the gradient of
// row[i] is the sum of its rows order[first[i]] … order[first[i+1] - 1], in this order; without `first` it is
// its row i.
struct Rows {
  const int64_t* row = nullptr;  // null: all of a parameter that is updated element by element
  const int64_t* first = nullptr;
  const int64_t* order = nullptr;
  int64_t count = 0;
  int64_t length = 0;  // elements of a row
};

// One tensor of an update. Views have the same logical sizes, but for the gradient of some `rows`.
struct UpdateItem {
  View param, grad;
  View state[kMaxStates];
  View average;  // of the parameter over time, or absent
  View lost;     // in rounding, or absent
  const double* hyper;
  Count number[kMaxNumbers];  // those of the formula
  double grad_scale;          // what gradients are multiplied by; negative to ascend
  double max_norm;            // what the norm of all gradients is clipped to; 0 if it is not
  double decay;               // of the average; 0 makes it a copy
  Rounding rounding;
  uint64_t seed;  // of stochastic rounding
  Rows rows;
  // CUDA: where numbers and hyper-parameters lie that are on the device: the engine reads them there, and
  // counts the numbers on. What is not there is absent, and counted by the caller; `hyper_at` may be null.
  View number_at[kMaxNumbers];
  const View* hyper_at = nullptr;
};

struct UpdateArgs {
  const UpdateItem* items;
  int64_t count;
  bool in_order;        // items share memory: finish one before the next
  Gradients gradients;  // no two items share one that is written
  const double* norm;   // of all gradients, as NormArgs has it; or null
  void* stream;
  void* workspace = nullptr;
  // CUDA: single numbers on the device, or null. All gradients are divided by `loss_scale`; if `found_inf` is
  // not 0, nothing is updated, nor counted, nor written to gradients. Source: torch.amp.GradScaler.
  const float* loss_scale = nullptr;
  const float* found_inf = nullptr;
};

// Whether what an item is updated by is known on the device only.
inline bool is_known_on_device(const UpdateItem& item) {
  bool known = item.hyper_at != nullptr;
  for (const View& view : item.number_at) known = known || view.data != nullptr;
  return known;
}

// The norm of all gradients, each times its grad_scale, of the items that have a max_norm.
struct NormArgs {
  const UpdateItem* items;
  int64_t count;
  double* norm;  // where it goes: in the memory of the engine
  void* stream;
  void* workspace;
  const float* loss_scale = nullptr;  // as UpdateArgs has it
};

// result[i * columns + j] = the scalar product of a[i] and b[j], in double: the same bits for a pair of
// vectors whatever it is computed together with. All views have the same number of elements.
struct DotsArgs {
  const View* a;
  int64_t rows;
  const View* b;
  int64_t columns;
  double* result;  // where the vectors are
  void* stream;
  void* workspace;
};

// out = the sum of coefficient[i] * vectors[i], in double, rounded once. `out` may be the first of the
// vectors.
struct CombineArgs {
  View out;
  const View* vectors;
  const double* coefficients;
  int64_t count;  // of the vectors, at least 1
  void* stream;
};

// CPU engines report a label that is neither a class nor ignore_index, before writing anything; CUDA
// engines, which do not wait for the device, put NaN into that row instead.
struct BadLabel {
  bool found;
  int64_t label;
};

// A pointwise kernel of a formula with a domain returns whether all operands lay inside it; CUDA
// engines put NaN into the elements that did not, and return true.
struct Kernel {
  bool (*pointwise)(const PointwiseArgs&);
  BadLabel (*rowwise)(const RowwiseArgs&);
  void (*dense)(const DenseArgs&);
  void (*update)(const UpdateArgs&);
};

// An engine: kernels in the order of registry.def. `error`, if not null, tells what went wrong since it
// was last asked (a CUDA launch), or null.
struct OpTable {
  const char* target;
  const char* ops;  // their names, a space after each: two modules must agree on the order
  const Kernel* kernels;
  void (*norm)(const NormArgs&);
  void (*dots)(const DotsArgs&);
  void (*combine)(const CombineArgs&);
  int64_t (*workspace_bytes)(Shape, int64_t count);
  const char* (*error)();
  int (*enter_device)(int index);          // makes it current, returns the one that was
  const char* (*why_unusable)(int index);  // null if kernels can run on this device
};

}  // namespace fusestep

FUSESTEP_TARGET_BEGIN

// What gradients of this norm are multiplied by to have at most `max_norm`. A norm that is NaN makes them
// NaN, an infinite one zero (and infinite ones NaN). Source: torch.nn.utils.clip_grad_norm_.
FUSESTEP_HD double clip_factor(double norm, double max_norm) {
  const double factor = max_norm / (norm + 1e-6);
  return factor >= 1 ? 1 : factor;
}

FUSESTEP_TARGET_END
