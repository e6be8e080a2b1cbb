// The rowwise loop: for each row its maximum, then the sums over its classes, then the gradient.
//
// A row belongs to one thread and is walked in lanes of classes, so a row alone, in a batch, strided or
// contiguous gives the same bits. Losses of a fixed number of rows are added per block, and the blocks
// in order.
#pragma once

#include "core/op_table.h"
#include "cpu/blocks.h"
#include "formulas/contracts.h"

FUSESTEP_TARGET_BEGIN

template <class T>
T row_max(const T* x, int64_t classes) {
  using V = Pack<T>;
  constexpr int L = V::lanes;
  V best[4] = {-infinity<V>(), -infinity<V>(), -infinity<V>(), -infinity<V>()};
  int64_t c = 0;
  for (; c + 4 * L <= classes; c += 4 * L) {
    for (int k = 0; k < 4; ++k) {
      const V v = load_pack(x + c + k * L);
      best[k] = select(v > best[k], v, best[k]);  // a NaN shows up again in the sums
    }
  }
  for (; c < classes; c += L) {
    const int rest = classes - c < L ? int(classes - c) : L;
    const V v = load_part(x + c, rest, T(-INFINITY));
    best[0] = select(v > best[0], v, best[0]);
  }
  return max_lanes(max(max(best[0], best[1]), max(best[2], best[3])));
}

// Sums over all classes but `label`, and in `kept` (if not null) what the formula wants back.
template <class T, class F>
void row_sums(const F& formula, const T* x, const T* weight, int64_t classes, int64_t label, T top, T* kept,
              T (&total)[F::sums]) {
  using V = Pack<T>;
  constexpr int L = V::lanes, K = F::sums, unroll = 2;
  V sum[unroll][K];
  for (auto& part : sum) {
    for (V& s : part) s = V(T(0));
  }
  const auto pack_at = [&](int64_t c, V(&into)[K]) {
    const V w = weight != nullptr ? load_pack(weight + c) : V(T(1));
    const V k = formula.visit(into, load_pack(x + c) - V(top), w);
    if (kept != nullptr) store_pack(kept + c, k);
  };
  // A pack that is cut short by the end of the row, or holds the label: those lanes do not count.
  const auto careful_pack_at = [&](int64_t c, V(&into)[K]) {
    const int rest = classes - c < L ? int(classes - c) : L;
    V next[K];
    for (int k = 0; k < K; ++k) next[k] = into[k];
    const V w = weight != nullptr ? load_part(weight + c, rest, T(0)) : V(T(1));
    const V k = formula.visit(next, load_part(x + c, rest, top) - V(top), w);
    if (kept != nullptr) store_part(kept + c, k, rest);
    using Lane = typename IntegerPack<T>::lane;
    const int64_t at = label >= c && label < c + L ? label - c : L;
    const auto lanes = lane_numbers<T>();
    const auto inside = lanes < IntegerPack<T>(Lane(rest)), other = lanes != IntegerPack<T>(Lane(at));
    const Mask<T> counts{inside.v & other.v};
    for (int k2 = 0; k2 < K; ++k2) into[k2] = select(counts, next[k2], into[k2]);
  };

  const int64_t step = unroll * L, whole = classes / step * step, label_at = label / step * step;
  const auto run = [&](int64_t from, int64_t to) {
    for (int64_t c = from; c < to; c += step) {
      for (int u = 0; u < unroll; ++u) pack_at(c + u * L, sum[u]);
    }
  };
  const auto careful_run = [&](int64_t from, int64_t to) {
    for (int64_t c = from; c < to; c += L) careful_pack_at(c, sum[(c / L) % unroll]);
  };
  if (label_at < whole) {
    run(0, label_at);
    careful_run(label_at, label_at + step);
    run(label_at + step, whole);
  } else {
    run(0, whole);
  }
  careful_run(whole, classes);
  for (int k = 0; k < K; ++k) total[k] = T(sum_lanes(sum[0][k] + sum[1][k]));
}

template <class T, class F>
void row_grad(const F& formula, const Row<T>& row, T* kept, const T* weight, int64_t classes, int64_t label,
              T scale) {
  using V = Pack<T>;
  constexpr int L = V::lanes;
  int64_t c = 0;
  for (; c + L <= classes; c += L) {
    const V w = weight != nullptr ? load_pack(weight + c) : V(T(1));
    store_pack(kept + c, formula.grad(row, load_pack(kept + c), w) * V(scale));
  }
  if (c < classes) {
    const int rest = int(classes - c);
    const V w = weight != nullptr ? load_part(weight + c, rest, T(1)) : V(T(1));
    store_part(kept + c, formula.grad(row, load_part(kept + c, rest, T(0)), w) * V(scale), rest);
  }
  kept[label] = row.label_grad * scale;
}

// Rows gathered side by side, so that a class dimension with a stride is read a cache line at a time.
template <class T>
void gather_rows(const View& view, int64_t first, int rows, int64_t classes, T* to) {
  const int lead = view.dims - 1;
  const int64_t stride = view.strides[lead];
  int64_t base[64];
  for (int r = 0; r < rows; ++r) base[r] = offset_of(view, first + r, lead);
  dispatch_floating(view.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    if (stride == 1) {
      for (int r = 0; r < rows; ++r) {
        const S* from = element<S>(view, base[r]);
        for (int64_t c = 0; c < classes; c += kBlock) {
          widen_run(from + c, to + r * classes + c, int(classes - c < kBlock ? classes - c : kBlock));
        }
      }
    } else {
      for (int64_t c = 0; c < classes; ++c) {
        for (int r = 0; r < rows; ++r) {
          to[r * classes + c] = T(widen(load<S>(element<S>(view, base[r] + c * stride))));
        }
      }
    }
  });
}

