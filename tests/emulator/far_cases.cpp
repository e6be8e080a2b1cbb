// Rows that lie more than 2³¹ elements apart: offsets have 64 bits in every kernel. Address space costs
// nothing; memory is what is touched.
#include <sys/mman.h>

#include "cases.h"

namespace parity {
namespace {

constexpr int64_t kRows = 2, kApart = (int64_t(1) << 31) + 64;  // in elements

// (kRows, n) of float32, near each other or far apart, from the same values.
class Pair {
 public:
  Pair(int64_t n, double first) : near_(allocate(DType::f32, {kRows, n}, Layout::dense)), far_(near_.view) {
    bytes_ = size_t((kRows - 1) * kApart + n) * sizeof(float);
    far_.data =
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (far_.data == MAP_FAILED) abort();
    far_.contiguous = false;
    far_.strides[0] = kApart;
    for (int64_t i = 0; i < near_.view.count; ++i) {
      const double value = first + 0.37 * std::sin(double(i + 1));
      near_.set(i, value);
      store_floating(far_, offset_of(far_, i), value);
    }
  }
  ~Pair() { munmap(far_.data, bytes_); }
  Pair(const Pair&) = delete;

  const View& view(bool far) const { return far ? far_ : near_.view; }
  bool agrees() const {
    for (int64_t i = 0; i < near_.view.count; ++i) {
      const double near = near_.at(i), far = load_floating<double>(far_, offset_of(far_, i));
      if (near != far && !(std::isnan(near) && std::isnan(far))) return false;
    }
    return true;
  }

 private:
  Array near_;
  View far_;
  size_t bytes_;
};

// One thread a row, several, a block, and shared memory.
const int64_t kLengths[] = {5, 40, 1100, 9000};

void check_losses(const OpInfo& info, const Kernel& kernel, int64_t n, Report& report) {
  const Pair x(n, 0.5), target(n, 0.5), first(n, 0), second(n, 0), loss(n, 0);
  const Array losses = allocate(DType::f32, {kRows}, Layout::dense);
  const std::vector<double> hyper = hyper_of(info, 0);
  Array labels = allocate(DType::i64, {kRows}, Layout::dense);
  memset(labels.memory.get(), 0, labels.bytes);
  const auto of_rows = [&](auto args, bool far) {
    args.input = x.view(far);
    args.loss = losses.view;
    args.reduction = Reduction::none;
    args.rows = kRows;
    args.classes = n;
    args.hyper = hyper.data();
    return args;
  };
  for (const bool far : {false, true}) {
    emulator::set_seed(0);
    if (info.shape == Shape::pointwise) {
      PointwiseArgs args{};
      args.operand[0] = x.view(far);
      args.operand[1] = target.view(far);
      args.grad[0] = first.view(far);
      args.grad[1] = second.view(far);
      args.loss = loss.view(far);
      args.reduction = Reduction::none;
      args.hyper = hyper.data();
      kernel.pointwise(args);
    } else if (info.shape == Shape::rowwise) {
      RowwiseArgs args = of_rows(RowwiseArgs{}, far);
      args.target = labels.view;
      args.grad_input = first.view(far);
      kernel.rowwise(args);
    } else {
      DenseArgs args = of_rows(DenseArgs{}, far);
      if (info.operand_count > 1) args.target = target.view(far);
      args.first = first.view(far);
      kernel.dense(args);
    }
  }
  ++report.cases;
  if (!first.agrees() || !second.agrees() || !loss.agrees())
    report.fail("far apart, other values", info.name);
}

void check_step(const OpInfo& info, const Kernel& kernel, Report& report) {
  const Pair param(40, 1), grad(40, 0.1), states[kMaxStates] = {{40, 0.5}, {40, 0.5}, {40, 0.5}};
  const std::vector<double> hyper = hyper_of(info, 0);
  double norm[2];
  for (const bool far : {false, true}) {
    UpdateItem item;
    item.param = param.view(far);
    item.grad = grad.view(far);
    for (int k = 0; k < info.state_count; ++k) item.state[k] = states[k].view(far);
    item.hyper = hyper.data();
    for (Count& number : item.number) number = {1, 2};
    info.advance(item.hyper, item.number);
    item.grad_scale = item.max_norm = 1;
    item.decay = 0;
    item.rounding = Rounding::nearest;
    std::vector<char> workspace = poisoned_workspace(Shape::update, 1);
    fusestep_engine()->norm({&item, 1, &norm[far], nullptr, workspace.data()});
    kernel.update({&item, 1, false, Gradients::kept, nullptr, nullptr});
  }
  ++report.cases;
  bool agree = param.agrees() && std::fabs(norm[0] - norm[1]) <= 1e-14 * norm[0];
  for (const Pair& state : states) agree = agree && state.agrees();
  if (!agree) report.fail("far apart, other values", info.name);
}

}  // namespace

void check_far(Report& report) {
  for (int i = 0; i < kOpCount; ++i) {
    const Kernel& kernel = fusestep_engine()->kernels[i];
    if (kOps[i].shape == Shape::update) {
      check_step(kOps[i], kernel, report);
    } else if (kOps[i].shape == Shape::pointwise) {
      check_losses(kOps[i], kernel, 40, report);
    } else {
      for (const int64_t n : kLengths) check_losses(kOps[i], kernel, n, report);
    }
  }
}

}  // namespace parity
