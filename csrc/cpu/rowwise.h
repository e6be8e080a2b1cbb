// The rowwise loop: for each row its maximum, then the sums over its classes, then the gradient.
//
// A row belongs to one thread and its arithmetic depends on its length alone, so a row by itself, in a
// batch, strided or contiguous gives the same bits. Losses of a fixed number of rows are added per block,
// and the blocks in order.
#pragma once

#include "core/op_table.h"
#include "cpu/narrow_rows.h"
#include "cpu/row_call.h"
#include "cpu/wide_rows.h"

FUSESTEP_TARGET_BEGIN

// Every label checked, and the weights of the kept rows added up, before anything is written.
inline BadLabel check_labels(const RowwiseArgs& args, bool weighted, double& kept_weight) {
  weighted = weighted && present(args.weight);
  double sum = 0;
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t label = load_integer(args.target, offset_of(args.target, r));
    if (args.ignores && label == args.ignore_index) continue;
    if (label < 0 || label >= args.classes) return {true, label};
    sum += weighted ? load_floating<double>(args.weight, offset_of(args.weight, label)) : 1.0;
  }
  kept_weight = sum;
  return {false, 0};
}

// One call, shared by its blocks of rows.
template <class T, class F>
class RowwiseCall : RowCall<T, RowwiseArgs> {
  using Base = RowCall<T, RowwiseArgs>;
  using Base::args_, Base::weight_, Base::tile_rows_, Base::scale_of, Base::store_loss;

 public:
  using Base::blocks;

  RowwiseCall(const RowwiseArgs& args, double kept_weight) : Base(args, kept_weight), formula_(args.hyper) {}

  // Returns the sum of the block's losses.
  double run_block(int64_t block) const {
    const int64_t first = this->first_row(block);
    const int rows = this->rows_of(block);
    if constexpr (!F::reads_row) {
      return run_own(first, rows);
    } else {
      return args_.classes <= kNarrow ? run_narrow(first, rows) : run_wide(first, rows);
    }
  }

 private:
  bool with_grad() const { return present(args_.grad_input); }

  // The label of a row, or -1. The bounds are for one that another thread changes after check_labels.
  int64_t label_of(int64_t row) const {
    const int64_t label = load_integer(args_.target, offset_of(args_.target, row));
    const bool ignored = args_.ignores && label == args_.ignore_index;
    return ignored || uint64_t(label) >= uint64_t(args_.classes) ? -1 : label;
  }

  T weight_of(int64_t label) const { return weight_ != nullptr ? weight_[label] : T(1); }

  // Of each row only the label's score is read, and only its gradient is not zero.
  double run_own(int64_t first, int rows) const {
    const int64_t classes = args_.classes;
    const auto at = [](const View& view, int64_t row, int64_t label) {
      const int last = view.dims - 1;
      return offset_of(view, row, last) + label * view.strides[last];
    };
    if (with_grad()) clear_rows(args_.grad_input, first, rows, classes);
    double sum = 0;
    for (int64_t row = first; row < first + rows; ++row) {
      const int64_t label = label_of(row);
      Row<T> result{};
      if (label >= 0) {
        const T own = load_floating<T>(args_.input, at(args_.input, row, label));
        const T none[F::sums] = {};
        result = formula_.loss(none, own, T(0), weight_of(label), T(classes));
        if (with_grad()) {
          const T grad = result.label_grad * scale_of(row);
          store_floating(args_.grad_input, at(args_.grad_input, row, label), grad);
        }
      }
      sum += double(result.loss);
      store_loss(row, result.loss);
    }
    return sum;
  }

  double run_narrow(int64_t first, int rows) const {
    auto& tile = *static_cast<NarrowTile<T>*>(thread_scratch(1, sizeof(NarrowTile<T>)));
    const int64_t classes = args_.classes;
    if (rows < kTileRows) memset(&tile, 0, sizeof(tile));  // lanes without a row compute on zeros
    gather_rows(args_.input, first, rows, classes, Tile<T>{tile.x, 1, kTileRows});
    for (int r = 0; r < rows; ++r) {
      tile.label[r] = integer_of<T>(label_of(first + r));
      tile.scale[r] = scale_of(first + r);
    }
    this->by_digits(
        [&](auto rough) { narrow_rows<rough>(formula_, tile, weight_, classes, rows, with_grad()); });
    double sum = 0;
    for (int r = 0; r < rows; ++r) {
      sum += double(tile.loss[r]);
      store_loss(first + r, tile.loss[r]);
    }
    if (with_grad()) scatter_rows(args_.grad_input, first, rows, classes, Tile<T>{tile.grad, 1, kTileRows});
    return sum;
  }

  double run_wide(int64_t first, int rows) const {
    return by_storage<T>([&](auto tag) { return lies_in<typename decltype(tag)::type>(); },
                         [&](auto tag) { return run_as(tag, first, rows); });
  }

