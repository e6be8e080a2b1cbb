// What one call over rows of classes shares among its blocks, whatever the target is.
#pragma once

#include "cpu/row_memory.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T, class Args>
class RowCall {
 public:
  // `divisor`: of the losses and their gradients, if they are reduced to a mean.
  RowCall(const Args& args, double divisor)
      : args_(args),
        weight_(dense_weights<T>(args.weight, args.classes)),
        tile_rows_(tile_rows_for(args.classes)) {
    norm_ = args.reduction == Reduction::mean ? 1.0 / divisor : 1.0;
    if (args.reduction != Reduction::none && present(args.seed)) norm_ *= load_floating<double>(args.seed, 0);
  }

  int64_t blocks() const { return (args_.rows + tile_rows_ - 1) / tile_rows_; }

 protected:
  int64_t first_row(int64_t block) const { return block * tile_rows_; }
  int rows_of(int64_t block) const {
    const int64_t rest = args_.rows - first_row(block);
    return int(rest < tile_rows_ ? rest : tile_rows_);
  }

  T scale_of(int64_t row) const {
    if (args_.reduction != Reduction::none || !present(args_.seed)) return T(norm_);
    return T(load_floating<double>(args_.seed, offset_of(args_.seed, row)));
  }

  void store_loss(int64_t row, T loss) const {
    if (args_.reduction == Reduction::none && present(args_.loss)) {
      store_floating(args_.loss, offset_of(args_.loss, row), loss);
    }
  }

  const Args& args_;
  const T* weight_;  // a dense copy, or null
  const int64_t tile_rows_;

  // Calls work(std::true_type) if scores are of a half type (see Rough), else work(std::false_type).
  template <class Work>
  auto by_digits(Work&& work) const {
    if constexpr (sizeof(T) == sizeof(float)) {
      if (size_of(args_.input.dtype) == 2) return work(std::true_type{});
    }
    return work(std::false_type{});
  }

 private:
  double norm_;  // what every gradient is multiplied by, if the loss is reduced
};

FUSESTEP_TARGET_END
