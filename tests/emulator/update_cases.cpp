#include "cases.h"

namespace parity {
namespace {

// The tensors of one call: for each item the parameter, the gradient, all states, average and what was lost.
using Tensors = std::vector<Arrays>;

const char* const kNames[] = {"param", "grad", "state0", "state1", "state2", "average", "lost"};
constexpr size_t kAverageAt = 2 + kMaxStates, kLostAt = kAverageAt + 1;

Tensors clone(const Tensors& tensors) {
  Tensors copy;
  for (const Arrays& operands : tensors) copy.push_back(parity::clone(operands));
  return copy;
}

// What is asked beside the rule; each item of a call takes part or not.
struct Extras {
  bool clips = false, averages = false;
  Rounding rounding = Rounding::nearest;
  Gradients gradients = Gradients::kept;
};

struct Plan {
  std::vector<int64_t> counts;
  unsigned present;
  int turn;
  Extras extras;
  bool in_order = false, strange = false;  // the latter: NaN and infinite gradients
  int64_t length = 0;                      // of the rows of a sparse gradient; 0: a dense one
};

struct Call {
  std::vector<double> hyper, other_hyper;
  std::vector<UpdateItem> items;           // but for the views
  std::vector<std::vector<int64_t>> rows;  // of each item
  Tensors blank;
};

double number_of(const char* name, Random& random) {
  if (strcmp(name, "mu_product") == 0) return random.coin() ? 0.3 : 1;
  if (strcmp(name, "eta") == 0) return random.coin() ? 0.02 : 0.3;
  return random.coin() ? 0.1 : 1;  // mu
}

UpdateItem item_of(const Op& op, const Plan& plan, const Call& call, Random& random) {
  UpdateItem item;
  item.hyper = random.below(3) == 0 ? call.other_hyper.data() : call.hyper.data();
  const double step = (plan.turn % 2 == 0 ? 1 : 1000) + random.below(2);
  item.number[0] = {step - 1, step};
  for (int k = 1; k < op.info.number_count; ++k) item.number[k] = {number_of(op.info.numbers[k], random), 0};
  op.info.advance(item.hyper, item.number);
  const double scales[] = {1, -1, 0.25, -3};
  item.grad_scale = scales[random.below(4)];
  item.max_norm = plan.extras.clips && random.below(4) > 0 ? random.uniform(0.1, 2) : 0;
  item.decay = random.coin() ? 0 : 0.9;
  item.rounding = random.below(4) > 0 ? plan.extras.rounding : Rounding::nearest;
  item.seed = random.engine();
  return item;
}

// Some of the rows of a parameter, in any order.
std::vector<int64_t> some_rows(int64_t rows, Random& random) {
  std::vector<int64_t> some;
  some.reserve(size_t(rows) + 1);  // null would mean all rows
  for (int64_t row = 0; row < rows; ++row) {
    if (random.coin()) some.push_back(row);
  }
  std::shuffle(some.begin(), some.end(), random.engine);
  return some;
}

Array gradient_of(const Plan& plan, const std::vector<int64_t>& sizes, Draw& draw, Random& random) {
  const auto next = [&] {
    const double odd[] = {NAN, INFINITY, -INFINITY, 0};
    if (plan.strange && random.below(40) == 0) return odd[random.below(4)];
    return random.uniform(-1, 1);
  };
  // One that is written has a place for each element.
  return filled(draw.dtype(), sizes, draw.layout(plan.extras.gradients == Gradients::kept ? 5 : 4), next);
}

Call call_of(const Op& op, const Plan& plan, Random& random) {
  Draw draw(random, plan.turn);
  Call call;
  const unsigned seconds = unsigned(random.below(512));
  call.hyper = hyper_of(op.info, seconds);
  call.other_hyper = hyper_of(op.info, ~seconds);
  for (const int64_t count : plan.counts) {
    const UpdateItem& item = call.items.emplace_back(item_of(op, plan, call, random));
    const int64_t length = plan.length;
    call.rows.push_back(length > 0 ? some_rows(count / length, random) : std::vector<int64_t>());
    const auto sizes = length > 0 ? std::vector<int64_t>{count / length, length} : rectangle(count);
    const auto fill = [&](double low, double high) {
      return filled(draw.dtype(), sizes, draw.layout(4), [&] { return random.uniform(low, high); });
    };
    Arrays& own = call.blank.emplace_back();
    own.push_back(fill(-1, 1));
    own.push_back(
        gradient_of(plan, length > 0 ? std::vector<int64_t>{int64_t(call.rows.back().size()), length} : sizes,
                    draw, random));
    for (int k = 0; k < kMaxStates; ++k) {
      own.push_back((plan.present >> k & 1u) != 0 ? fill(0.01, 1) : Array());  // states may be squares
    }
    // What an average starts from may hold anything.
    const double start = item.decay == 0 ? NAN : 1;
    own.push_back(plan.extras.averages && random.below(4) > 0 ? fill(-start, start) : Array());
    own.push_back(item.rounding == Rounding::kahan ? fill(-0.004, 0.004) : Array());
  }
  return call;
}

std::vector<UpdateItem> items_of(const Call& call, const Tensors& tensors, const Plan& plan) {
  std::vector<UpdateItem> items = call.items;
  for (size_t i = 0; i < items.size(); ++i) {
    // Aliased, all items update the tensors of the first.
    const Arrays& own = tensors[plan.in_order ? 0 : i];
    items[i].param = own[0].view;
    items[i].grad = own[1].view;
    for (size_t k = 0; k < kMaxStates; ++k) items[i].state[k] = own[2 + k].view;
    items[i].average = own[kAverageAt].view;
    items[i].lost = own[kLostAt].view;
    if (plan.in_order) items[i].rounding = items[0].rounding;
    if (plan.length == 0) continue;
    items[i].rows.row = call.rows[i].data();
    items[i].rows.count = int64_t(call.rows[i].size());
    items[i].rows.length = plan.length;
  }
  return items;
}

// Rounding at random is off by one step at most, and feels the last bit of what it rounds: no tolerance.
bool same_values(const Array& got, const Array& want) {
  for (int64_t i = 0; i < want.view.count; ++i) {
    const double x = got.at(i), y = want.at(i);
    if (x != y && !(std::isnan(x) && std::isnan(y))) return false;
  }
  return true;
}

// The CPU engine's norm, with which that of the CUDA engine is held.
double check_norm(const Op& op, const std::vector<UpdateItem>& items, Report& report,
                  const std::string& where) {
  const int64_t count = int64_t(items.size());
  double want = -1, got = -1, again = -1;
  baseline::table.norm({items.data(), count, &want, nullptr, nullptr});
  const auto run = [&](unsigned seed, double& norm) {
    std::vector<char> workspace = poisoned_workspace(Shape::update, count);
    emulator::set_seed(seed);
    fusestep_engine()->norm({items.data(), count, &norm, nullptr, workspace.data()});
  };
  run(0, got);
  run(op.seed, again);
  if (memcmp(&got, &again, sizeof(got)) != 0)
    report.fail("another order of blocks gives another norm", where);
  const bool close = std::isfinite(want) ? std::fabs(got - want) <= 1e-14 * want
                     : std::isnan(want)  ? std::isnan(got)
                                         : got == want;
  if (!close) report.fail("the norm is " + std::to_string(got) + ", expected " + std::to_string(want), where);
  return want;
}

void check(const Op& op, const Plan& plan, Random& random, Report& report) {
  const Call call = call_of(op, plan, random);
  const Tensors want = clone(call.blank), got = clone(call.blank), again = clone(call.blank);
  std::string about = " extras " + std::to_string(plan.extras.clips) + std::to_string(plan.extras.averages) +
                      std::to_string(int(plan.extras.rounding)) + std::to_string(int(plan.extras.gradients)) +
                      " rows of " + std::to_string(plan.length);
  double norm = 0;
  if (plan.extras.clips) norm = check_norm(op, items_of(call, want, plan), report, about);
  const auto run = [&](const Kernel& kernel, const Tensors& tensors) {
    const std::vector<UpdateItem> items = items_of(call, tensors, plan);
    kernel.update({items.data(), int64_t(items.size()), plan.in_order, plan.extras.gradients,
                   plan.extras.clips ? &norm : nullptr, nullptr});
  };
  run(op.cpu, want);
  emulator::set_seed(0);
  run(op.cuda, got);
  emulator::set_seed(op.seed);
  run(op.cuda, again);

  for (size_t i = 0; i < want.size(); ++i) {
    std::string where = about;
    bool wide = false;
    for (size_t k = 0; k < want[i].size(); ++k) {
      where += describe(kNames[k], want[i][k].view);
      wide = wide || (present(want[i][k].view) && want[i][k].view.dtype == DType::f64 && k < kAverageAt);
    }
    where += " tensor " + std::to_string(i) + " of " + std::to_string(want.size()) + " step " +
             std::to_string(call.items[i].number[0].after);
    const bool exactly = call.items[i].rounding != Rounding::nearest;
    if (exactly && !same_values(got[i][0], want[i][0])) report.fail("rounded otherwise", where);
    for (size_t k = 0; k < want[i].size(); ++k) {
      report.fail(compare(kNames[k], got[i][k], want[i][k], wide, report.worst, [](int64_t) { return 0.0; }),
                  where);
      if (!same_bits(got[i][k], again[i][k])) report.fail("another order of blocks gives other bits", where);
    }
  }
  ++report.cases;
}

// Numbers and the learning rate on the device, and what torch's GradScaler leaves there. The host knows none
// of them; the CPU engine, told all, says what must come out.
struct OnDevice {
  std::vector<Arrays> numbers;  // of each item
  std::vector<float> rates;     // of the two sets of hyper-parameters
  std::vector<View> views[2];   // of all hyper-parameters; absent but for the rate
  std::vector<double> unknown[2];
  float loss_scale = 8, found_inf;

