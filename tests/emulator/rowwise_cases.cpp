#include "cases.h"

namespace parity {
namespace {

struct Results {
  Array loss, grad;

  Results clone() const { return {loss.clone(), grad.clone()}; }
};

// Labels, in any integer dtype and layout.
Array integers(DType dtype, const std::vector<int64_t>& sizes, Layout layout,
               const std::vector<int64_t>& values) {
  Array array = allocate(dtype, sizes, layout);
  for (size_t i = 0; i < values.size(); ++i) {
    char* to = static_cast<char*>(array.view.data) + offset_of(array.view, int64_t(i)) * size_of(dtype);
    memcpy(to, &values[i], size_t(size_of(dtype)));  // little-endian
  }
  return array;
}

void run(const Op& op, bool cuda, RowwiseArgs args, const Results& results) {
  args.loss = results.loss.view;
  args.grad_input = results.grad.view;
  if (!cuda) {
    op.cpu.rowwise(args);
    return;
  }
  const int64_t bytes = fusestep_engine()->workspace_bytes(Shape::rowwise, args.rows);
  std::vector<char> workspace(size_t(bytes), char(0xff));
  args.workspace = workspace.data();
  op.cuda.rowwise(args);
}

struct Plan {
  int64_t classes;
  Reduction reduction;
  int wants;  // bit 0: loss, bit 1: gradient
  int place;  // 0 … 3: a Layout of (rows, classes); 4, 5: classes between other dimensions
  int turn;
};

// (rows…, classes) with the class dimension in the middle of memory, as in torch's (N, C, d).
Array channels(DType dtype, int64_t batch, int64_t inner, int64_t classes) {
  Array array = allocate(dtype, {batch, inner, classes}, Layout::dense);
  array.view.contiguous = false;
  array.view.strides[1] = 1;
  array.view.strides[2] = inner;
  return array;
}

void check(const Op& op, const Plan& plan, Random& random, Report& report) {
  const int64_t classes = plan.classes, most = std::max<int64_t>(2, 6000 / classes);
  const int64_t batch = plan.turn == 0 && plan.wants == 3 ? std::min<int64_t>(most, 900) : random.below(4);
  const bool three = plan.place >= 4;
  const int64_t inner = three ? 1 + random.below(classes > 1000 ? 3 : 40) : 1, rows = batch * inner;
  const std::vector<int64_t> lead = three ? std::vector<int64_t>{batch, inner} : std::vector<int64_t>{rows};
  std::vector<int64_t> full = lead;
  full.push_back(classes);
  const DType common = plan.turn == 0 ? DType::f32 : random.dtype();
  const bool mixed = plan.turn > 1 && random.coin();
  const auto dtype = [&] { return mixed ? random.dtype() : common; };
  const auto scores = [&](DType type) {
    return three ? channels(type, batch, inner, classes) : allocate(type, full, Layout(plan.place));
  };

  Array input = scores(dtype());
  const double shift = random.below(3) == 0 ? (random.coin() ? 1e4 : -1e4) : 0;
  const int infinite = random.below(4) == 0 ? 3 : 0;
  for (int64_t i = 0; i < input.view.count; ++i) {
    const bool infinity = infinite != 0 && random.below(infinite) == 0;
    input.set(i, infinity ? -INFINITY : shift + random.uniform(-6, 6));
  }
  const int ignoring = random.below(4);  // nothing, a class, a stranger, everything
  const int64_t ignored = ignoring == 1 ? 0 : -100;
  const bool strangers = random.below(4) == 0;  // labels out of range
  std::vector<int64_t> labels, honest;
  for (int64_t r = 0; r < rows; ++r) {
    int64_t label = random.below(int(std::min<int64_t>(classes, 120)));
    if (random.below(3) == 0) label = classes <= 127 ? classes - 1 : label;
    if (ignoring == 3 || (ignoring == 2 && random.below(3) == 0)) label = ignored;
    const bool stranger = strangers && random.below(5) == 0;
    labels.push_back(stranger ? (random.coin() ? -1 : 127) : label);
    if (labels.back() == 127 && classes > 127) labels.back() = -128;
    const bool known = labels.back() >= 0 && labels.back() < classes;
    honest.push_back(known ? labels.back() : ignored);
  }
  const DType kinds[] = {DType::i8, DType::i16, DType::i32, DType::i64};
  const DType kind = kinds[random.below(4)];
  const Layout spread = random.coin() ? Layout::dense : Layout(random.below(4));
  const Array target = integers(kind, lead, spread, labels), tame = integers(kind, lead, spread, honest);
  Array weight, seed;
  if (random.coin()) {
    weight = filled(dtype(), {classes}, random.coin() ? Layout::dense : Layout::gapped,
                    [&] { return random.uniform(0.1, 2); });
  }
  const bool each = plan.reduction == Reduction::none;
  if (random.coin()) {
    const std::vector<int64_t> one = {1};
    seed = filled(dtype(), each ? lead : one, each ? Layout(random.below(5)) : Layout::dense,
                  [&] { return random.uniform(-2, 2); });
  }
  const std::vector<double> hyper = hyper_of(op.info, random.coin());
  RowwiseArgs args{input.view, target.view, weight.view, {},           {},      seed.view, plan.reduction,
                   rows,       classes,     ignored,     hyper.data(), nullptr, nullptr};
  const bool wide = input.view.dtype == DType::f64;

  Results blank;
  if (plan.wants & 1) {
    const std::vector<int64_t> one = {1};
    blank.loss = allocate(dtype(), each ? lead : one, each ? Layout(random.below(4)) : Layout::dense);
  }
  if (plan.wants & 2) {
    const bool alike = random.coin();
    blank.grad = alike ? scores(dtype()) : allocate(dtype(), full, Layout(random.below(4)));
  }
  Results want = blank.clone();
  const Results got = blank.clone(), again = blank.clone();
  emulator::set_seed(0);
  run(op, true, args, got);
  emulator::set_seed(op.seed);
  run(op, true, args, again);
  args.target = tame.view;
  run(op, false, args, want);

  // The CPU engine refuses bad labels. It was given ignore_index in their place; CUDA writes NaN.
  std::vector<double> largest(size_t(rows) + 1, 0.0);
  bool any_bad = false;
  for (int64_t r = 0; r < rows; ++r) {
    const bool bad = labels[size_t(r)] != honest[size_t(r)] && labels[size_t(r)] != ignored;
    any_bad = any_bad || bad;
    if (bad && each && want.loss.view.data != nullptr) want.loss.set(r, NAN);
    for (int64_t c = 0; want.grad.view.data != nullptr && c < classes; ++c) {
      if (bad) want.grad.set(r * classes + c, NAN);
      const double value = std::fabs(want.grad.at(r * classes + c));
      if (std::isfinite(value)) largest[size_t(r)] = std::max(largest[size_t(r)], value);
    }
  }
  if (any_bad && !each && want.loss.view.data != nullptr) want.loss.set(0, NAN);

  const std::string where =
      describe("input", input.view) + describe("weight", weight.view) + describe("seed", seed.view) +
      describe("loss", want.loss.view) + describe("grad", want.grad.view) +
      " reduction=" + std::to_string(int(plan.reduction)) + " shift=" + std::to_string(shift) +
      " infinite=" + std::to_string(infinite) + " ignoring=" + std::to_string(ignoring) +
      " bad=" + std::to_string(any_bad) + " hyper0=" + (hyper.empty() ? "" : std::to_string(hyper[0]));
  report.fail(compare("loss", got.loss, want.loss, wide, report.worst, [](int64_t) { return 0.0; }), where);
  report.fail(compare("grad", got.grad, want.grad, wide, report.worst,
                      [&](int64_t i) { return largest[size_t(i / classes)]; }),
              where);
  if (!same_bits(got.loss, again.loss) || !same_bits(got.grad, again.grad)) {
    report.fail("another order of blocks gives other bits", where);
  }
  ++report.cases;
}

}  // namespace

void check_rowwise(const Op& op, Report& report) {
  Random random;
  for (const int64_t classes : {1, 2, 7, 31, 32, 33, 100, 1025, 5000}) {
    for (int turn = 0; turn < (classes > 1000 ? 2 : 3); ++turn) {
      for (const Reduction reduction : {Reduction::none, Reduction::mean, Reduction::sum}) {
        for (int wants = 1; wants <= 3; ++wants) {
          for (int place = 0; place < 6; ++place) {
            check(op, {classes, reduction, wants, place, turn}, random, report);
          }
        }
      }
    }
  }
}

}  // namespace parity
