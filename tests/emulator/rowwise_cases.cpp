#include "cases.h"
#include "rows.h"

namespace parity {
namespace {

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

// Results are the loss and the gradient.
void run(const Op& op, bool cuda, RowwiseArgs args, const Arrays& results) {
  args.loss = results[0].view;
  args.grad_input = results[1].view;
  if (!cuda) {
    op.cpu.rowwise(args);
    return;
  }
  std::vector<char> workspace = poisoned_workspace(Shape::rowwise, args.rows);
  args.workspace = workspace.data();
  op.cuda.rowwise(args);
}

struct Plan {
  int64_t classes;
  Reduction reduction;
  int wants;  // bit 0: loss, bit 1: gradient
  int place;  // of the classes in memory: see Rows
  int turn;
};

void check(const Op& op, const Plan& plan, Random& random, Report& report) {
  const int64_t classes = plan.classes;
  const Rows rows(plan.classes, plan.place, plan.turn == 0 && plan.wants == 3, random);
  Draw draw(random, plan.turn);
  const bool each = plan.reduction == Reduction::none;
  const std::vector<int64_t> one = {1}, losses = each ? rows.lead : one;

  Array input = rows.allocate(draw.dtype());
  const Scores scores(random, classes);
  for (int64_t i = 0; i < input.view.count; ++i) input.set(i, scores.next(random));
  const int ignoring = random.below(5);  // nothing, a class, a stranger, everything; 4: may not
  const bool ignores = ignoring < 4;
  const int64_t ignored = ignoring == 1 ? 0 : -100;
  const bool strangers = random.below(4) == 0;  // labels out of range
  std::vector<int64_t> labels, honest;
  for (int64_t r = 0; r < rows.count; ++r) {
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
  const Array target = integers(kind, rows.lead, spread, labels);
  const Array tame = integers(kind, rows.lead, spread, honest);
  Array weight, seed;
  if (random.coin()) {
    weight = filled(draw.dtype(), {classes}, random.coin() ? Layout::dense : Layout::gapped,
                    [&] { return random.uniform(0.1, 2); });
  }
  if (random.coin()) {
    seed = filled(draw.dtype(), losses, each ? Layout(random.below(5)) : Layout::dense,
                  [&] { return random.uniform(-2, 2); });
  }
  const std::vector<double> hyper = hyper_of(op.info, unsigned(random.below(256)));
  RowwiseArgs args{};
  args.input = input.view;
  args.target = target.view;
  args.weight = weight.view;
  args.seed = seed.view;
  args.reduction = plan.reduction;
  args.rows = rows.count;
  args.classes = classes;
  args.ignores = ignores;
  args.ignore_index = ignores ? ignored : 0;  // a class, which must count after all
  args.hyper = hyper.data();
  const bool wide = input.view.dtype == DType::f64;

  Arrays blank(2);
  if (plan.wants & 1) {
    blank[0] = allocate(draw.dtype(), losses, each ? Layout(random.below(4)) : Layout::dense);
  }
  if (plan.wants & 2) blank[1] = rows.allocate_result(draw.dtype(), random);
  std::string where = describe("input", input.view) + describe("weight", weight.view) +
                      describe("seed", seed.view) + describe("loss", blank[0].view) +
                      describe("grad", blank[1].view) + " reduction=" + std::to_string(int(plan.reduction)) +
                      scores.describe() + " ignoring=" + std::to_string(ignoring);
  for (const double value : hyper) where += " hyper=" + std::to_string(value);
  const Arrays got =
      emulate(op, blank, report, where, [&](const Arrays& results) { run(op, true, args, results); });

  // The CPU engine refuses bad labels. It is given ignore_index in their place; CUDA writes NaN.
  Arrays want = clone(blank);
  args.target = tame.view;
  args.ignores = ignores || strangers;
  args.ignore_index = ignored;
  run(op, false, args, want);
  const double scale = scale_of_sum(plan.reduction, plan.wants & 1 ? rows.count : 0,
                                    [&](Reduction reduction, const View& loss) {
                                      RowwiseArgs sums = args;
                                      sums.reduction = reduction;
                                      sums.seed = View();
                                      sums.loss = loss;
                                      op.cpu.rowwise(sums);
                                    });
  for (int64_t r = 0; r < rows.count; ++r) {
    const bool bad = labels[size_t(r)] != honest[size_t(r)];
    if (bad && present(want[0].view)) want[0].set(each ? r : 0, NAN);
    for (int64_t c = 0; bad && present(want[1].view) && c < classes; ++c) want[1].set(r * classes + c, NAN);
  }
  const std::vector<double> largest = largest_of_rows(want[1], rows.count, classes);
  report.fail(compare("loss", got[0], want[0], wide, report.worst, [&](int64_t) { return scale; }), where);
  report.fail(compare("grad", got[1], want[1], wide, report.worst,
                      [&](int64_t i) { return largest[size_t(i / classes)]; }),
              where);
}

}  // namespace

void check_rowwise(const Op& op, Report& report) {
  Random random;
  for (const int64_t classes : {1, 2, 7, 8, 31, 32, 33, 64, 100, 300, 1000, 1025, 4097, 9001, 20000}) {
    for (int turn = 0; turn < (classes > 500 ? 2 : 3); ++turn) {
      for (const Reduction reduction : {Reduction::none, Reduction::mean, Reduction::sum}) {
        for (int wants = 1; wants <= 3; ++wants) {
          for (int place = 0; place < (classes > 5000 ? 2 : Rows::places); ++place) {
            check(op, {classes, reduction, wants, place, turn}, random, report);
          }
        }
      }
    }
  }
}

}  // namespace parity
