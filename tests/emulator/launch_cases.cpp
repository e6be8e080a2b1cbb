// How many launches a call takes: each costs microseconds, and more than the work of a small one.
#include "cases.h"

namespace parity {
namespace {

// In which `call` launches.
template <class Call>
int launches_of(Call&& call) {
  const int before = emulator::launches;
  emulator::set_seed(0);
  call();
  return emulator::launches - before;
}

void expect(Report& report, const std::string& what, int launches, int most) {
  ++report.cases;
  if (launches != most) {
    report.fail(std::to_string(launches) + " launches, expected " + std::to_string(most), what);
  }
}

Array ones(const std::vector<int64_t>& sizes) {
  return filled(DType::f32, sizes, Layout::dense, [] { return 0.5; });
}

// A loss and all its gradients, over several blocks: the sum ends in the launch that it began in.
void check_losses(const OpInfo& info, const Kernel& kernel, Report& report) {
  const Array x = ones({300, 40}), grad = ones({300, 40}), loss = ones({1});
  const std::vector<double> hyper = hyper_of(info, 0);
  std::vector<char> workspace = poisoned_workspace(info.shape, 1);
  const auto run = [&](auto args) {
    args.loss = loss.view;
    args.reduction = Reduction::mean;
    args.hyper = hyper.data();
    args.workspace = workspace.data();
    return args;
  };
  if (info.shape == Shape::pointwise) {
    PointwiseArgs args{};
    for (int k = 0; k < info.operand_count; ++k) args.operand[k] = x.view, args.grad[k] = grad.view;
    expect(report, info.name, launches_of([&] { kernel.pointwise(run(args)); }), 1);
  } else if (info.shape == Shape::rowwise) {
    Array labels = allocate(DType::i64, {300}, Layout::dense);
    memset(labels.memory.get(), 0, labels.bytes);
    RowwiseArgs args{};
    args.input = x.view;
    args.target = labels.view;
    args.grad_input = grad.view;
    args.rows = 300;
    args.classes = 40;
    // What a mean divides by is counted before.
    expect(report, info.name, launches_of([&] { kernel.rowwise(run(args)); }), 2);
  } else {
    DenseArgs args{};
    args.input = x.view;
    if (info.operand_count > 1) args.target = x.view;
    args.first = grad.view;
    args.rows = 300;
    args.classes = 40;
    expect(report, info.name, launches_of([&] { kernel.dense(run(args)); }), 1);
  }
}

// Tensors of two groups share a launch; what only the device knows takes one before.
void check_step(const OpInfo& info, const Kernel& kernel, Report& report) {
  constexpr int tensors = 20;
  std::vector<double> hyper[] = {hyper_of(info, 0), hyper_of(info, 0)};
  hyper[1][0] *= 2;
  Arrays arrays;
  std::vector<UpdateItem> items;
  for (int i = 0; i < tensors; ++i) {
    UpdateItem& item = items.emplace_back();
    const auto fresh = [&] { return arrays.emplace_back(ones({100})).view; };
    item.param = fresh();
    item.grad = fresh();
    for (int k = 0; k < info.state_count; ++k) item.state[k] = fresh();
    item.hyper = hyper[i % 2].data();
    item.number[0] = {0, 1};
    info.advance(item.hyper, item.number);
    item.grad_scale = item.max_norm = 1;
    item.decay = 0;
    item.rounding = Rounding::nearest;
  }
  std::vector<char> workspace = poisoned_workspace(Shape::update, tensors);
  UpdateArgs args{items.data(), tensors, false, Gradients::kept, nullptr, nullptr, workspace.data()};
  expect(report, info.name, launches_of([&] { kernel.update(args); }), 1);
  double norm = 0;
  const auto take_norm = [&] {
    fusestep_engine()->norm({items.data(), tensors, &norm, nullptr, workspace.data()});
  };
  expect(report, std::string("norm for ") + info.name, launches_of(take_norm), 1);
  const float scale = 2;
  args.loss_scale = &scale;
  expect(report, std::string(info.name) + " on the device", launches_of([&] { kernel.update(args); }), 2);
}

}  // namespace

void check_launches(Report& report) {
  for (int i = 0; i < kOpCount; ++i) {
    const Kernel& kernel = fusestep_engine()->kernels[i];
    kOps[i].shape == Shape::update ? check_step(kOps[i], kernel, report)
                                   : check_losses(kOps[i], kernel, report);
  }
}

}  // namespace parity
