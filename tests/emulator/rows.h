// What the cases of rowwise and of dense losses share: rows of classes, and scores to fill them with.
#pragma once

#include "arrays.h"

namespace parity {

// A number of rows, in one dimension or two.
struct Rows {
  static constexpr int places = 6;  // 0 … 3: a Layout of (rows, classes); 4, 5: classes in the middle

  int64_t classes, batch, inner, count;
  int place;
  std::vector<int64_t> lead, sizes;  // without the classes, and with them

  Rows(int64_t classes_, int place_, bool many, Random& random) : classes(classes_), place(place_) {
    const int64_t most = std::max<int64_t>(2, 6000 / std::max<int64_t>(classes, 1));
    batch = many ? std::min<int64_t>(most, 900) : random.below(4);
    inner = place >= 4 ? 1 + random.below(classes > 500 ? 3 : 40) : 1;
    count = batch * inner;
    lead = place >= 4 ? std::vector<int64_t>{batch, inner} : std::vector<int64_t>{count};
    sizes = lead;
    sizes.push_back(classes);
  }

  // (rows…, classes); in places 4 and 5 the classes lie in the middle, as in torch's (N, C, d).
  Array allocate(DType dtype) const {
    Array array = parity::allocate(dtype, sizes, place >= 4 ? Layout::dense : Layout(place));
    if (place >= 4) {
      array.view.contiguous = false;
      array.view.strides[1] = 1;
      array.view.strides[2] = inner;
    }
    return array;
  }

  // As the input lies, or in another way.
  Array allocate_result(DType dtype, Random& random) const {
    return random.coin() ? allocate(dtype) : parity::allocate(dtype, sizes, Layout(random.below(4)));
  }
};

// Scores of a case: near zero or far from it, of which some are −∞ and, seldom, NaN.
struct Scores {
  double shift;
  int infinite;
  bool strange;

  // Long rows have no −∞: capped they are equal terms, whose sum is rounded in one direction, and the CPU
  // engine's error grows with their number.
  Scores(Random& random, int64_t classes)
      : shift(random.below(3) == 0 ? (random.coin() ? 1e4 : -1e4) : 0),
        infinite(random.below(4) == 0 && classes < 2000 ? 3 : 0),
        strange(random.below(8) == 0) {}

  double next(Random& random) const {
    if (infinite != 0 && random.below(infinite) == 0) return -INFINITY;
    if (strange && random.below(50) == 0) return NAN;
    return shift + random.uniform(-6, 6);
  }
  std::string describe() const {
    return " shift=" + std::to_string(shift) + " infinite=" + std::to_string(infinite) +
           " strange=" + std::to_string(strange);
  }
};

// Of each row the largest finite magnitude: what its differences of larger terms are relative to.
inline std::vector<double> largest_of_rows(const Array& array, int64_t rows, int64_t classes) {
  std::vector<double> largest(size_t(rows) + 1, 0.0);
  for (int64_t i = 0; present(array.view) && i < rows * classes; ++i) {
    const double value = std::fabs(array.at(i));
    double& most = largest[size_t(i / classes)];
    if (std::isfinite(value)) most = std::max(most, value);
  }
  return largest;
}

}  // namespace parity
