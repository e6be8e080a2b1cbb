// Scalar products and linear combinations: both engines, and products computed alone or together.
#include "cases.h"

namespace parity {
namespace {

std::vector<View> views_of(const Arrays& arrays) {
  std::vector<View> views;
  for (const Array& array : arrays) views.push_back(array.view);
  return views;
}

Arrays draw_vectors(int number, int64_t count, Draw& draw, Random& random) {
  Arrays vectors;
  for (int i = 0; i < number; ++i) {
    vectors.push_back(
        filled(draw.dtype(), rectangle(count), draw.layout(4), [&] { return random.uniform(-1, 1); }));
  }
  return vectors;
}

double value_of(const Array& array, int64_t i) {
  return load_floating<double>(array.view, offset_of(array.view, i));
}

std::vector<double> dots_of(const OpTable& engine, const View* a, int64_t rows, const View* b,
                            int64_t columns) {
  std::vector<double> result(size_t(rows * columns), NAN);
  std::vector<char> workspace;
  if (engine.workspace_bytes != nullptr) workspace = poisoned_workspace(Shape::vectors, rows * columns);
  engine.dots({a, rows, b, columns, result.data(), nullptr, workspace.data()});
  return result;
}

bool same_numbers(const std::vector<double>& a, const std::vector<double>& b) {
  return a.empty() || memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

void check_dots(int rows, int columns, int64_t count, int turn, unsigned seed, Random& random,
                Report& report) {
  Draw draw(random, turn);
  const Arrays a = draw_vectors(rows, count, draw, random), b = draw_vectors(columns, count, draw, random);
  const std::vector<View> x = views_of(a), y = views_of(b);
  const auto run = [&](const OpTable& engine) { return dots_of(engine, x.data(), rows, y.data(), columns); };
  const OpTable& cuda = *fusestep_engine();
  emulator::set_seed(0);
  const std::vector<double> want = run(baseline::table), got = run(cuda);
  emulator::set_seed(seed);
  const std::string where = "dots " + std::to_string(rows) + " x " + std::to_string(columns) + " of " +
                            std::to_string(count) + " turn " + std::to_string(turn);
  if (!same_numbers(got, run(cuda))) report.fail("another order of blocks gives other bits", where);
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) {
      const size_t at = size_t(i * columns + j);
      double exact = 0, magnitude = 0;
      for (int64_t k = 0; k < count; ++k) {
        const double product = value_of(a[size_t(i)], k) * value_of(b[size_t(j)], k);
        exact += product;
        magnitude += std::fabs(product);
      }
      for (const double result : {want[at], got[at]}) {
        const double error = error_in_ulps(result, exact, magnitude, DType::f64, true);
        report.worst = std::max(report.worst, error);
        // `exact` is itself a sum of `count` terms.
        if (!(error <= kLimit + double(count) / 64)) report.fail("product " + std::to_string(at), where);
      }
      for (const OpTable* engine : {&baseline::table, &cuda}) {
        const double alone = dots_of(*engine, &x[size_t(i)], 1, &y[size_t(j)], 1)[0];
        if (memcmp(&alone, engine == &cuda ? &got[at] : &want[at], sizeof(alone)) != 0) {
          report.fail("a product alone has other bits than among others", where);
        }
      }
    }
  }
  ++report.cases;
}

void check_combine(int number, int64_t count, bool in_place, int turn, unsigned seed, Random& random,
                   Report& report) {
  Draw draw(random, turn);
  const Arrays vectors = draw_vectors(number, count, draw, random);
  Arrays blank;
  blank.push_back(in_place ? vectors[0].clone() : allocate(draw.dtype(), rectangle(count), draw.layout(4)));
  std::vector<double> coefficients;
  for (int i = 0; i < number; ++i) coefficients.push_back(random.uniform(-1, 1));
  const auto run = [&](const OpTable& engine, const Array& out) {
    std::vector<View> views = views_of(vectors);
    if (in_place) views[0] = out.view;
    engine.combine({out.view, views.data(), coefficients.data(), number, nullptr});
  };
  const Arrays want = clone(blank), got = clone(blank), again = clone(blank);
  run(baseline::table, want[0]);
  emulator::set_seed(0);
  run(*fusestep_engine(), got[0]);
  emulator::set_seed(seed);
  run(*fusestep_engine(), again[0]);
  const std::string where = "combine " + std::to_string(number) + " of " + std::to_string(count) +
                            describe("out", want[0].view) + " turn " + std::to_string(turn);
  report.fail(compare("out", got[0], want[0], true, report.worst,
                      [&](int64_t i) {
                        double magnitude = 0;
                        for (const Array& vector : vectors) magnitude += std::fabs(value_of(vector, i));
                        return magnitude;
                      }),
              where);
  if (!same_bits(got, again)) report.fail("another order of blocks gives other bits", where);
  ++report.cases;
}

}  // namespace

void check_vectors(unsigned seed, Report& report) {
  Random random;
  for (const int64_t count : {0, 1, 3, 4, 31, 128, 1000, 1025, 9001, 40000}) {
    for (int turn = 0; turn < (count <= 1025 ? 8 : 3); ++turn) {
      const int rows[] = {1, 2, 8, 9, 17}, columns[] = {1, 2, 3, 5};
      check_dots(rows[random.below(5)], columns[random.below(4)], count, turn, seed, random, report);
      const int terms[] = {1, 2, 3, 4, 5, 21, 45, 201, 230};
      const int most = count <= 1025 ? 9 : 6;
      check_combine(terms[random.below(most)], count, false, turn, seed, random, report);
      check_combine(terms[random.below(most)], count, true, turn, seed, random, report);
    }
  }
}

}  // namespace parity
