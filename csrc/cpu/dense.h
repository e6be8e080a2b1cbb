// The dense loop: as the rowwise one, for targets that are rows themselves, and for rows without a target.
#pragma once

#include "core/op_table.h"
#include "cpu/dense_rows.h"
#include "cpu/row_call.h"

FUSESTEP_TARGET_BEGIN

// One call, shared by its blocks of rows.
template <class T, class F>
class DenseCall : RowCall<T, DenseArgs> {
  using Base = RowCall<T, DenseArgs>;
  using Base::args_, Base::weight_, Base::tile_rows_;

 public:
  using Base::blocks;

  explicit DenseCall(const DenseArgs& args)
      : Base(args, double(args.rows)), formula_(args.hyper, double(args.classes)) {}

  // Returns the sum of the block's losses.
  double run_block(int64_t block) const {
    const int64_t first = this->first_row(block);
    const int rows = this->rows_of(block);
    return args_.classes <= kNarrow ? run_narrow(first, rows) : run_wide(first, rows);
  }

 private:
  bool with_results() const { return present(args_.first) || present(args_.second); }

  T scale_of(int64_t row) const { return F::has_loss ? Base::scale_of(row) : T(1); }

  void store_loss(int64_t row, T loss) const {
    if (F::has_loss) Base::store_loss(row, loss);
  }

  double run_narrow(int64_t first, int rows) const {
    auto& tile = *static_cast<DenseTile<T>*>(thread_scratch(1, sizeof(DenseTile<T>)));
    const int64_t classes = args_.classes;
    if (rows < kTileRows) memset(&tile, 0, sizeof(tile));  // lanes without a row compute on zeros
    const auto lay = [](T* data) { return Tile<T>{data, 1, kTileRows}; };
    gather_rows(args_.input, first, rows, classes, lay(tile.x));
    if (present(args_.target)) gather_rows(args_.target, first, rows, classes, lay(tile.target));
    for (int r = 0; r < rows; ++r) tile.scale[r] = scale_of(first + r);
    this->by_digits(
        [&](auto rough) { narrow_dense<rough>(formula_, tile, weight_, classes, rows, with_results()); });
    double sum = 0;
    for (int r = 0; r < rows; ++r) {
      sum += double(tile.loss[r]);
      store_loss(first + r, tile.loss[r]);
    }
    if (present(args_.first)) scatter_rows(args_.first, first, rows, classes, lay(tile.first));
    if (present(args_.second)) scatter_rows(args_.second, first, rows, classes, lay(tile.second));
    return sum;
  }

  double run_wide(int64_t first, int rows) const {
    return by_storage<T>([&](auto tag) { return lie_in<typename decltype(tag)::type>(); },
                         [&](auto tag) { return run_as(tag, first, rows); });
  }

  double run_as(Tag<T>, int64_t first, int rows) const {
    const int64_t classes = args_.classes, cells = tile_rows_ * classes;
    T* buffer = static_cast<T*>(thread_scratch(1, 4 * cells * int64_t(sizeof(T))));
    // Operands and results are used where they lie if they are dense, else by way of a tile.
    const auto tile_of = [&](int k) { return Tile<T>{buffer + k * cells, classes, 1}; };
    const auto line_of = [&](int k, int r) -> T* {
      if (!present(*views_[k])) return nullptr;
      return rows_in_place<T>(*views_[k]) ? row_in_place<T>(*views_[k], first + r, classes)
                                          : tile_of(k).data + r * classes;
    };
    const auto moves = [&](int k) { return present(*views_[k]) && !rows_in_place<T>(*views_[k]); };
    for (int k = 0; k < 2; ++k) {
      if (moves(k)) gather_rows(*views_[k], first, rows, classes, tile_of(k));
    }
    double sum = 0;
    for (int r = 0; r < rows; ++r) {
      T *result = line_of(2, r), *second = line_of(3, r);
      T* kept = result != nullptr ? result : with_results() ? tile_of(2).data + r * classes : nullptr;
      sum += one_row(first + r,
                     DenseLine<T, T>{line_of(0, r), line_of(1, r), weight_, kept, result, second, classes});
    }
    for (int k = 2; k < 4; ++k) {
      if (moves(k)) scatter_rows(*views_[k], first, rows, classes, tile_of(k));
    }
    return sum;
  }

  template <class S>
  bool lie_in() const {
    for (const View* view : views_) {
      if (present(*view) && !rows_in_place<S>(*view)) return false;
    }
    return true;
  }

  // Rows of a storage type that is converted pack by pack.
  template <class S>
  double run_as(Tag<S>, int64_t first, int rows) const {
    const int64_t classes = args_.classes;
    T* buffer = static_cast<T*>(thread_scratch(1, classes * int64_t(sizeof(T))));
    T* kept = with_results() ? buffer : nullptr;
    double sum = 0;
    for (int64_t row = first; row < first + rows; ++row) {
      const auto line_of = [&](int k) {
        return present(*views_[k]) ? row_in_place<S>(*views_[k], row, classes) : nullptr;
      };
      sum += one_row(row,
                     DenseLine<T, S>{line_of(0), line_of(1), weight_, kept, line_of(2), line_of(3), classes});
    }
    return sum;
  }

  template <class S>
  double one_row(int64_t row, const DenseLine<T, S>& line) const {
    const T loss =
        this->by_digits([&](auto rough) { return wide_dense<rough>(formula_, line, scale_of(row)); });
    store_loss(row, loss);
    return double(loss);
  }

  const View* const views_[4] = {&args_.input, &args_.target, &args_.first, &args_.second};
  const F formula_;
};

template <class T, class F>
void dense_run(const DenseArgs& args) {
  const DenseCall<T, F> call(args);
  const double sum = sum_over_blocks(call, args.rows * args.classes);
  if (F::has_loss && args.reduction != Reduction::none && present(args.loss)) {
    store_floating(args.loss, 0, args.reduction == Reduction::mean ? sum / double(args.rows) : sum);
  }
}

template <template <class> class F>
struct Dense {
  static_assert(check_dense<F>(), "");

  static void run(const DenseArgs& args) {
    const bool wide = args.input.dtype == DType::f64 ||
                      (present(args.target) && args.target.dtype == DType::f64) ||
                      (present(args.weight) && args.weight.dtype == DType::f64) ||
                      (!F<float>::has_loss && present(args.first) && args.first.dtype == DType::f64);
    wide ? dense_run<double, F<double>>(args) : dense_run<float, F<float>>(args);
  }
};

FUSESTEP_TARGET_END