  OnDevice(const Op& op, Call& call, bool overflows) : found_inf(overflows ? 1.0f : 0.0f) {
    const char* const* const end = op.info.hyper + op.info.hyper_count;
    const auto is_rate = [](const char* name) { return strcmp(name, "lr") == 0; };
    const auto at = size_t(std::find_if(op.info.hyper, end, is_rate) - op.info.hyper);
    rates.resize(2);
    for (size_t set = 0; set < 2; ++set) {
      std::vector<double>& hyper = set == 0 ? call.hyper : call.other_hyper;
      unknown[set] = hyper;
      views[set].resize(8);
      if (at >= hyper.size()) continue;
      rates[set] = float(hyper[at]);
      hyper[at] = double(rates[set]);
      unknown[set][at] = NAN;
      views[set][at].data = &rates[set];
    }
    for (UpdateItem& item : call.items) {
      Arrays& own = numbers.emplace_back();
      for (int k = 0; k < op.info.number_count; ++k) {
        own.push_back(filled(k == 0 ? DType::f32 : DType::f64, {1}, Layout::dense,
                             [&] { return item.number[k].before; }));
      }
    }
  }

  // As the CPU engine gets an item, and its numbers after the step.
  void tell(const Op& op, UpdateItem& item, Arrays& after) const {
    item.grad_scale /= double(loss_scale);
    if (op.info.number_count == 0) return;
    for (size_t k = 0; k < after.size(); ++k) {
      const double before = after[k].at(0);
      item.number[k] = {before, before + (k == 0 ? 1 : 0)};
    }
    op.info.advance(item.hyper, item.number);
    for (size_t k = 0; k < after.size(); ++k) {
      after[k].set(0, item.number[k].after);
      item.number[k].after = after[k].at(0);
    }
  }