  // Where rows are not dense, by way of a tile.
  double run_as(Tag<T>, int64_t first, int rows) const {
    const int64_t classes = args_.classes, cells = tile_rows_ * classes;
    const bool read_in_place = rows_in_place<T>(args_.input);
    const bool write_in_place = with_grad() && rows_in_place<T>(args_.grad_input);
    T* buffer = static_cast<T*>(thread_scratch(1, 2 * cells * int64_t(sizeof(T))));
    const Tile<T> input{buffer, classes, 1}, output{buffer + cells, classes, 1};
    if (!read_in_place) gather_rows(args_.input, first, rows, classes, input);
    const double sum = run_batches<T>(first, rows, [&](int r) {
      const int64_t row = first + r;
      const T* x = read_in_place ? row_in_place<T>(args_.input, row, classes) : input.data + r * classes;
      T* grad = !with_grad()     ? nullptr
                : write_in_place ? row_in_place<T>(args_.grad_input, row, classes)
                                 : output.data + r * classes;
      return Line<T>{x, grad, grad};
    });
    if (with_grad() && !write_in_place) scatter_rows(args_.grad_input, first, rows, classes, output);
    return sum;
  }

  template <class S>
  bool lies_in() const {
    return rows_in_place<S>(args_.input) && (!with_grad() || rows_in_place<S>(args_.grad_input));
  }

  // Rows of a storage type that is converted pack by pack.
  template <class S>
  double run_as(Tag<S>, int64_t first, int rows) const {
    using Batch = RowBatch<T, F>;
    const int64_t classes = args_.classes;
    const int turn = Batch::rows_for(classes);
    T* buffer = static_cast<T*>(thread_scratch(1, turn * classes * int64_t(sizeof(T))));
    return run_batches<S>(first, rows, [&](int r) {
      const S* x = row_in_place<S>(args_.input, first + r, classes);
      if (!with_grad()) return Line<S>{x, nullptr, nullptr};
      return Line<S>{x, buffer + r % turn * classes, row_in_place<S>(args_.grad_input, first + r, classes)};
    });
  }

  // Where a row is. Without a gradient there is no memory to keep anything for it.
  template <class S>
  struct Line {
    const S* x;
    T* kept;
    S* grad;
  };

  template <class S, class LineOf>
  double run_batches(int64_t first, int rows, LineOf&& line_of) const {
    using Batch = RowBatch<T, F>;
    const int64_t classes = args_.classes;
    const int turn = Batch::rows_for(classes);
    double sum = 0;
    for (int from = 0; from < rows; from += turn) {
      const int count = rows - from < turn ? rows - from : turn;
      Batch batch{};
      for (int i = 0; i < count; ++i) {
        batch.label[i] = label_of(first + from + i);
        if (batch.label[i] >= 0) sum_row(batch, i, line_of(from + i));
      }
      batch.finish(formula_, classes);
      for (int i = 0; i < count; ++i) {
        const int64_t row = first + from + i, label = batch.label[i];
        const Line<S> line = line_of(from + i);
        const Row<T> result = label < 0 ? Row<T>{} : batch.row(i);
        if (line.kept != nullptr && label < 0) memset(line.grad, 0, size_t(classes) * sizeof(S));
        if (line.kept != nullptr && label >= 0) {
          row_grad(formula_, result, line.x, line.kept, weight_, classes, label, scale_of(row), line.grad);
        }
        sum += double(result.loss);
        store_loss(row, result.loss);
      }
    }
    return sum;
  }

  template <class S>
  void sum_row(RowBatch<T, F>& batch, int i, const Line<S>& line) const {
    const int64_t classes = args_.classes, label = batch.label[i];
    const T own = T(widen(load<S>(line.x + label)));
    const T level = formula_.level(F::finds_max ? row_max<T>(line.x, classes) : T(0), own);
    T sums[F::sums];
    this->by_digits([&](auto rough) {
      row_sums<rough>(formula_, line.x, weight_, classes, label, level, line.kept, line.grad, sums);
    });
    for (int k = 0; k < F::sums; ++k) batch.sums[k][i] = sums[k];
    batch.own[i] = own;
    batch.level[i] = level;
    batch.weight[i] = weight_of(label);
  }

  const F formula_;
};

template <class T, class F>
BadLabel rowwise_run(const RowwiseArgs& args) {
  double kept_weight = 0;
  const BadLabel bad = check_labels(args, F::weighted_mean, kept_weight);
  if (bad.found) return bad;
  const RowwiseCall<T, F> call(args, kept_weight);
  const double sum = sum_over_blocks(call, args.rows * args.classes);
  if (args.reduction != Reduction::none && present(args.loss)) {
    store_floating(args.loss, 0, args.reduction == Reduction::mean ? sum / kept_weight : sum);
  }
  return bad;
}

template <template <class> class F>
struct Rowwise {
  static_assert(check_rowwise<F>(), "");

  static BadLabel run(const RowwiseArgs& args) {
    return args.input.dtype == DType::f64 ? rowwise_run<double, F<double>>(args)
                                          : rowwise_run<float, F<float>>(args);
  }
};

FUSESTEP_TARGET_END
