// Which engine runs a call, and what it needs around it: GIL, device, stream, workspace.
#pragma once

#include <dlpack/dlpack.h>
#include <pybind11/pybind11.h>

#include "bindings/arrays.h"
#include "core/op_table.h"
#include "cpu/dispatch.h"

namespace fusestep {

const Isa& current_isa();
void set_isa(const std::string& name);  // ValueError if unknown or not supported here

// The CUDA engine is the module `_cuda`, imported at the first CUDA tensor.
const OpTable& engine_for(Device device);

// Why CUDA kernels cannot run on a device of this machine; empty if they can.
std::string why_no_cuda(int device);

// Whether the GIL is released for the work; handing it over costs microseconds.
bool is_worth_releasing(int64_t work);

// For the time of one kernel call. On CUDA: makes the array's device current, finds the caller's stream
// and borrows a workspace from the caller's allocator. Releases the GIL if the work is worth it.
class Launch {
 public:
  Launch(pybind11::handle object, const Array& array, Shape shape, int64_t count, int64_t work);
  ~Launch();
  Launch(const Launch&) = delete;

  void* stream() const { return stream_; }
  void* workspace() const { return workspace_; }
  const OpTable& table() const { return table_; }
  // Call after the kernel, with the GIL held again: raises what the device reported, with the op and the
  // array.
  void check(const char* op) const;

  template <class Call>
  auto run(Call&& call) {
    if (!release_gil_) return call();
    pybind11::gil_scoped_release release;
    return call();
  }

 private:
  const OpTable& table_;
  const Array& array_;
  bool on_cuda_, release_gil_;
  int previous_device_ = 0;
  void* stream_ = nullptr;
  void* workspace_ = nullptr;
  DLManagedTensorVersioned* memory_ = nullptr;
};

}  // namespace fusestep
