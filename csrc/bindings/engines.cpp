#include "bindings/engines.h"

#include <stdlib.h>
#include <string.h>

#include "bindings/exchange.h"

namespace py = pybind11;

namespace fusestep {
namespace {

constexpr int64_t kWorthReleasing = 16384;  // elements

const Isa* chosen = nullptr;

}  // namespace

const Isa& current_isa() {
  if (chosen == nullptr) {
    const char* forced = getenv("FUSESTEP_ISA");
    set_isa(forced != nullptr ? forced : "");
  }
  return *chosen;
}

void set_isa(const std::string& name) {
  const Isa* isa = choose_isa(name.c_str());
  if (isa == nullptr) {
    std::string names;
    for (int i = 0; i < kIsaCount; ++i) {
      if (kIsas[i].supported()) names += std::string(names.empty() ? "" : ", ") + kIsas[i].name;
    }
    throw py::value_error("FUSESTEP_ISA: \"" + name + "\" cannot run here; expected one of " + names);
  }
  chosen = isa;
}

const OpTable& engine_for(Device device) {
  if (device == Device::cpu) return *current_isa().table;
  static const OpTable* cuda = nullptr;
  if (cuda == nullptr) {
    try {
      const py::object capsule = py::module_::import("fusestep._cuda").attr("table");
      const auto* table =
          static_cast<const OpTable*>(PyCapsule_GetPointer(capsule.ptr(), "fusestep.OpTable"));
      if (strcmp(table->ops, current_isa().table->ops) != 0) {
        throw Unsupported{"the CUDA engine was built from another version"};
      }
      cuda = table;
    } catch (py::error_already_set& error) {
      throw Unsupported{std::string("the CUDA engine is not available: ") + error.what()};
    }
  }
  return *cuda;
}

std::string why_no_cuda(int device) {
  try {
    const char* const why = engine_for(Device::cuda).why_unusable(device);
    return why != nullptr ? why : "";
  } catch (const Unsupported& unsupported) {
    return unsupported.reason;
  }
}

bool is_worth_releasing(int64_t work) { return work >= kWorthReleasing; }

Launch::Launch(py::handle object, const Array& array, Shape shape, int64_t count, int64_t work)
    : table_(engine_for(array.device)),
      array_(array),
      on_cuda_(array.device == Device::cuda),
      release_gil_(is_worth_releasing(work)) {
  if (!on_cuda_) return;
  if (const char* const why = table_.why_unusable(array.device_index)) throw Unsupported{why};
  const DLPackExchangeAPI* api = exchange_api_of(object);
  if (api == nullptr || api->current_work_stream == nullptr || api->managed_tensor_allocator == nullptr) {
    throw Unsupported{"CUDA tensors need torch 2.10 or newer"};
  }
  if (api->current_work_stream(kDLCUDA, array.device_index, &stream_) != 0) {
    throw py::error_already_set();
  }
  int64_t bytes = table_.workspace_bytes(shape, count);
  if (bytes > 0) {
    DLTensor prototype{};
    prototype.device = {kDLCUDA, array.device_index};
    prototype.dtype = {kDLUInt, 8, 1};
    prototype.ndim = 1;
    prototype.shape = &bytes;
    std::string message;
    const auto set_error = [](void* context, const char* kind, const char* text) {
      *static_cast<std::string*>(context) = std::string(kind) + ": " + text;
    };
    if (api->managed_tensor_allocator(&prototype, &memory_, &message, set_error) != 0) {
      throw std::runtime_error("no workspace of " + std::to_string(bytes) + " bytes: " + message);
    }
    workspace_ = static_cast<char*>(memory_->dl_tensor.data) + memory_->dl_tensor.byte_offset;
  }
  previous_device_ = table_.enter_device(array.device_index);
}

Launch::~Launch() {
  if (!on_cuda_) return;
  table_.enter_device(previous_device_);
  // torch reuses the memory in stream order, so it may go back while the kernel is still running.
  if (memory_ != nullptr) memory_->deleter(memory_);
}

void Launch::check(const char* op) const {
  if (table_.error == nullptr) return;
  if (const char* message = table_.error()) {
    throw std::runtime_error(std::string(op) + " of " + describe(array_) + ": " + message);
  }
}

}  // namespace fusestep
