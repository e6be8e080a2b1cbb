// Before an update whose numbers or hyper-parameters lie on the device: a thread for each tensor reads them,
// counts the numbers on, and leaves the formula for the update kernel. The host never waits to know them, so
// the step may be captured in a graph.
#pragma once

#include "core/rounding.h"
#include "cuda/update_kernel.cuh"

FUSESTEP_TARGET_BEGIN

template <int N>
struct NumberEntry {
  Count number[N];  // as far as the host knows them
  void* at[N];      // null: the host knows it
  DType dtype[N];
  uint16_t setting;
};

template <int H>
struct HyperSetting {
  double hyper[H];
  const void* at[H];
  DType dtype[H];
  double grad_scale;
};

template <class F>
constexpr int kNumbers = decltype(F::numbers)::size > 0 ? decltype(F::numbers)::size : 1;
template <class F>
constexpr int kHypers = decltype(F::hyper)::size;

template <class F>
struct PrepareParams : Pool<NumberEntry<kNumbers<F>>, HyperSetting<kHypers<F>>, kParamBytes - 32> {
  const float *loss_scale, *found_inf;
  Prepared<F>* prepared;
};

template <class F>
__global__ void __launch_bounds__(kThreads, 2) prepare_kernel(const PrepareParams<F> __grid_constant__ p) {
  const int i = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (i >= p.count || (p.found_inf != nullptr && *p.found_inf != 0)) return;
  const auto& entry = p.entry(i);
  const auto& setting = p.setting(entry.setting);
  double hyper[kHypers<F>];
  for (int k = 0; k < kHypers<F>; ++k) {
    hyper[k] =
        setting.at[k] != nullptr ? read_lone<double>(setting.at[k], setting.dtype[k], 0) : setting.hyper[k];
  }
  Count number[kNumbers<F>];
  bool counts = false;
  for (int k = 0; k < kNumbers<F>; ++k) {
    number[k] = entry.number[k];
    if (entry.at[k] == nullptr) continue;
    counts = true;
    const double before = read_lone<double>(entry.at[k], entry.dtype[k], 0);
    number[k] = {before, before + (k == 0 ? 1 : 0)};
  }
  if (counts) F::advance(hyper, number);
  for (int k = 0; k < kNumbers<F>; ++k) {
    if (entry.at[k] == nullptr) continue;
    number[k].after = rounded_to(entry.dtype[k], number[k].after);
    write_lone(entry.at[k], entry.dtype[k], 0, number[k].after);
  }
  const double scale =
      p.loss_scale != nullptr ? setting.grad_scale / double(*p.loss_scale) : setting.grad_scale;
  p.prepared[i] = {F(hyper, number), scale};
}

// Collects what the items of a launch need from the device.
template <class F>
struct PrepareBatch {
  PrepareParams<F> params;

  explicit PrepareBatch(const UpdateArgs& args) {
    params.clear();
    params.loss_scale = args.loss_scale;
    params.found_inf = args.found_inf;
    params.prepared = static_cast<Prepared<F>*>(args.workspace);
  }

  // `repeats`: with the hyper-parameters of the last one.
  void add(const UpdateItem& item, bool repeats) {
    if (!repeats || params.count == 0) {
      auto& setting = params.add_setting();
      for (int k = 0; k < kHypers<F>; ++k) {
        setting.hyper[k] = item.hyper[k];
        setting.at[k] = item.hyper_at != nullptr ? item.hyper_at[k].data : nullptr;
        setting.dtype[k] = item.hyper_at != nullptr ? item.hyper_at[k].dtype : DType::f64;
      }
      setting.grad_scale = item.grad_scale;
    }
    auto& entry = params.add_entry();
    for (int k = 0; k < kNumbers<F>; ++k) {
      entry.number[k] = item.number[k];
      entry.at[k] = item.number_at[k].data;
      entry.dtype[k] = item.number_at[k].dtype;
    }
    entry.setting = uint16_t(params.settings - 1);
  }

  void flush(void* stream) {
    launch(prepare_kernel<F>, (params.count + kThreads - 1) / kThreads, stream, params);
    params.clear();
  }
};

// Bytes of workspace: a launch after another uses the same.
constexpr int64_t kMostPrepared = kParamBytes / 24, kPreparedBytes = 96;

FUSESTEP_TARGET_END
