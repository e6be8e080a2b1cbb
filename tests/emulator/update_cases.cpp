#include "cases.h"

namespace parity {
namespace {

// The tensors of one call: operands in the order parameter, gradient, states.
using Tensors = std::vector<Arrays>;

Tensors clone(const Tensors& tensors) {
  Tensors copy;
  for (const Arrays& operands : tensors) copy.push_back(parity::clone(operands));
  return copy;
}

struct Plan {
  std::vector<int64_t> counts;
  unsigned present;
  unsigned seconds;  // hyper-parameters: see hyper_of
  bool in_order;
  double step, grad_scale;
  int turn;
};

void run(const Kernel& kernel, const Tensors& tensors, const std::vector<double>& hyper,
         const std::vector<double>& other_hyper, const Plan& plan) {
  std::vector<UpdateItem> items;
  for (size_t i = 0; i < tensors.size(); ++i) {
    // Aliased, all items update the tensors of the first.
    const auto& operands = tensors[plan.in_order ? 0 : i];
    UpdateItem item;
    item.param = operands[0].view;
    item.grad = operands[1].view;
    for (int k = 0; k < kMaxStates; ++k) {
      item.state[k] = size_t(2 + k) < operands.size() ? operands[size_t(2 + k)].view : View();
    }
    item.hyper = i % 3 == 2 ? other_hyper.data() : hyper.data();
    item.step = plan.step + double(i % 2);
    item.grad_scale = plan.grad_scale;
    items.push_back(item);
  }
  kernel.update({items.data(), int64_t(items.size()), plan.in_order, nullptr});
}

void check(const Op& op, const Plan& plan, Random& random, Report& report) {
  Draw draw(random, plan.turn);
  Tensors blank;
  for (const int64_t count : plan.counts) {
    blank.emplace_back();
    for (int k = 0; k < 2 + op.info.state_count; ++k) {
      if (k >= 2 && !(plan.present >> (k - 2) & 1u)) {
        blank.back().emplace_back();
        continue;
      }
      const double low = k >= 2 ? 0.01 : -1;  // states may be squares
      blank.back().push_back(filled(draw.dtype(), rectangle(count), draw.layout(k == 1 ? 5 : 4),
                                    [&] { return random.uniform(low, 1); }));
    }
  }
  const std::vector<double> hyper = hyper_of(op.info, plan.seconds);
  const std::vector<double> other_hyper = hyper_of(op.info, ~plan.seconds);
  const Tensors want = clone(blank), got = clone(blank), again = clone(blank);
  run(op.cpu, want, hyper, other_hyper, plan);
  emulator::set_seed(0);
  run(op.cuda, got, hyper, other_hyper, plan);
  emulator::set_seed(op.seed);
  run(op.cuda, again, hyper, other_hyper, plan);

  for (size_t i = 0; i < want.size(); ++i) {
    const char* const names[] = {"param", "grad", "state0", "state1", "state2"};
    std::string where;
    bool wide = false;
    for (size_t k = 0; k < want[i].size(); ++k) {
      where += describe(names[k], want[i][k].view);
      wide = wide || (want[i][k].view.data != nullptr && want[i][k].view.dtype == DType::f64);
    }
    where += " tensor " + std::to_string(i) + " of " + std::to_string(want.size()) + " step " +
             std::to_string(plan.step);
    for (size_t k = 0; k < want[i].size(); ++k) {
      report.fail(compare(names[k], got[i][k], want[i][k], wide, report.worst, [](int64_t) { return 0.0; }),
                  where);
      if (!same_bits(got[i][k], again[i][k])) report.fail("another order of blocks gives other bits", where);
    }
  }
  ++report.cases;
}

}  // namespace

void check_update(const Op& op, Report& report) {
  Random random;
  std::vector<std::vector<int64_t>> calls = {{}, {5, 0, 4097, 0, 1, 9000}, std::vector<int64_t>(300)};
  for (int64_t& count : calls.back()) count = random.below(40);
  for (const int64_t count : {0, 1, 2, 31, 32, 33, 127, 128, 129, 1000, 4097, 70000}) {
    calls.push_back({count});
  }
  unsigned optional = 0;
  for (int k = 0; k < op.info.state_count; ++k) optional |= op.info.asked_by[k][0] != '\0' ? 1u << k : 0u;
  const unsigned all = (1u << op.info.state_count) - 1;
  for (unsigned present = 0; present <= all; ++present) {
    if ((present | optional) != all) continue;
    for (const auto& counts : calls) {
      const int turns = counts.size() == 1 && counts[0] <= 1000 ? 8 : 4;
      for (int turn = 0; turn < turns; ++turn) {
        check(op,
              {counts, present, unsigned(random.below(512)), false, turn % 2 == 0 ? 1.0 : 1000.0,
               random.coin() ? 1.0 : -1.0, turn},
              random, report);
      }
    }
    check(op, {{100, 100, 100}, present, 0, true, 1.0, 1.0, 0}, random, report);
  }
}

}  // namespace parity
