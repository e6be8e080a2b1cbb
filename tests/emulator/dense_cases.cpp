#include "cases.h"
#include "rows.h"

namespace parity {
namespace {

// Results are the loss, the first and the second.
void run(const Op& op, bool cuda, DenseArgs args, const Arrays& results) {
  args.loss = results[0].view;
  args.first = results[1].view;
  args.second = results[2].view;
  if (!cuda) return op.cpu.dense(args);
  std::vector<char> workspace = poisoned_workspace(Shape::dense, args.rows);
  args.workspace = workspace.data();
  op.cuda.dense(args);
}

// Whether the formula has a loss, seen from whether the CPU engine writes one.
bool writes_loss(const Op& op) {
  const Array x = filled(DType::f64, {1, 1}, Layout::dense, [] { return 0.5; });
  const Array loss = filled(DType::f64, {1}, Layout::dense, [] { return -77.0; });
  const std::vector<double> hyper = hyper_of(op.info, 0);
  DenseArgs args{};
  args.input = args.target = x.view;
  args.loss = loss.view;
  args.rows = args.classes = 1;
  args.hyper = hyper.data();
  op.cpu.dense(args);
  return loss.at(0) != -77.0;
}

struct Plan {
  int64_t classes;
  Reduction reduction;
  int wants;  // bit 0: loss, bit 1: first, bit 2: second
  int place;  // of the classes in memory: see Rows
  int turn;
  bool has_loss;
};

void check(const Op& op, const Plan& plan, Random& random, Report& report) {
  const int64_t classes = plan.classes;
  const Rows rows(classes, plan.place, plan.turn == 0 && plan.wants == 7, random);
  Draw draw(random, plan.turn);
  const bool each = plan.reduction == Reduction::none;
  const std::vector<int64_t> one = {1}, losses = each ? rows.lead : one;

  Array input = rows.allocate(draw.dtype()), target, weight, seed;
  const Scores scores(random, classes);
  const bool paired = op.info.operand_count > 1, probable = random.coin();
  // Without a loss, a pair is a result and its gradient: probabilities, or logarithms of them.
  const bool result = paired && !plan.has_loss;
  for (int64_t i = 0; i < input.view.count; ++i) {
    input.set(i, !result ? scores.next(random) : probable ? random.uniform(0, 1) : random.uniform(-6, 0));
  }
  if (paired) {
    // Probabilities, of which some are 0, or numbers of either sign. Not the same for a whole long row:
    // equal terms are rounded in one direction, and the CPU engine's error grows with their number.
    const auto value = [&] {
      return probable ? std::max(0.0, random.uniform(-0.5, 1)) : random.uniform(-2, 2);
    };
    target = random.coin() ? rows.allocate(draw.dtype())
                           : allocate(draw.dtype(), rows.sizes, Layout(random.below(classes > 500 ? 4 : 5)));
    for (int64_t i = 0; i < target.view.count; ++i) target.set(i, value());
  }
  if (random.coin()) {
    weight = filled(draw.dtype(), {classes}, random.coin() ? Layout::dense : Layout::gapped,
                    [&] { return random.uniform(0.1, 2); });
  }
  if (random.coin()) {
    seed = filled(draw.dtype(), losses, each ? Layout(random.below(5)) : Layout::dense,
                  [&] { return random.uniform(-2, 2); });
  }
  const std::vector<double> hyper = hyper_of(op.info, unsigned(random.below(256)));
  DenseArgs args{};
  args.input = input.view;
  args.target = target.view;
  args.weight = weight.view;
  args.seed = seed.view;
  args.reduction = plan.reduction;
  args.rows = rows.count;
  args.classes = classes;
  args.hyper = hyper.data();

  Arrays blank(3);
  if (plan.wants & 1) {
    blank[0] = allocate(draw.dtype(), losses, each ? Layout(random.below(4)) : Layout::dense);
  }
  if (plan.wants & 2) blank[1] = rows.allocate_result(draw.dtype(), random);
  if (plan.wants & 4) blank[2] = rows.allocate_result(draw.dtype(), random);
  const auto is_wide = [](const View& view) { return present(view) && view.dtype == DType::f64; };
  const bool wide = is_wide(args.input) || is_wide(args.target) || (!plan.has_loss && is_wide(blank[1].view));
  std::string where = describe("input", input.view) + describe("target", target.view) +
                      describe("weight", weight.view) + describe("seed", seed.view) +
                      describe("loss", blank[0].view) + describe("first", blank[1].view) +
                      describe("second", blank[2].view) +
                      " reduction=" + std::to_string(int(plan.reduction)) + scores.describe();
  for (const double value : hyper) where += " hyper=" + std::to_string(value);
  const Arrays got =
      emulate(op, blank, report, where, [&](const Arrays& results) { run(op, true, args, results); });
  const Arrays want = clone(blank);
  run(op, false, args, want);

  // With a target of magnitudes the terms of a sum do not cancel: their size is what errors are
  // relative to.
  const Arrays terms = clone(blank);
  Array magnitudes = target.clone();
  for (int64_t i = 0; i < target.view.count; ++i) magnitudes.set(i, std::fabs(target.at(i)));
  DenseArgs uncancelled = args;
  uncancelled.target = magnitudes.view;
  run(op, false, uncancelled, terms);
  const double sum = scale_of_sum(plan.reduction, plan.has_loss && plan.wants & 1 ? rows.count : 0,
                                  [&](Reduction reduction, const View& loss) {
                                    DenseArgs sums = uncancelled;
                                    sums.reduction = reduction;
                                    sums.seed = View();
                                    sums.loss = loss;
                                    op.cpu.dense(sums);
                                  });
  const auto finite = [](double value) { return std::isfinite(value) ? std::fabs(value) : 0; };
  report.fail(compare("loss", got[0], want[0], wide, report.worst,
                      [&](int64_t i) { return each ? finite(terms[0].at(i)) : sum; }),
              where);
  for (size_t k = 1; k < 3; ++k) {
    std::vector<double> scale(size_t(rows.count) + 1, 0.0);
    if (op.info.operand_count > 1) scale = largest_of_rows(terms[k], rows.count, classes);
    report.fail(compare(k == 1 ? "first" : "second", got[k], want[k], wide, report.worst,
                        [&](int64_t i) { return scale[size_t(i / classes)]; }),
                where);
  }
}

}  // namespace

void check_dense(const Op& op, Report& report) {
  Random random;
  const bool has_loss = writes_loss(op);
  for (const int64_t classes : {0, 1, 2, 7, 8, 31, 32, 33, 64, 100, 300, 1000, 1025, 4097, 9001}) {
    for (int turn = 0; turn < (classes > 500 ? 2 : 3); ++turn) {
      for (const Reduction reduction : {Reduction::none, Reduction::mean, Reduction::sum}) {
        for (int wants = 1; wants <= 7; ++wants) {
          if (classes > 5000 && wants % 2 == 0) continue;
          for (int place = 0; place < (classes > 5000 ? 2 : Rows::places); ++place) {
            check(op, {classes, reduction, wants, place, turn, has_loss}, random, report);
          }
        }
      }
    }
  }
}

}  // namespace parity
