// NOTE [pool]: the pool never holds more than was in use at one time, whatever sizes come and go: before a
// new block is mapped, idle ones are unmapped until both fit under that mark. Blocks are handed to torch
// as DLPack tensors, whose deleter brings them back; it may run on any thread, without the GIL, and after
// the interpreter has gone, so it touches nothing but this file.
#include "bindings/pool.h"

#include <dlpack/dlpack.h>
#include <pthread.h>
#include <pybind11/numpy.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/exchange.h"

namespace py = pybind11;

namespace fusestep {
namespace {

constexpr int64_t kSmallest = 1 << 20;  // bytes; below it malloc has its own memory at hand
constexpr int64_t kHugePage = 2 << 20;

struct Block {
  void* data;
  int64_t size;
};

int64_t default_limit() {
  if (const char* given = getenv("FUSESTEP_CACHE_LIMIT")) return std::max(0ll, atoll(given));
  return int64_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE) / 4;
}

class Pool {
 public:
  // One for the process, never destroyed: tensors may outlive the interpreter.
  static Pool& instance() {
    static Pool* const pool = new Pool;
    return *pool;
  }

  // At least `bytes`, or null data if the system has no more.
  Block take(int64_t bytes) {
    bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    Blocks gone;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto fits = [&](const Block& block) { return block.size >= bytes && block.size / 2 <= bytes; };
      auto best = idle_.end();
      for (auto at = idle_.begin(); at != idle_.end(); ++at) {
        if (fits(*at) && (best == idle_.end() || at->size <= best->size)) best = at;
      }
      if (best != idle_.end()) {
        const Block block = *best;
        idle_.erase(best);
        idle_bytes_ -= block.size;
        use(block.size);
        return block;
      }
      use(bytes);
      shrink(most_in_use_ - in_use_, gone);
    }
    gone.unmap();
    void* data = map(bytes);
    if (data == nullptr) {
      empty();
      data = map(bytes);
    }
    if (data == nullptr) {
      const std::lock_guard<std::mutex> lock(mutex_);
      in_use_ -= bytes;
    }
    return {data, bytes};
  }

  void give(const Block& block) {
    Blocks gone;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      in_use_ -= block.size;
      idle_.push_back(block);
      idle_bytes_ += block.size;
      shrink(limit_, gone);
    }
    gone.unmap();
  }

  void set_limit(int64_t bytes) {
    Blocks gone;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      limit_ = bytes;
      shrink(limit_, gone);
    }
    gone.unmap();
  }

  void empty() {
    Blocks gone;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      shrink(0, gone);
      most_in_use_ = in_use_;
    }
    gone.unmap();
  }

  int64_t limit() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return limit_;
  }

  PoolUse use() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {in_use_, idle_bytes_};
  }

 private:
  struct Blocks : std::vector<Block> {
    void unmap() const {
      for (const Block& block : *this) munmap(block.data, size_t(block.size));
    }
  };

  Pool() : limit_(default_limit()) {
    // A child must not inherit the lock as another thread of its parent held it.
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                   [] { instance().mutex_.unlock(); });
  }

  static void* map(int64_t bytes) {
    void* data = mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
    madvise(data, size_t(bytes), MADV_HUGEPAGE);  // fewer pages to fault in and to look up; may be refused
#endif
    return data;
  }

  void use(int64_t bytes) {
    in_use_ += bytes;
    most_in_use_ = std::max(most_in_use_, in_use_);
  }

  // Those used longest ago go until at most `bytes` are idle.
  void shrink(int64_t bytes, Blocks& gone) {
    auto keep = idle_.begin();
    for (; idle_bytes_ > bytes; ++keep) {
      idle_bytes_ -= keep->size;
      gone.push_back(*keep);
    }
    idle_.erase(idle_.begin(), keep);
  }

  std::mutex mutex_;
  std::vector<Block> idle_;  // in the order they came back
  int64_t idle_bytes_ = 0, in_use_ = 0, most_in_use_ = 0;
  int64_t limit_;
};

// A block as the tensor that owns it.
struct Owned {
  DLManagedTensorVersioned tensor{};
  Block block;
  std::vector<int64_t> sizes, strides;
};

DLDataType dlpack_dtype(DType dtype) {
  const uint8_t bits = uint8_t(8 * size_of(dtype));
  return {uint8_t(dtype == DType::bf16 ? kDLBfloat : kDLFloat), bits, 1};
}

