#include "bindings/arrays.h"

#include <dlpack/dlpack.h>
#include <pybind11/numpy.h>

#include <stdexcept>

#include "bindings/exchange.h"

namespace py = pybind11;

namespace fusestep {
namespace {

bool exchange_api_wanted = true;

[[noreturn]] void unsupported(const char* name, const std::string& what) {
  throw Unsupported{"`" + std::string(name) + "` " + what};
}

// No data although there are elements. In a subclass (FakeTensor, DTensor) the memory is somewhere else or
// not meant to be; in a plain tensor it has been freed, and torch itself would crash on it.
[[noreturn]] void no_memory(py::handle object, const char* name) {
  const std::string type = py::cast<std::string>(py::type::of(object).attr("__name__"));
  if (type == "Tensor" || type == "Parameter") {
    throw std::runtime_error("`" + std::string(name) + "` has elements, but its storage has been freed");
  }
  unsupported(name, "has no memory of its own");
}

bool is_row_major(const Array& array) {
  int64_t expected = 1;
  for (int d = array.dims - 1; d >= 0; --d) {
    if (array.sizes[d] != 1 && array.strides[d] != expected) return false;
    expected *= array.sizes[d];
  }
  return true;
}

DType dtype_from_dlpack(DLDataType type, const char* name) {
  if (type.lanes == 1) {
    const int code = type.code, bits = type.bits;
    if (code == kDLFloat && bits == 32) return DType::f32;
    if (code == kDLFloat && bits == 64) return DType::f64;
    if (code == kDLFloat && bits == 16) return DType::f16;
    if (code == kDLBfloat && bits == 16) return DType::bf16;
    if (code == kDLInt && bits == 64) return DType::i64;
    if (code == kDLInt && bits == 32) return DType::i32;
    if (code == kDLInt && bits == 16) return DType::i16;
    if (code == kDLInt && bits == 8) return DType::i8;
    if (code == kDLUInt && bits == 64) return DType::u64;
    if (code == kDLUInt && bits == 32) return DType::u32;
    if (code == kDLUInt && bits == 16) return DType::u16;
    if (code == kDLUInt && bits == 8) return DType::u8;
  }
  unsupported(name, "has a dtype without a kernel (DLPack code " + std::to_string(type.code) + ", " +
                        std::to_string(type.bits) + " bits)");
}

void read_dlpack(const DLPackExchangeAPI& api, py::handle object, const char* name, Array& array) {
  DLTensor tensor;
  if (api.dltensor_from_py_object_no_sync(object.ptr(), &tensor) != 0) {
    py::error_already_set error;  // sparse, meta, functorch: takes the Python error with it
    unsupported(name, error.what());
  }
  array.dtype = dtype_from_dlpack(tensor.dtype, name);
  if (tensor.device.device_type == kDLCPU) {
    array.device = Device::cpu;
  } else if (tensor.device.device_type == kDLCUDA) {
    array.device = Device::cuda;
  } else {
    unsupported(name, "is on a device without kernels");
  }
  array.device_index = tensor.device.device_id;
  if (tensor.ndim > kMaxArrayDims) unsupported(name, "has too many dimensions");
  array.dims = tensor.ndim;
  array.count = 1;
  int64_t expected = 1;
  for (int d = tensor.ndim - 1; d >= 0; --d) {
    array.sizes[d] = tensor.shape[d];
    array.strides[d] = tensor.strides != nullptr ? tensor.strides[d] : expected;
    expected *= tensor.shape[d];
    array.count *= tensor.shape[d];
  }
  array.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  if (tensor.data == nullptr && array.count > 0) no_memory(object, name);
  if (array.device == Device::cuda &&
      reinterpret_cast<uintptr_t>(array.data) % uintptr_t(size_of(array.dtype)) != 0) {
    unsupported(name, "is not aligned to its element size, as a GPU needs it");
  }
  // The negative bit of torch is lost on the way. Only views of complex numbers carry it, and those
  // have an inner stride of two unless there is a single element.
  if ((array.count == 1 && array.dims > 0) || !is_row_major(array)) {
    if (py::cast<bool>(object.attr("is_neg")())) unsupported(name, "has its negative bit set");
  }
}

DType dtype_from_numpy(const py::dtype& type, const char* name) {
  const char kind = type.kind();
  const auto size = type.itemsize();
  if (type.byteorder() == '>') unsupported(name, "has swapped bytes");
  if (kind == 'f' && size == 4) return DType::f32;
  if (kind == 'f' && size == 8) return DType::f64;
  if (kind == 'f' && size == 2) return DType::f16;
  if (kind == 'i' && size == 8) return DType::i64;
  if (kind == 'i' && size == 4) return DType::i32;
  if (kind == 'i' && size == 2) return DType::i16;
  if (kind == 'i' && size == 1) return DType::i8;
  if (kind == 'u' && size == 8) return DType::u64;
  if (kind == 'u' && size == 4) return DType::u32;
  if (kind == 'u' && size == 2) return DType::u16;
  if (kind == 'u' && size == 1) return DType::u8;
  const std::string text = py::cast<std::string>(py::str(type));
  if (text == "bfloat16") return DType::bf16;  // ml_dtypes
  unsupported(name, "has dtype " + text + ", for which there is no kernel");
}

void read_numpy(const py::array& from, const char* name, Array& array) {
  array.dtype = dtype_from_numpy(from.dtype(), name);
  array.device = Device::cpu;
  array.device_index = 0;
  array.writeable = from.writeable();
  array.dims = int(from.ndim());
  array.count = int64_t(from.size());
  array.data = const_cast<void*>(from.data());
  const auto item = from.itemsize();
  for (int d = 0; d < array.dims; ++d) {
    array.sizes[d] = from.shape(d);
    if (from.strides(d) % item != 0) unsupported(name, "has strides that are not whole elements");
    array.strides[d] = from.strides(d) / item;
  }
}

DType dtype_from_torch_name(const std::string& text, const char* name) {
  if (text == "torch.float32") return DType::f32;
  if (text == "torch.float64") return DType::f64;
  if (text == "torch.bfloat16") return DType::bf16;
  if (text == "torch.float16") return DType::f16;
  if (text == "torch.int64") return DType::i64;
  if (text == "torch.uint8") return DType::u8;
  unsupported(name, "has dtype " + text + ", for which there is no kernel");
}

// torch before 2.10: the same facts through its Python attributes.
void read_torch(py::handle from, const char* name, Array& array) {
  array.dtype = dtype_from_torch_name(py::cast<std::string>(py::str(from.attr("dtype"))), name);
  const std::string device = py::cast<std::string>(from.attr("device").attr("type"));
  if (device != "cpu" && device != "cuda") unsupported(name, "is on a device without kernels");
  array.device = device == "cpu" ? Device::cpu : Device::cuda;
  const py::object index = from.attr("device").attr("index");
  array.device_index = index.is_none() ? 0 : py::cast<int>(index);
  if (py::cast<std::string>(py::str(from.attr("layout"))) != "torch.strided") {
    unsupported(name, "is not strided");
  }
  if (py::cast<bool>(from.attr("is_neg")())) unsupported(name, "has its negative bit set");
  const py::tuple sizes = from.attr("shape"), strides = from.attr("stride")();
  array.dims = int(sizes.size());
  if (array.dims > kMaxArrayDims) unsupported(name, "has too many dimensions");
  array.count = 1;
  for (int d = 0; d < array.dims; ++d) {
    array.sizes[d] = py::cast<int64_t>(sizes[size_t(d)]);
    array.strides[d] = py::cast<int64_t>(strides[size_t(d)]);
    array.count *= array.sizes[d];
  }
  try {
    array.data = reinterpret_cast<void*>(py::cast<uintptr_t>(from.attr("data_ptr")()));
  } catch (py::error_already_set& error) {
    unsupported(name, error.what());
  }
  if (array.data == nullptr && array.count > 0) no_memory(from, name);
}

const char* name_of(DType dtype) {
  static const char* const names[] = {"float32", "float64", "bfloat16", "float16", "int8",   "int16",
                                      "int32",   "int64",   "uint8",    "uint16",  "uint32", "uint64"};
  return names[int(dtype)];
}

// Appends dimension d to the view, or widens the last one if the two are one run of memory.
void add_dimension(View& view, int64_t size, int64_t stride) {
  if (size == 1) return;
  if (view.dims > 0 && view.strides[view.dims - 1] == size * stride) {
    view.sizes[view.dims - 1] *= size;
    view.strides[view.dims - 1] = stride;
    return;
  }
  if (view.dims == kMaxDims) throw Unsupported{"an array has too many dimensions"};
  view.sizes[view.dims] = size;
  view.strides[view.dims++] = stride;
}

View empty_view(const Array& array) {
  View view;
  view.data = array.data;
  view.dtype = array.dtype;
  view.device = array.device;
  view.device_index = array.device_index;
  view.count = array.count;
  // An operand that is there but has no elements still counts as present.
  static char nothing[16];
  if (view.data == nullptr) view.data = nothing;
  return view;
}

}  // namespace

void use_exchange_api(bool use) { exchange_api_wanted = use; }

void read_array(py::handle object, const char* name, Array& array) {
  if (exchange_api_wanted) {
    if (const DLPackExchangeAPI* api = exchange_api_of(object)) {
      return read_dlpack(*api, object, name, array);
    }
  }
  if (py::isinstance<py::array>(object)) {
    return read_numpy(py::reinterpret_borrow<py::array>(object), name, array);
  }
  if (py::hasattr(object, "data_ptr") && py::hasattr(object, "stride")) {
    return read_torch(object, name, array);
  }
  throw py::type_error("`" + std::string(name) + "` must be a tensor or a NumPy array, got " +
                       py::cast<std::string>(py::type::of(object).attr("__name__")));
}

std::string describe_shape(const Array& array, int first, int last) {
  std::string text = "(";
  for (int d = first; d < last; ++d) {
    text += std::to_string(array.sizes[d]);
    if (d + 1 < last) text += ", ";
  }
  return text + (last - first == 1 ? ",)" : ")");
}

std::string describe(const Array& array) {
  return std::string(name_of(array.dtype)) + " of shape " + describe_shape(array, 0, array.dims);
}

bool same_shape(const Array& a, const Array& b) {
  if (a.dims != b.dims) return false;
  for (int d = 0; d < a.dims; ++d) {
    if (a.sizes[d] != b.sizes[d]) return false;
  }
  return true;
}

View view_of(const Array& array) {
  View view = empty_view(array);
  view.contiguous = is_row_major(array);
  if (!view.contiguous) {
    for (int d = 0; d < array.dims; ++d) add_dimension(view, array.sizes[d], array.strides[d]);
  }
  return view;
}

View row_view_of(const Array& array, int class_dim) {
  View view = empty_view(array);
  for (int d = 0; d < array.dims; ++d) {
    if (d != class_dim) add_dimension(view, array.sizes[d], array.strides[d]);
  }
  if (view.dims == kMaxDims) throw Unsupported{"an array has too many dimensions"};
  const int64_t classes = array.sizes[class_dim], stride = array.strides[class_dim];
  const bool one_row = view.dims == 0, rows_adjoin = view.dims == 1 && view.strides[0] == classes;
  view.sizes[view.dims] = classes;
  view.strides[view.dims++] = classes == 1 ? 1 : stride;
  view.contiguous = (stride == 1 || classes == 1) && (one_row || rows_adjoin);
  return view;
}

bool overlaps_itself(const Array& array) {
  if (array.count <= 1) return false;
  // Smallest stride first, each dimension must step over everything the ones before it cover.
  bool used[kMaxArrayDims] = {};
  int64_t covered = 1;
  for (int i = 0; i < array.dims; ++i) {
    int next = -1;
    for (int d = 0; d < array.dims; ++d) {
      if (used[d]) continue;
      if (next < 0 || std::abs(array.strides[d]) < std::abs(array.strides[next])) next = d;
    }
    used[next] = true;
    if (array.sizes[next] == 1) continue;
    if (std::abs(array.strides[next]) < covered) return true;
    covered += std::abs(array.strides[next]) * (array.sizes[next] - 1);
  }
  return false;
}

Extent extent_of(const Array& array) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(array.data);
  if (array.count == 0) return {at, at};
  int64_t low = 0, high = 0;
  for (int d = 0; d < array.dims; ++d) {
    const int64_t reach = array.strides[d] * (array.sizes[d] - 1);
    (reach < 0 ? low : high) += reach;
  }
  const int64_t item = size_of(array.dtype);
  return {at + uintptr_t(low * item), at + uintptr_t((high + 1) * item)};
}

}  // namespace fusestep
