// Rows of classes between memory of any layout and tiles of the compute type.
#pragma once

#include "cpu/blocks.h"
#include "cpu/transpose.h"

FUSESTEP_TARGET_BEGIN

constexpr int kTileRows = 64;  // at most

// Rows a block: a function of the row length alone, and few enough to be gathered together.
inline int64_t tile_rows_for(int64_t classes) {
  const int64_t wish = 16384 / (classes > 0 ? classes : 1);
  return wish < 1 ? 1 : wish > kTileRows ? kTileRows : wish;
}

// Class weights as a dense copy, valid until the thread's next loss; null where there are none.
template <class T>
const T* dense_weights(const View& weight, int64_t classes) {
  if (!present(weight)) return nullptr;
  T* copy = static_cast<T*>(thread_scratch(2, (classes + 1) * int64_t(sizeof(T))));
  for (int64_t c = 0; c < classes; ++c) copy[c] = load_floating<T>(weight, offset_of(weight, c));
  return copy;
}

// Runs all blocks of a call and adds up their losses in order.
template <class Call>
double sum_over_blocks(const Call& call, int64_t work) {
  const int64_t blocks = call.blocks();
  double* partial = static_cast<double*>(thread_scratch(0, (blocks + 1) * int64_t(sizeof(double))));
  auto body = [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) partial[b] = call.run_block(b);
  };
  parallel_for(blocks, work, body);
  double sum = 0;
  for (int64_t b = 0; b < blocks; ++b) sum += partial[b];
  return sum;
}

// Where a tile keeps class c of its row r: data[r * row_step + c * class_step].
template <class T>
struct Tile {
  T* data;
  int64_t row_step, class_step;
};

// Calls move(tile offset, view offset, length) for runs that are dense on both sides, and otherwise for
// single elements, in an order that reads a strided class dimension a cache line at a time.
template <class T, class Move>
void for_each_run(const View& view, int64_t first, int rows, int64_t classes, const Tile<T>& tile,
                  Move&& move) {
  if (rows == 0) return;
  const int lead = view.dims - 1;
  const int64_t stride = view.strides[lead];
  int64_t base[kTileRows];
  bool rows_adjoin = true;
  for (int r = 0; r < rows; ++r) {
    base[r] = offset_of(view, first + r, lead);
    rows_adjoin = rows_adjoin && base[r] == base[0] + r;
  }
  if (stride == 1 && tile.class_step == 1) {
    for (int r = 0; r < rows; ++r) move(r * tile.row_step, base[r], classes);
  } else if (rows_adjoin && tile.row_step == 1) {
    for (int64_t c = 0; c < classes; ++c) move(c * tile.class_step, base[0] + c * stride, rows);
  } else if (stride == 1) {
    for (int r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < classes; ++c) move(r * tile.row_step + c * tile.class_step, base[r] + c, 1);
    }
  } else {
    for (int64_t c = 0; c < classes; ++c) {
      for (int r = 0; r < rows; ++r) {
        move(r * tile.row_step + c * tile.class_step, base[r] + c * stride, 1);
      }
    }
  }
}

// Calls square(row of the tile, row(i): its elements in the view) for the rows that fill packs, if they have
// to be turned: dense in memory, side by side in the tile. Returns how many rows that were.
template <class S, class T, class Square>
int for_each_square(const View& view, int64_t first, int rows, const Tile<T>& tile, Square&& square) {
  const int lead = view.dims - 1;
  if (view.strides[lead] != 1 || tile.row_step != 1) return 0;
  constexpr int L = Pack<T>::lanes;
  int r = 0;
  for (; r + L <= rows; r += L) {
    S* row[L];
    for (int i = 0; i < L; ++i) row[i] = element<S>(view, offset_of(view, first + r + i, lead));
    square(r, [&](int i) { return row[i]; });
  }
  return r;
}

template <class T>
void gather_rows(const View& view, int64_t first, int rows, int64_t classes, const Tile<T>& tile) {
  dispatch_floating(view.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    const int done = for_each_square<S>(view, first, rows, tile, [&](int r, auto&& row) {
      transpose_to_lanes(classes, tile.data + r, tile.class_step, row);
    });
    T* const to = tile.data + done * tile.row_step;
    const auto move = [&](int64_t at, int64_t from, int64_t length) {
      widen_run(element<S>(view, from), to + at, length);
    };
    for_each_run(view, first + done, rows - done, classes, tile, move);
  });
}

template <class T>
void scatter_rows(const View& view, int64_t first, int rows, int64_t classes, const Tile<T>& tile) {
  dispatch_floating(view.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    const int done = for_each_square<S>(view, first, rows, tile, [&](int r, auto&& row) {
      transpose_from_lanes(classes, tile.data + r, tile.class_step, row);
    });
    const T* const from = tile.data + done * tile.row_step;
    const auto move = [&](int64_t at, int64_t to, int64_t length) {
      narrow_run(from + at, element<S>(view, to), length);
    };
    for_each_run(view, first + done, rows - done, classes, tile, move);
  });
}

// All bits zero is zero in every type.
inline void clear_rows(const View& view, int64_t first, int rows, int64_t classes) {
  const bool along = view.strides[view.dims - 1] == 1;
  const Tile<char> order = along ? Tile<char>{nullptr, classes, 1} : Tile<char>{nullptr, 1, kTileRows};
  const int size = size_of(view.dtype);
  for_each_run(view, first, rows, classes, order, [&](int64_t, int64_t at, int64_t length) {
    memset(static_cast<char*>(view.data) + at * size, 0, size_t(length * size));
  });
}

// Rows that need no tile: already dense, of this storage type.
template <class S>
FUSESTEP_HD bool rows_in_place(const View& view) {
  const int last = view.dims - 1;
  return view.dtype == dtype_of<S>() && (view.contiguous || view.strides[last] == 1);
}

template <class S>
FUSESTEP_HD S* row_in_place(const View& view, int64_t row, int64_t classes) {
  return element<S>(view, view.contiguous ? row * classes : offset_of(view, row, view.dims - 1));
}

FUSESTEP_TARGET_END