bool has_no_gaps(const Array& array) {
  const Extent extent = extent_of(array);
  const bool forward = extent.begin == reinterpret_cast<uintptr_t>(array.data);
  return forward && int64_t(extent.end - extent.begin) == array.count * size_of(array.dtype) &&
         !overlaps_itself(array);
}

void make_row_major(Array& array) {
  int64_t stride = 1;
  for (int d = array.dims - 1; d >= 0; --d) {
    array.strides[d] = stride;
    stride *= array.sizes[d];
  }
}

py::object as_torch(const DLPackExchangeAPI& api, const Array& like, const Block& block) {
  Owned* owned = new Owned;
  owned->block = block;
  owned->sizes.assign(like.sizes, like.sizes + like.dims);
  owned->strides.assign(like.strides, like.strides + like.dims);
  owned->tensor.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  owned->tensor.manager_ctx = owned;
  owned->tensor.deleter = [](DLManagedTensorVersioned* self) {
    Owned* mine = static_cast<Owned*>(self->manager_ctx);
    Pool::instance().give(mine->block);
    delete mine;
  };
  owned->tensor.dl_tensor = {block.data,          {kDLCPU, 0},           like.dims, dlpack_dtype(like.dtype),
                             owned->sizes.data(), owned->strides.data(), 0};
  void* object = nullptr;
  if (api.managed_tensor_to_py_object_no_sync(&owned->tensor, &object) != 0) {
    owned->tensor.deleter(&owned->tensor);
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

py::object as_numpy(const py::array& from, const Array& like, const Block& block) {
  const auto owner = new Block(block);
  const py::capsule base(owner, [](void* pointer) {
    Pool::instance().give(*static_cast<Block*>(pointer));
    delete static_cast<Block*>(pointer);
  });
  const std::vector<py::ssize_t> sizes(like.sizes, like.sizes + like.dims);
  std::vector<py::ssize_t> strides(like.strides, like.strides + like.dims);
  for (py::ssize_t& stride : strides) stride *= size_of(like.dtype);
  return py::array(from.dtype(), sizes, strides, block.data, base);
}

// Null if the pool is not for it: with gaps, switched off, without a way to hand out its memory.
py::object pooled_like(py::handle like, const Array& array, int64_t bytes, bool row_major) {
  const bool from_numpy = py::isinstance<py::array>(like);
  const DLPackExchangeAPI* api = from_numpy ? nullptr : exchange_api_of(like);
  if (!from_numpy && (api == nullptr || api->managed_tensor_to_py_object_no_sync == nullptr)) return {};
  Pool& pool = Pool::instance();
  if (bytes > pool.limit()) return {};
  row_major = row_major || from_numpy;
  if (!row_major && !has_no_gaps(array)) return {};
  Array result = array;
  if (row_major) make_row_major(result);
  const Block block = pool.take(bytes);
  if (block.data == nullptr) return {};
  if (from_numpy) return as_numpy(py::reinterpret_borrow<py::array>(like), result, block);
  return as_torch(*api, result, block);
}

// As the library itself makes it.
py::object unpooled_like(py::handle like, bool row_major) {
  if (py::isinstance<py::array>(like)) {
    const auto from = py::reinterpret_borrow<py::array>(like);
    return py::array(from.dtype(), std::vector<py::ssize_t>(from.shape(), from.shape() + from.ndim()));
  }
  static PyObject* const make = py::object(py::module_::import("torch").attr("empty_like")).release().ptr();
  if (row_major) {
    const py::object order = py::module_::import("torch").attr("contiguous_format");
    return py::reinterpret_borrow<py::object>(make)(like, py::arg("memory_format") = order);
  }
  PyObject* const made = PyObject_CallOneArg(make, like.ptr());
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

}  // namespace

py::object empty_like(py::handle like, const Array& array, bool row_major) {
  const int64_t bytes = array.count * size_of(array.dtype);
  if (bytes >= kSmallest && array.device == Device::cpu && is_floating(array.dtype)) {
    if (py::object pooled = pooled_like(like, array, bytes, row_major)) return pooled;
  }
  return unpooled_like(like, row_major);
}

void set_pool_limit(int64_t bytes) {
  if (bytes < 0) throw py::value_error("`bytes` must not be negative, got " + std::to_string(bytes));
  Pool::instance().set_limit(bytes);
}

int64_t get_pool_limit() { return Pool::instance().limit(); }
void empty_pool() { Pool::instance().empty(); }
PoolUse pool_use() { return Pool::instance().use(); }

}  // namespace fusestep
