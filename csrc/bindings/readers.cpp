// An array as each library describes it: DLPack for torch, the array itself for NumPy, and torch's Python
// attributes where there is no DLPack exchange API.
#include <dlpack/dlpack.h>
#include <pybind11/numpy.h>

#include <stdexcept>

#include "bindings/arrays.h"
#include "bindings/exchange.h"

namespace py = pybind11;

namespace fusestep {
namespace {

bool exchange_api_wanted = true;

[[noreturn]] void unsupported(const char* name, const std::string& what) {
  throw Unsupported{"`" + std::string(name) + "` " + what};
}

// What torch raised, without the trace of its own functions.
[[noreturn]] void unsupported(const char* name, const py::error_already_set& error) {
  const std::string text = error.what();
  unsupported(name, "cannot be read: " + text.substr(0, text.find('\n')));
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

void read_dlpack(const DLPackExchangeAPI& api, py::handle object, const char* name, Array& array,
                 bool may_be_negated) {
  DLTensor tensor;
  if (api.dltensor_from_py_object_no_sync(object.ptr(), &tensor) != 0) {
    py::error_already_set error;  // sparse, meta, functorch: takes the Python error with it
    unsupported(name, error);
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
  if (may_be_negated && (array.count == 1 || !is_row_major(array))) {
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
    unsupported(name, error);
  }
  if (array.data == nullptr && array.count > 0) no_memory(from, name);
}

}  // namespace

void use_exchange_api(bool use) { exchange_api_wanted = use; }
bool uses_exchange_api() { return exchange_api_wanted; }

void read_array(py::handle object, const char* name, Array& array, bool may_be_negated) {
  if (exchange_api_wanted) {
    if (const DLPackExchangeAPI* api = exchange_api_of(object)) {
      return read_dlpack(*api, object, name, array, may_be_negated);
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

}  // namespace fusestep
