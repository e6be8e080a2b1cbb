// View: an array of any library, seen by the engines. Nothing here owns memory.
#pragma once

#include "core/dtypes.h"

namespace fusestep {

constexpr int kMaxDims = 8;

enum class Device : uint8_t { cpu, cuda };

struct View {
  void* data = nullptr;  // null: the operand is absent
  DType dtype = DType::f32;
  Device device = Device::cpu;
  bool contiguous = true;  // row-major and dense: sizes and strides need not be read
  int device_index = 0;
  int dims = 0;
  int64_t count = 0;          // number of elements
  int64_t sizes[kMaxDims];    // outermost first
  int64_t strides[kMaxDims];  // in elements
};

}  // namespace fusestep

FUSESTEP_TARGET_BEGIN

FUSESTEP_HD bool present(const View& view) { return view.data != nullptr; }

// Offset, in elements, of the element with row-major number `index` among the first `dims` dimensions.
FUSESTEP_HD int64_t offset_of(const View& view, int64_t index, int dims) {
  int64_t offset = 0;
  FUSESTEP_NO_UNROLL for (int d = dims - 1; d > 0; --d) {  // a division is long
    offset += index % view.sizes[d] * view.strides[d];
    index /= view.sizes[d];
  }
  return dims > 0 ? offset + index * view.strides[0] : offset;
}

FUSESTEP_HD int64_t offset_of(const View& view, int64_t index) {
  return view.contiguous ? index : offset_of(view, index, view.dims);
}

template <class S>
FUSESTEP_HD S* element(const View& view, int64_t offset) {
  return reinterpret_cast<S*>(static_cast<char*>(view.data) + offset * int64_t(sizeof(S)));
}

// Loads and stores go through memcpy: NumPy may hand over data aligned to a single byte. A CUDA array is
// aligned, and there memcpy would become an access for each byte.
template <class S>
FUSESTEP_HD S load(const void* from) {
#if defined(__CUDA_ARCH__)
  return *static_cast<const S*>(from);
#else
  S value;
  memcpy(&value, from, sizeof(S));
  return value;
#endif
}

// The value rounded to S.
template <class S, class T>
FUSESTEP_HD void store(void* to, T value) {
  S stored;
  narrow(value, stored);
#if defined(__CUDA_ARCH__)
  *static_cast<S*>(to) = stored;
#else
  memcpy(to, &stored, sizeof(S));
#endif
}

FUSESTEP_HD int64_t load_integer(const View& view, int64_t offset) {
  const char* at = static_cast<const char*>(view.data) + offset * size_of(view.dtype);
  switch (view.dtype) {
    case DType::i8:
      return load<int8_t>(at);
    case DType::i16:
      return load<int16_t>(at);
    case DType::i32:
      return load<int32_t>(at);
    case DType::u8:
      return load<uint8_t>(at);
    case DType::u16:
      return load<uint16_t>(at);
    case DType::u32:
      return load<uint32_t>(at);
    case DType::u64: {
      const uint64_t label = load<uint64_t>(at);
      return label > uint64_t(INT64_MAX) ? INT64_MAX : int64_t(label);  // out of range either way
    }
    default:
      return load<int64_t>(at);
  }
}

template <class T>
FUSESTEP_HD T load_floating(const View& view, int64_t offset) {
  const char* at = static_cast<const char*>(view.data) + offset * size_of(view.dtype);
  switch (view.dtype) {
    case DType::f64:
      return T(load<double>(at));
    case DType::bf16:
      return T(widen(load<BFloat16>(at)));
    case DType::f16:
      return T(widen(load<Float16>(at)));
    default:
      return T(load<float>(at));
  }
}

template <class T>
FUSESTEP_HD void store_floating(const View& view, int64_t offset, T value) {
  char* at = static_cast<char*>(view.data) + offset * size_of(view.dtype);
  dispatch_floating(view.dtype, [&](auto tag) { store<typename decltype(tag)::type>(at, value); });
}

FUSESTEP_TARGET_END
