// NOTE [openmp]: nothing links against OpenMP. A second copy of libgomp in the process means a second
// pool of threads that torch.set_num_threads does not reach, so the copy that is already loaded
// (torch's) is looked up at the first parallel call, then the system's, then a pool of our own.
#include "cpu/threads.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace fusestep {
namespace {

constexpr int64_t kGrain = 32768;  // elements; below it waking a thread costs more than it saves

struct Task {
  void (*body)(void*, int64_t, int64_t);
  void* context;
  int64_t count;
  std::atomic<int> next{0};
  int parts;
  std::atomic<bool> failed{false};
  std::exception_ptr error;  // the first one: no exception may leave a thread of the runtime

  // Ranges depend on `parts` only for who runs them: bodies make no result depend on the cut.
  void run_part(int part) {
    const int64_t begin = count * part / parts, end = count * (part + 1) / parts;
    try {
      if (begin < end) body(context, begin, end);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  }
  void run_until_empty() {
    for (int part; (part = next.fetch_add(1)) < parts;) run_part(part);
  }
  void rethrow() const {
    if (failed) std::rethrow_exception(error);
  }
};

// The fallback where no OpenMP runtime can be found.
class Pool {
 public:
  void run(Task& task) {
    std::lock_guard<std::mutex> one_at_a_time(entry_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (int(workers_.size()) < task.parts - 1) {
        workers_.emplace_back([this] { work(); });
      }
      task_ = &task;
      ++generation_;
    }
    wake_.notify_all();
    task.run_until_empty();
    std::unique_lock<std::mutex> lock(mutex_);
    idle_.wait(lock, [this] { return busy_ == 0; });
    task_ = nullptr;
  }

 private:
  void work() {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return generation_ != seen; });
      seen = generation_;
      Task* task = task_;
      if (task == nullptr) continue;
      ++busy_;
      lock.unlock();
      inside = true;
      task->run_until_empty();
      inside = false;
      lock.lock();
      if (--busy_ == 0) idle_.notify_all();
    }
  }

 public:
  static thread_local bool inside;

 private:
  std::mutex entry_, mutex_;
  std::condition_variable wake_, idle_;
  std::vector<std::thread> workers_;
  Task* task_ = nullptr;
  uint64_t generation_ = 0;
  int busy_ = 0;
};

thread_local bool Pool::inside = false;

struct Runtime {
  enum Kind { undecided, openmp, pool, serial } kind = undecided;
  void (*gomp_parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*max_threads)() = nullptr;
  int (*in_parallel)() = nullptr;
  std::atomic<int (*)()> torchs_threads{nullptr};
  Pool* threads = nullptr;  // never destroyed: its threads may outlive main
};

Runtime runtime;
std::once_flag decide_once;
std::atomic<int> requested_threads{0};
std::atomic<bool> forked{false};
// Registered when the library is loaded: a parent may have used OpenMP without ever calling us.
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

bool find_openmp() {
  void* library = nullptr;
  for (const char* name : {"libgomp.so.1", "libomp.so", "libomp.dylib"}) {
    if ((library = dlopen(name, RTLD_NOW | RTLD_NOLOAD)) != nullptr) break;
  }
  if (library == nullptr) library = dlopen("libgomp.so.1", RTLD_NOW);
  if (library == nullptr) return false;
  runtime.gomp_parallel = reinterpret_cast<decltype(runtime.gomp_parallel)>(dlsym(library, "GOMP_parallel"));
  runtime.max_threads = reinterpret_cast<int (*)()>(dlsym(library, "omp_get_max_threads"));
  runtime.in_parallel = reinterpret_cast<int (*)()>(dlsym(library, "omp_in_parallel"));
  return runtime.gomp_parallel != nullptr && runtime.max_threads != nullptr && runtime.in_parallel != nullptr;
}

// FUSESTEP_THREADING=openmp|pool|serial forces the choice.
void decide() {
  const char* forced = getenv("FUSESTEP_THREADING");
  const auto is = [&](const char* name) { return forced != nullptr && strcmp(forced, name) == 0; };
  if (is("serial")) {
    runtime.kind = Runtime::serial;
  } else if (!is("pool") && find_openmp()) {
    runtime.kind = Runtime::openmp;
  } else {
    runtime.threads = new Pool;
    runtime.kind = Runtime::pool;
  }
}

// OpenMP keeps the number for each thread, and torch passes its own on to a thread when that first asks
// at::get_num_threads. torch may be imported after us, so it is looked for until it is there.
int openmp_threads() {
  int (*ask)() = runtime.torchs_threads.load();
  if (ask == nullptr) {
    if (void* torch = dlopen("libtorch_cpu.so", RTLD_NOW | RTLD_NOLOAD)) {
      ask = reinterpret_cast<int (*)()>(dlsym(torch, "_ZN2at15get_num_threadsEv"));
      dlclose(torch);
    }
    runtime.torchs_threads = ask;
  }
  return ask != nullptr ? ask() : runtime.max_threads();
}

int hardware_threads() {
  const char* wanted = getenv("OMP_NUM_THREADS");
  const int count = wanted != nullptr ? atoi(wanted) : 0;
  return count > 0 ? count : std::max(1, int(std::thread::hardware_concurrency()));
}

}  // namespace

int get_num_threads() {
  std::call_once(decide_once, decide);
  if (forked || runtime.kind == Runtime::serial) return 1;
  const int requested = requested_threads;
  if (requested > 0) return requested;
  static const int hardware = hardware_threads();
  return runtime.kind == Runtime::openmp ? openmp_threads() : hardware;
}

void set_num_threads(int count) { requested_threads = std::max(0, count); }

const char* threading_runtime() {
  std::call_once(decide_once, decide);
  return runtime.kind == Runtime::openmp ? "openmp" : runtime.kind == Runtime::pool ? "pool" : "serial";
}

void parallel_ranges(int64_t count, int64_t work, void (*body)(void*, int64_t, int64_t), void* context) {
  if (count <= 0) return;
  if (count == 1 || work < kGrain || Pool::inside) return body(context, 0, count);
  Task task;
  task.body = body;
  task.context = context;
  task.count = count;
  task.parts = int(std::min<int64_t>(get_num_threads(), count));
  if (task.parts <= 1) return body(context, 0, count);
  if (runtime.kind == Runtime::pool) {
    runtime.threads->run(task);
    return task.rethrow();
  }
  if (runtime.in_parallel()) return body(context, 0, count);
  runtime.gomp_parallel([](void* data) { static_cast<Task*>(data)->run_until_empty(); }, &task,
                        unsigned(task.parts), 0);
  task.rethrow();
}

void* thread_scratch(int slot, int64_t bytes) {
  struct Buffer {
    void* data = nullptr;
    int64_t size = 0;
    ~Buffer() { free(data); }
  };
  static thread_local Buffer buffers[4];
  Buffer& buffer = buffers[slot];
  if (buffer.size < bytes) {
    const int64_t size = (bytes + 4095) / 4096 * 4096;
    void* data = nullptr;
    if (posix_memalign(&data, 64, size_t(size)) != 0) throw std::bad_alloc();
    free(buffer.data);
    buffer.data = data;
    buffer.size = size;
  }
  return buffer.data;
}

}  // namespace fusestep