  // As the CUDA engine gets it.
  void hide(const Op& op, const Call& call, UpdateItem& item, const Arrays& own) const {
    const size_t set = item.hyper == call.hyper.data() ? 0 : 1;
    item.hyper = unknown[set].data();
    item.hyper_at = views[set].data();
    for (int k = 0; k < op.info.number_count; ++k) {
      item.number[k] = {NAN, NAN};
      item.number_at[k] = own[size_t(k)].view;
    }
  }
};

void check_on_device(const Op& op, const Plan& plan, bool overflows, Random& random, Report& report) {
  Call call = call_of(op, plan, random);
  OnDevice device(op, call, overflows);
  const std::string where = std::string("on the device") + (overflows ? ", overflown" : "");
  const Tensors want = clone(call.blank);
  Tensors numbers = clone(device.numbers);
  std::vector<UpdateItem> told = items_of(call, want, plan);
  for (size_t i = 0; i < told.size(); ++i) {
    if (!overflows) device.tell(op, told[i], numbers[i]);
  }
  double norm = 0;
  if (plan.extras.clips) baseline::table.norm({told.data(), int64_t(told.size()), &norm, nullptr, nullptr});
  if (!overflows) {
    op.cpu.update({told.data(), int64_t(told.size()), false, plan.extras.gradients,
                   plan.extras.clips ? &norm : nullptr, nullptr});
  }
  for (const unsigned seed : {0u, op.seed}) {
    const Tensors got = clone(call.blank);
    const Tensors counted = clone(device.numbers);
    std::vector<UpdateItem> items = items_of(call, got, plan);
    for (size_t i = 0; i < items.size(); ++i) device.hide(op, call, items[i], counted[i]);
    std::vector<char> workspace = poisoned_workspace(Shape::update, int64_t(items.size()));
    emulator::set_seed(seed);
    double found = -1;
    if (plan.extras.clips) {
      fusestep_engine()->norm(
          {items.data(), int64_t(items.size()), &found, nullptr, workspace.data(), &device.loss_scale});
      if (!overflows && !(std::fabs(found - norm) <= 1e-14 * norm)) report.fail("another norm", where);
    }
    UpdateArgs args{items.data(),
                    int64_t(items.size()),
                    false,
                    plan.extras.gradients,
                    plan.extras.clips ? &found : nullptr,
                    nullptr,
                    workspace.data()};
    args.loss_scale = &device.loss_scale;
    args.found_inf = &device.found_inf;
    op.cuda.update(args);
    for (size_t i = 0; i < want.size(); ++i) {
      for (size_t k = 0; k < want[i].size(); ++k) {
        report.fail(
            compare(kNames[k], got[i][k], want[i][k], true, report.worst, [](int64_t) { return 0.0; }),
            where);
      }
      for (size_t k = 0; k < numbers[i].size(); ++k) {
        if (plan.counts[i] > 0 && counted[i][k].at(0) != numbers[i][k].at(0)) {
          report.fail("number " + std::to_string(k) + " is " + std::to_string(counted[i][k].at(0)), where);
        }
      }
    }
  }
  ++report.cases;
}

// Each alone, then all that go together.
const Extras kExtras[] = {{true},
                          {false, true},
                          {false, false, Rounding::stochastic},
                          {false, false, Rounding::kahan},
                          {false, false, Rounding::nearest, Gradients::unscaled},
                          {false, false, Rounding::nearest, Gradients::cleared},
                          {true, true, Rounding::stochastic, Gradients::cleared},
                          {true, true, Rounding::kahan, Gradients::unscaled}};

// As many small tensors, empty ones first, last and in between.
std::vector<int64_t> list_of(int tensors, Random& random) {
  std::vector<int64_t> counts;
  for (int i = 0; i < tensors; ++i) counts.push_back(random.below(40));
  counts.front() = counts[size_t(tensors) / 2] = counts.back() = 0;
  return counts;
}

void check_rows(const Op& op, unsigned present, Random& random, Report& report) {
  for (const int64_t length : {1, 3, 4, 33, 128, 5000}) {
    for (int turn = 0; turn < 6; ++turn) {
      const int64_t some = random.below(3), many = length < 1000 ? 70 : 4;
      check(op, {{many * length, 0, some * length, length}, present, turn, {}, false, turn == 3, length},
            random, report);
      for (const Extras& extras : kExtras) {
        if (extras.gradients != Gradients::kept) continue;
        check(op, {{many * length, some * length}, present, turn, extras, false, false, length}, random,
              report);
      }
    }
  }
}

}  // namespace

void check_update(const Op& op, Report& report) {
  Random random;
  std::vector<std::vector<int64_t>> calls = {{},         {0},        {5, 0, 4097, 0, 1, 9000},
                                             {0, 70, 0}, {70, 0, 5}, list_of(100, random)};
  for (const int64_t count : {1, 2, 31, 32, 33, 127, 128, 129, 1000, 4097, 70000}) calls.push_back({count});
  unsigned optional = 0;
  for (int k = 0; k < op.info.state_count; ++k) optional |= op.info.asked_by[k][0] != '\0' ? 1u << k : 0u;
  const unsigned all = (1u << op.info.state_count) - 1;
  for (unsigned present = 0; present <= all; ++present) {
    if ((present | optional) != all) continue;
    for (const auto& counts : calls) {
      const int turns = counts.size() == 1 && counts[0] <= 1000 ? 8 : 4;
      for (int turn = 0; turn < turns; ++turn) check(op, {counts, present, turn, {}}, random, report);
    }
    for (int turn = 0; turn < 4; ++turn) {
      check(op, {{100, 100, 100}, present, turn, {}, true}, random, report);
      check(op, {{100, 100, 100}, present, turn, {true, true, Rounding::kahan}, true}, random, report);
    }
    check(op, {{500}, present, 2, {}, false, true}, random, report);
    for (const Extras& extras : kExtras) {
      for (const auto& counts : std::vector<std::vector<int64_t>>{{33}, {1000}, {5, 0, 4097, 0, 1, 900}}) {
        for (int turn = 0; turn < 8; ++turn) {
          check(op, {counts, present, turn, extras, false, turn % 4 == 3}, random, report);
        }
      }
      check(op, {list_of(100, random), present, random.below(3), extras}, random, report);
    }
    for (const bool overflows : {false, true}) {
      for (int turn = 0; turn < 4; ++turn) {
        check_on_device(op, {{5, 0, 4097, 1, 9000}, present, turn, {}}, overflows, random, report);
        check_on_device(op, {{33, 1000}, present, turn, {true, true, Rounding::kahan, Gradients::unscaled}},
                        overflows, random, report);
      }
      check_on_device(op, {list_of(300, random), present, 0, {}}, overflows, random, report);
    }
    if (op.info.by_rows) check_rows(op, present, random, report);
  }
  check(op, {list_of(3000, random), all, 0, {}}, random, report);
  check(op, {list_of(3000, random), all, 1, kExtras[7]}, random, report);
}

}  // namespace parity