template <class T>
void scatter_rows(const View& view, int64_t first, int rows, int64_t classes, const T* from) {
  const int lead = view.dims - 1;
  const int64_t stride = view.strides[lead];
  int64_t base[64];
  for (int r = 0; r < rows; ++r) base[r] = offset_of(view, first + r, lead);
  dispatch_floating(view.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    if (stride == 1) {
      for (int r = 0; r < rows; ++r) {
        S* to = element<S>(view, base[r]);
        for (int64_t c = 0; c < classes; c += kBlock) {
          narrow_run(from + r * classes + c, to + c, int(classes - c < kBlock ? classes - c : kBlock));
        }
      }
    } else {
      for (int64_t c = 0; c < classes; ++c) {
        for (int r = 0; r < rows; ++r) {
          S stored;
          narrow(from[r * classes + c], stored);
          memcpy(element<S>(view, base[r] + c * stride), &stored, sizeof(S));
        }
      }
    }
  });
}

template <class T>
FUSESTEP_HD bool rows_in_place(const View& view) {
  const int last = view.dims - 1;
  return view.dtype == dtype_of<T>() && (view.contiguous || view.strides[last] == 1);
}

template <class T>
FUSESTEP_HD T* row_in_place(const View& view, int64_t row, int64_t classes) {
  return element<T>(view, view.contiguous ? row * classes : offset_of(view, row, view.dims - 1));
}

// Every label checked, and the weights of the kept rows added up, before anything is written.
template <class T>
BadLabel check_labels(const RowwiseArgs& args, double& kept_weight) {
  double sum = 0;
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t label = load_integer(args.target, r);
    if (label == args.ignore_index) continue;
    if (label < 0 || label >= args.classes) return {true, label};
    sum += present(args.weight) ? load_floating<double>(args.weight, offset_of(args.weight, label)) : 1.0;
  }
  kept_weight = sum;
  return {false, 0};
}

template <class T, class F>
BadLabel rowwise_run(const RowwiseArgs& args) {
  double kept_weight = 0;
  const BadLabel bad = check_labels<T>(args, kept_weight);
  if (bad.found) return bad;

  const F formula(args.hyper);
  const int64_t rows = args.rows, classes = args.classes;
  const bool each = args.reduction == Reduction::none, mean = args.reduction == Reduction::mean;
  const bool with_grad = present(args.grad_input), with_loss = present(args.loss);
  const double norm = mean ? 1.0 / kept_weight : 1.0;
  const double seed = !each && present(args.seed) ? load_floating<double>(args.seed, 0) : 1.0;

  // Rows a block: a function of the row length alone, and few enough to be gathered together.
  const int64_t wish = 16384 / (classes > 0 ? classes : 1);
  const int64_t tile = wish < 1 ? 1 : wish > 64 ? 64 : wish;
  const int64_t blocks = (rows + tile - 1) / tile;
  double* partial = static_cast<double*>(thread_scratch(0, (blocks + 1) * int64_t(sizeof(double))));

  const T* weight = nullptr;
  if (present(args.weight)) {
    T* copy = static_cast<T*>(thread_scratch(2, (classes + 1) * int64_t(sizeof(T))));
    for (int64_t c = 0; c < classes; ++c) copy[c] = load_floating<T>(args.weight, offset_of(args.weight, c));
    weight = copy;
  }

  const bool read_in_place = rows_in_place<T>(args.input);
  const bool write_in_place = with_grad && rows_in_place<T>(args.grad_input);
  auto body = [&](int64_t begin, int64_t end) {
    const int64_t cells = tile * classes;
    T* buffer = static_cast<T*>(thread_scratch(1, 2 * (cells + 1) * int64_t(sizeof(T))));
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * tile;
      const int count = int(rows - first < tile ? rows - first : tile);
      if (!read_in_place) gather_rows(args.input, first, count, classes, buffer);
      double sum = 0;
      for (int r = 0; r < count; ++r) {
        const int64_t row = first + r, label = load_integer(args.target, row);
        T* kept = nullptr;
        if (with_grad) {
          kept =
              write_in_place ? row_in_place<T>(args.grad_input, row, classes) : buffer + cells + r * classes;
        }
        // The second bound is for a label that another thread changes after check_labels.
        if (label == args.ignore_index || uint64_t(label) >= uint64_t(classes)) {
          for (int64_t c = 0; kept != nullptr && c < classes; ++c) kept[c] = T(0);
          if (with_loss && each) store_floating(args.loss, offset_of(args.loss, row), T(0));
          continue;
        }
        const T* x = read_in_place ? row_in_place<T>(args.input, row, classes) : buffer + r * classes;
        const T top = row_max(x, classes), w = weight != nullptr ? weight[label] : T(1);
        T sums[F::sums];
        row_sums(formula, x, weight, classes, label, top, kept, sums);
        const Row<T> result = formula.loss(sums, x[label] - top, w, T(classes));
        sum += double(result.loss);
        if (with_loss && each) store_floating(args.loss, offset_of(args.loss, row), result.loss);
        if (with_grad) {
          const double own =
              each && present(args.seed) ? load_floating<double>(args.seed, offset_of(args.seed, row)) : seed;
          row_grad(formula, result, kept, weight, classes, label, T(norm * own));
        }
      }
      partial[b] = sum;
      if (with_grad && !write_in_place) {
        scatter_rows(args.grad_input, first, count, classes, buffer + cells);
      }
    }
  };
  parallel_for(blocks, rows * classes, body);
  if (with_loss && !each) {
    double sum = 0;
    for (int64_t b = 0; b < blocks; ++b) sum += partial[b];
    store_floating(args.loss, 0, mean ? sum / kept_weight : sum);
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
