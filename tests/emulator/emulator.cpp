// Fibers by ucontext; switched by GCC's own setjmp and longjmp, because swapcontext makes a system call,
// and so does longjmp under the address sanitizer.
#include "emulator.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define NOT_SANITIZED __attribute__((noinline, no_sanitize_address))
#define START_SWITCH(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define FINISH_SWITCH(saved, bottom, size) __sanitizer_finish_switch_fiber(saved, bottom, size)
#else
#define NOT_SANITIZED __attribute__((noinline))
#define START_SWITCH(save, bottom, size) (void)(save)
#define FINISH_SWITCH(saved, bottom, size) (void)(saved)
#endif

namespace emulator {

Index thread_index, block_index, block_size, grid_size;
int launches = 0;

namespace {

constexpr size_t kStackBytes = 256 << 10;  // address space; touched as needed
constexpr int kWarp = 32;

enum class State { ready, at_barrier, at_shuffle, done };

struct Fiber {
  ucontext_t context;
  void* where[5];
  void* stack;
  bool started = false;
  State state;
  void* fake_stack = nullptr;
  // Two, because a lane may be one exchange ahead of those that still read the last.
  uint64_t slot[2];
  unsigned exchanges;
};

struct Shared {
  const void* key;
  std::unique_ptr<char[]> data;
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Shared> shared_arrays;
Fiber* current = nullptr;
void* scheduler[5];
void* scheduler_fake_stack = nullptr;
const void* scheduler_bottom = nullptr;
size_t scheduler_size = 0;
void (*kernel)(const void*) = nullptr;
const void* kernel_context = nullptr;
size_t dynamic_bytes = 0;
unsigned seed_of_order = 0;
std::mt19937 generator;

[[noreturn]] void fail(const char* what) {
  fprintf(stderr, "emulator: %s (block %u)\n", what, block_index.x);
  abort();
}

NOT_SANITIZED void leave() {
  START_SWITCH(&current->fake_stack, scheduler_bottom, scheduler_size);
  if (__builtin_setjmp(current->where) == 0) __builtin_longjmp(scheduler, 1);
  FINISH_SWITCH(current->fake_stack, &scheduler_bottom, &scheduler_size);
}

void wait_as(State state) {
  current->state = state;
  leave();
}

// Lives on: the next block finds it in its loop.
void live() {
  FINISH_SWITCH(nullptr, &scheduler_bottom, &scheduler_size);
  for (;;) {
    kernel(kernel_context);
    wait_as(State::done);
  }
}

NOT_SANITIZED void enter(Fiber& fiber, unsigned index) {
  current = &fiber;
  thread_index.x = index;
  START_SWITCH(&scheduler_fake_stack, fiber.stack, kStackBytes);
  if (__builtin_setjmp(scheduler) == 0) {
    if (fiber.started) __builtin_longjmp(fiber.where, 1);
    fiber.started = true;
    setcontext(&fiber.context);
  }
  FINISH_SWITCH(scheduler_fake_stack, nullptr, nullptr);
}

void grow(size_t threads) {
  while (fibers.size() < threads) {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fiber->stack == MAP_FAILED) fail("no memory for a stack");
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = kStackBytes;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, live, 0);
    fibers.push_back(std::move(fiber));
  }
}

void order(std::vector<unsigned>& numbers, unsigned count) {
  numbers.resize(count);
  std::iota(numbers.begin(), numbers.end(), 0u);
  if (seed_of_order != 0) std::shuffle(numbers.begin(), numbers.end(), generator);
}

// Runs a warp until all its lanes wait for the block, or have ended.
void run_warp(unsigned first) {
  static std::vector<unsigned> lanes;
  for (;;) {
    order(lanes, kWarp);
    int shuffling = 0;
    for (const unsigned lane : lanes) {
      Fiber& fiber = *fibers[first + lane];
      if (fiber.state == State::ready) enter(fiber, first + lane);
      shuffling += fiber.state == State::at_shuffle;
    }
    if (shuffling == 0) return;
    if (shuffling != kWarp) fail("a shuffle that not all lanes of the warp reach");
    for (int lane = 0; lane < kWarp; ++lane) fibers[first + lane]->state = State::ready;
  }
}

void run_block(unsigned threads) {
  static std::vector<unsigned> warps;
  for (unsigned i = 0; i < threads; ++i) {
    fibers[i]->state = State::ready;
    fibers[i]->exchanges = 0;
  }
  for (unsigned waiting = threads; waiting > 0;) {
    order(warps, threads / kWarp);
    for (const unsigned warp : warps) run_warp(warp * kWarp);
    waiting = 0;
    for (unsigned i = 0; i < threads; ++i) waiting += fibers[i]->state == State::at_barrier;
    if (waiting != 0 && waiting != threads) fail("a __syncthreads that not all threads reach");
    for (unsigned i = 0; i < threads && waiting > 0; ++i) fibers[i]->state = State::ready;
  }
  shared_arrays.clear();
}

}  // namespace

void set_seed(unsigned seed) {
  seed_of_order = seed;
  generator.seed(seed);
}

void run(const Launch& launch, void (*body)(const void*), const void* context) {
  if (launch.blocks == 0 || launch.threads % kWarp != 0) fail("a launch of no blocks, or of part of a warp");
  grow(size_t(launch.threads));
  ++launches;
  kernel = body;
  kernel_context = context;
  dynamic_bytes = launch.shared;
  grid_size.x = launch.blocks;
  block_size.x = unsigned(launch.threads);
  std::vector<unsigned> numbers;
  order(numbers, launch.blocks);
  for (const unsigned number : numbers) {
    block_index.x = number;
    run_block(unsigned(launch.threads));
  }
}

void* shared(const void* key, size_t bytes) {
  for (const Shared& array : shared_arrays) {
    if (array.key == key) return array.data.get();
  }
  shared_arrays.push_back({key, std::unique_ptr<char[]>(new char[bytes])});
  memset(shared_arrays.back().data.get(), 0xff, bytes);
  return shared_arrays.back().data.get();
}

void* dynamic_shared() {
  static const char key = 0;
  return shared(&key, dynamic_bytes);
}

void wait_for_block() { wait_as(State::at_barrier); }

uint64_t exchange(unsigned mask, uint64_t bits, unsigned lane) {
  if (mask != 0xffffffffu) fail("a shuffle of part of a warp");
  const unsigned self = thread_index.x, turn = current->exchanges++ % 2;
  current->slot[turn] = bits;
  wait_as(State::at_shuffle);
  return fibers[self / kWarp * kWarp + lane]->slot[turn];
}

}  // namespace emulator
