// On the host: which kind of kernel suits the rows of a call, see NOTE [rows].
#pragma once

#include <initializer_list>

#include "cuda/staged_rows.cuh"
#include "cuda/walked_rows.cuh"

FUSESTEP_TARGET_BEGIN

// Classes a thread holds: of short rows, and of others as registers allow.
constexpr int kShortHeld = 8;
template <bool paired, bool plain>
constexpr int kHeld = paired || !plain ? 16 : 32;

// Whether the classes of a row lie side by side.
inline bool is_tight(const View& view) { return view.contiguous || view.strides[view.dims - 1] == 1; }

// Whether each row begins where a vector may be loaded.
inline bool has_aligned_rows(const View& view, int64_t classes) {
  const int width = 16 / size_of(view.dtype);
  bool aligned = reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
  if (view.contiguous) return aligned && classes % width == 0;
  for (int d = 0; d + 1 < view.dims; ++d) aligned = aligned && view.strides[d] % width == 0;
  return aligned;
}

// For rows that lie as `view` does, which may be absent.
inline int team_of_walked(const View& view, int64_t classes) {
  if (classes == 0) return kWarp;
  if (!present(view) || classes <= 32 || !is_tight(view)) return 1;
  return classes <= 1024 ? kWarp : kThreads;
}

// Whether rows may be held or staged: `views`, the operands and results that have classes, if they are
// there, are of one dtype, and their classes lie side by side.
inline bool suit_registers(std::initializer_list<const View*> views, int64_t classes) {
  constexpr int64_t most = int64_t(1) << 30;  // indices of classes are 32 bits there
  const DType dtype = (*views.begin())->dtype;
  bool suit = dtype != DType::f64 && classes > 0 && classes <= most;
  for (const View* view : views) {
    suit = suit && (!present(*view) || (view->dtype == dtype && is_tight(*view)));
  }
  return suit;
}

// Calls run(Tag<Row>, team, shared, room) for rows that are held or staged, of a dtype S: the bytes of shared
// memory that a block needs; for `room` see StagedRow. `aligned`: as has_aligned_rows says.
template <class S, bool paired, bool plain, class Run>
void with_stored_rows(int64_t classes, bool aligned, bool weighted, Run&& run) {
  constexpr int most = kHeld<paired, plain>;
  using Short = HeldRow<S, kShortHeld, paired, plain>;
  using Held = HeldRow<S, most, paired, plain>;
  using Staged = StagedRow<S, paired, plain>;
  const int64_t needed = classes + (aligned ? 0 : kVector<S> - 1);
  const int64_t weights = weighted ? classes * int64_t(sizeof(float)) : 0;
  if constexpr (plain) {
    if (needed <= kWarp * kShortHeld) {
      int team = 1;
      while (team * kShortHeld < needed) team *= 2;
      return run(Tag<Short>{}, team, weights, 0);
    }
  }
  if (needed <= kWarp * most) return run(Tag<Held>{}, kWarp, weights, 0);
  if (needed <= kThreads * most) return run(Tag<Held>{}, kThreads, weights, 0);
  const int64_t room = Staged::room_for(classes);
  run(Tag<Staged>{}, Staged::threads, Staged::shared_for(room), room);
}

// The same for the kind that suits. The first of `views` is the input; `always_plain`: of the formula.
template <bool paired, bool always_plain, class Run>
void with_rows(std::initializer_list<const View*> views, const View& weight, int64_t classes, bool plain,
               Run&& run) {
  const View& input = **views.begin();
  if (!suit_registers(views, classes)) {
    return run(Tag<WalkedRow<float>>{}, team_of_walked(input, classes), 0, 0);
  }
  const bool aligned = has_aligned_rows(input, classes), weighted = present(weight);
  dispatch_packed<Access::packed>(input.dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    if (plain) return with_stored_rows<S, paired, true>(classes, aligned, weighted, run);
    if constexpr (!always_plain) with_stored_rows<S, paired, false>(classes, aligned, weighted, run);
  });
}

FUSESTEP_TARGET_END
