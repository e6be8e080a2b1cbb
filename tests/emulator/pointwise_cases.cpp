#include "cases.h"

namespace parity {
namespace {

struct Results {
  Array loss, grad_input, grad_target;

  Results clone() const { return {loss.clone(), grad_input.clone(), grad_target.clone()}; }
  bool same(const Results& o) const {
    return same_bits(loss, o.loss) && same_bits(grad_input, o.grad_input) &&
           same_bits(grad_target, o.grad_target);
  }
};

void run(const Op& op, bool cuda, PointwiseArgs args, const Results& results) {
  args.loss = results.loss.view;
  args.grad_input = results.grad_input.view;
  args.grad_target = results.grad_target.view;
  if (!cuda) return op.cpu.pointwise(args);
  const int64_t bytes = fusestep_engine()->workspace_bytes(Shape::pointwise, args.input.count);
  std::vector<char> workspace(size_t(bytes), char(0xff));
  args.workspace = workspace.data();
  op.cuda.pointwise(args);
}

// Sum of the magnitudes of the losses: what a rounding error of their sum is relative to.
double magnitude(const Op& op, PointwiseArgs args, bool wide) {
  args.reduction = Reduction::none;
  args.seed = View();
  Results each;
  each.loss = allocate(wide ? DType::f64 : DType::f32, {args.input.count}, Layout::dense);
  run(op, false, args, each);
  double sum = 0;
  for (int64_t i = 0; i < args.input.count; ++i) sum += std::fabs(each.loss.at(i));
  return std::isfinite(sum) ? sum : 0;
}

struct Plan {
  int64_t count;
  Reduction reduction;
  int wants;  // bit 0: loss, bit 1: gradients
  bool seeded;
  int turn;
};

void check(const Op& op, const Plan& plan, Random& random, Report& report) {
  int64_t rows = 1;
  for (int64_t r = 1; r * r <= plan.count; ++r) rows = plan.count % r == 0 ? r : rows;
  const std::vector<int64_t> sizes = {rows, plan.count / rows};
  // The first turns take the ways through the engine that a random choice would seldom hit.
  const DType common = plan.turn == 0   ? DType::f32
                       : plan.turn == 1 ? (random.coin() ? DType::bf16 : DType::f16)
                                        : random.dtype();
  const bool mixed = plan.turn > 1 && random.coin();
  const Layout general = plan.turn < 2 ? Layout::dense : Layout(random.below(4));
  const bool shuffled = plan.turn > 1 && random.coin();
  const auto dtype = [&] { return mixed ? random.dtype() : common; };
  const auto layout = [&](int kinds) { return shuffled ? Layout(random.below(kinds)) : general; };
  const bool unit = random.coin();  // probabilities suit every loss; the rest shows the same NaN
  const auto value = [&] { return unit ? random.uniform(0.02, 0.98) : random.uniform(-4, 4); };

  const Array input = filled(dtype(), sizes, layout(4), value);
  const Array target = filled(dtype(), sizes, layout(5), value);
  const std::vector<double> hyper = hyper_of(op.info, random.coin());
  const bool each = plan.reduction == Reduction::none;
  Array seed;
  if (plan.seeded) {
    const std::vector<int64_t> one = {1};
    seed = filled(dtype(), each ? sizes : one, each ? layout(5) : Layout::dense,
                  [&] { return random.uniform(-2, 2); });
  }
  PointwiseArgs args{input.view, target.view,    {},           {},      {},
                     seed.view,  plan.reduction, hyper.data(), nullptr, nullptr};
  const bool wide = input.view.dtype == DType::f64 || target.view.dtype == DType::f64;

  Results blank;
  if (plan.wants & 1) {
    blank.loss = each ? allocate(dtype(), sizes, layout(4)) : allocate(dtype(), {1}, Layout::dense);
  }
  const int grads = plan.wants & 2 ? 1 + random.below(3) : 0;
  if (grads & 1) blank.grad_input = allocate(dtype(), sizes, layout(4));
  if (grads & 2) blank.grad_target = allocate(dtype(), sizes, layout(4));
  const Results want = blank.clone(), got = blank.clone(), again = blank.clone();
  run(op, false, args, want);
  emulator::set_seed(0);
  run(op, true, args, got);
  emulator::set_seed(op.seed);
  run(op, true, args, again);

  const std::string where =
      describe("input", input.view) + describe("target", target.view) + describe("seed", seed.view) +
      describe("loss", want.loss.view) + describe("grad_input", want.grad_input.view) +
      describe("grad_target", want.grad_target.view) + " reduction=" + std::to_string(int(plan.reduction));
  const bool reduced_loss = !each && (plan.wants & 1) && plan.count > 0;
  const double sum = reduced_loss ? magnitude(op, args, wide) : 0;
  const double scale = plan.reduction == Reduction::mean ? sum / double(plan.count) : sum;
  const auto none = [](int64_t) { return 0.0; };
  report.fail(compare("loss", got.loss, want.loss, wide, report.worst, [&](int64_t) { return scale; }),
              where);
  report.fail(compare("grad_input", got.grad_input, want.grad_input, wide, report.worst, none), where);
  report.fail(compare("grad_target", got.grad_target, want.grad_target, wide, report.worst, none), where);
  if (!got.same(again)) report.fail("another order of blocks gives other bits", where);
  ++report.cases;
}

}  // namespace

void check_pointwise(const Op& op, Report& report) {
  Random random;
  for (const int64_t count : {0, 1, 2, 31, 32, 33, 127, 128, 129, 1000, 4097, 70000}) {
    const int turns = count <= 1000 ? 8 : count < 70000 ? 4 : 3;
    for (int turn = 0; turn < turns; ++turn) {
      for (const Reduction reduction : {Reduction::none, Reduction::mean, Reduction::sum}) {
        for (int wants = 1; wants <= 3; ++wants) {
          for (const bool seeded : {false, true}) {
            check(op, {count, reduction, wants, seeded, turn}, random, report);
          }
        }
      }
    }
  }
}

}  // namespace parity
