#include "cases.h"

namespace parity {
namespace {

// Results are the loss, then a gradient for each operand.
bool run(const Op& op, bool cuda, PointwiseArgs args, const Arrays& results) {
  args.loss = results[0].view;
  for (int k = 0; k < op.info.operand_count; ++k) args.grad[k] = results[size_t(k) + 1].view;
  if (!cuda) return op.cpu.pointwise(args);
  std::vector<char> workspace = poisoned_workspace(Shape::pointwise, args.operand[0].count);
  args.workspace = workspace.data();
  return op.cuda.pointwise(args);
}

// Whether element i lies in the domain: the CPU engine is asked about it alone.
bool is_inside(const Op& op, PointwiseArgs args, int64_t i) {
  for (View& x : args.operand) {
    if (present(x)) x = one_of(x, i);
  }
  args.weight = args.seed = View();
  const Array loss = allocate(DType::f64, {1}, Layout::dense);
  args.loss = loss.view;
  return op.cpu.pointwise(args);
}

struct Plan {
  int64_t count;
  Reduction reduction;
  int wants;  // bit 0: loss, bit 1: gradients
  bool seeded;
  int turn;
};

void check(const Op& op, const Plan& plan, Random& random, Report& report) {
  const std::vector<int64_t> sizes = rectangle(plan.count), one = {1};
  Draw draw(random, plan.turn);
  const bool each = plan.reduction == Reduction::none;
  // Probabilities suit every loss. Among small integers operands are equal, absent or signs; of numbers
  // of either sign a domain takes a part.
  const bool probable = random.coin() || (op.info.domain != nullptr && plan.count > 5000);
  Arrays operands;
  for (int k = 0; k < op.info.operand_count; ++k) {
    const int kind = probable ? 0 : random.below(3);
    const auto value = [&] {
      return kind == 0   ? random.uniform(0.02, 0.98)
             : kind == 1 ? random.uniform(-4, 4)
                         : double(random.below(4) - 1);
    };
    const bool absent = k >= 2 && random.below(3) == 0;
    operands.push_back(absent ? Array() : filled(draw.dtype(), sizes, draw.layout(5), value));
  }
  Array weight, seed;
  if (random.coin()) {
    weight = filled(draw.dtype(), sizes, draw.layout(5), [&] { return random.uniform(0.1, 2); });
  }
  if (plan.seeded) {
    seed = filled(draw.dtype(), each ? sizes : one, each ? draw.layout(5) : Layout::dense,
                  [&] { return random.uniform(-2, 2); });
  }
  const std::vector<double> hyper = hyper_of(op.info, unsigned(random.below(256)));
  PointwiseArgs args{};
  bool wide = present(weight.view) && weight.view.dtype == DType::f64;
  std::string where = describe("weight", weight.view) + describe("seed", seed.view);
  for (size_t k = 0; k < operands.size(); ++k) {
    args.operand[k] = operands[k].view;
    wide = wide || (present(args.operand[k]) && args.operand[k].dtype == DType::f64);
    where += describe(op.info.operands[k], args.operand[k]);
  }
  args.weight = weight.view;
  args.seed = seed.view;
  args.reduction = plan.reduction;
  args.divisor = random.coin() ? 37 : 0;
  args.hyper = hyper.data();

  Arrays blank(1 + operands.size());
  if (plan.wants & 1) {
    blank[0] = allocate(draw.dtype(), each ? sizes : one, each ? draw.layout(4) : Layout::dense);
  }
  const int grads = plan.wants & 2 ? 1 + random.below((1 << operands.size()) - 1) : 0;
  for (size_t k = 0; k < operands.size(); ++k) {
    if (grads >> k & 1) blank[k + 1] = allocate(draw.dtype(), sizes, draw.layout(4));
  }
  for (const Array& result : blank) where += describe("result", result.view);
  where += " reduction=" + std::to_string(int(plan.reduction)) + " divisor=" + std::to_string(args.divisor);
  for (const double value : hyper) where += " hyper=" + std::to_string(value);

  Arrays want = clone(blank);
  if (!run(op, false, args, want)) {
    // The CPU engine refuses the call. CUDA writes NaN to what lies outside, and computes the rest.
    ++report.outside;
    for (int64_t i = 0; i < plan.count; ++i) {
      if (is_inside(op, args, i)) continue;
      for (size_t k = 0; k < want.size(); ++k) {
        if (present(want[k].view)) want[k].set(k > 0 || each ? i : 0, NAN);
      }
    }
    if (op.info.domain == nullptr) report.fail("the CPU engine finds a domain", where);
  }
  const Arrays got = emulate(op, blank, report, where, [&](const Arrays& results) {
    if (!run(op, true, args, results)) report.fail("the CUDA engine refuses a call", where);
  });
  const double scale = scale_of_sum(plan.reduction, plan.wants & 1 ? plan.count : 0,
                                    [&](Reduction reduction, const View& loss) {
                                      PointwiseArgs sums = args;
                                      sums.reduction = reduction;
                                      sums.seed = View();
                                      sums.loss = loss;
                                      op.cpu.pointwise(sums);
                                    });
  for (size_t k = 0; k < want.size(); ++k) {
    const char* name = k == 0 ? "loss" : op.info.operands[k - 1];
    const auto scale_at = [&](int64_t) { return k == 0 ? scale : 0; };
    report.fail(compare(name, got[k], want[k], wide, report.worst, scale_at), where);
  }
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
