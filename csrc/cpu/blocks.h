// Runs of elements between memory of any dtype and stride and the compute type T.
//
// NOTE [blocks]: elementwise work is cut into blocks of kBlock elements in row-major order. The cut
// depends on the number of elements alone, so sums over blocks have a fixed shape for any number of
// threads, and a strided view goes through the same blocks as its contiguous copy.
#pragma once

#include "cpu/convert.h"
#include "cpu/threads.h"

FUSESTEP_TARGET_BEGIN

constexpr int kBlock = 2048;  // converted copies of a few operands stay in the first cache

FUSESTEP_HD int64_t blocks_of(int64_t count) { return (count + kBlock - 1) / kBlock; }

template <class Body>
void parallel_for(int64_t count, int64_t work, Body& body) {
  parallel_ranges(
      count, work,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<Body*>(context))(begin, end); }, &body);
}

// NOTE [prefetch]: the arithmetic of a formula fills the processor's window of pending instructions, so loads
// do not run ahead of it, and hardware stops at the end of each page: memory and arithmetic would take
// turns. Each pack therefore asks for the line of one some way ahead: of the same block, or of the next
// one where this is a converted copy.
constexpr int kAhead = 2048;  // bytes
constexpr int kCacheLine = 64;

// Of packs that lie one behind the other, as S: whether the one at element `at` is the first in its line.
template <class S>
FUSESTEP_HD constexpr bool starts_line(int at) {
  return at * int(sizeof(S)) % kCacheLine == 0;
}

// `bytes` further on.
template <class S>
FUSESTEP_HD void prefetch_to_write(const S* to, int bytes) {
  __builtin_prefetch(reinterpret_cast<const char*>(to) + bytes, 1, 3);
}

template <class T>
class Prefetch {
 public:
  // `direct`: a block is computed where it lies, whatever its dtype.
  Prefetch(const View& view, int64_t start, bool direct) {
    if (!view.contiguous || !present(view)) return;
    const int64_t size = size_of(view.dtype);
    const int64_t ahead = direct || view.dtype == dtype_of<T>() ? kAhead : kBlock * size;
    at_ = static_cast<const char*>(view.data) + start * size + ahead;
    step_ = Pack<T>::lanes * size;
  }
  FUSESTEP_HD void next_to_read() {
    __builtin_prefetch(at_, 0, 3);
    at_ += step_;
  }
  FUSESTEP_HD void next_to_write() {
    __builtin_prefetch(at_, 1, 3);
    at_ += step_;
  }

 private:
  const char* at_ = reinterpret_cast<const char*>(&at_);  // somewhere harmless
  int64_t step_ = 0;
};

// Calls visit(offset, at, length, stride) for each piece of a block whose elements lie `stride` apart: the
// part of an innermost dimension that falls into it, or all of it if the view is dense.
template <class Visit>
void for_each_piece(const View& view, int64_t start, int count, Visit&& visit) {
  if (view.contiguous) return visit(start, 0, count, int64_t(1));
  const int last = view.dims - 1;
  const int64_t inner = view.sizes[last], stride = view.strides[last];
  int at = 0;
  while (at < count) {
    const int64_t column = (start + at) % inner;
    const int64_t rest = inner - column;
    const int length = rest < count - at ? int(rest) : count - at;
    visit(offset_of(view, start + at, view.dims), at, length, stride);
    at += length;
  }
}

// Elements start … start+count of `view` as T: in place if they already lie so, else in `buffer`.
template <class T>
const T* read_block(const View& view, int64_t start, int count, T* buffer) {
  if (view.contiguous && view.dtype == dtype_of<T>()) return element<T>(view, start);
  dispatch_floating(view.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    for_each_piece(view, start, count, [&](int64_t offset, int at, int length, int64_t stride) {
      const S* from = element<S>(view, offset);
      if (stride == 1) {
        widen_run(from, buffer + at, length);
      } else {
        for (int i = 0; i < length; ++i) buffer[at + i] = T(widen(load<S>(from + i * stride)));
      }
    });
  });
  return buffer;
}

// Where to compute elements that end up in `view`: their own place, or `buffer`, which
// write_block then stores.
template <class T>
T* place_block(const View& view, int64_t start, T* buffer) {
  const bool direct = view.contiguous && view.dtype == dtype_of<T>();
  return direct ? element<T>(view, start) : buffer;
}

template <class T>
void write_block(const View& view, int64_t start, int count, const T* buffer) {
  if (view.contiguous && view.dtype == dtype_of<T>()) return;  // computed in place
  dispatch_floating(view.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    for_each_piece(view, start, count, [&](int64_t offset, int at, int length, int64_t stride) {
      S* to = element<S>(view, offset);
      if (stride == 1) {
        narrow_run(buffer + at, to, length);
      } else {
        for (int i = 0; i < length; ++i) store<S>(to + i * stride, buffer[at + i]);
      }
    });
  });
}

FUSESTEP_TARGET_END
