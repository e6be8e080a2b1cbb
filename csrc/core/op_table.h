// What crosses from the bindings to an engine: one argument struct per shape, one table per engine.
#pragma once

#include "core/view.h"

namespace fusestep {

enum class Shape : uint8_t { pointwise, rowwise, dense, update };
enum class Reduction : uint8_t { none, mean, sum };

constexpr int kMaxOperands = 3;
constexpr int kMaxStates = 3;

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

// One tensor of an update. Views have the same logical sizes.
struct UpdateItem {
  View param, grad;
  View state[kMaxStates];
  const double* hyper;
  double step;
  double grad_scale;  // what gradients are multiplied by; negative to ascend
};

struct UpdateArgs {
  const UpdateItem* items;
  int64_t count;
  bool in_order;  // items share memory: finish one before the next
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
  int64_t (*workspace_bytes)(Shape, int64_t count);
  const char* (*error)();
  int (*enter_device)(int index);  // makes it current, returns the one that was
};

}  // namespace fusestep
