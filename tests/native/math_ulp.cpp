// Largest error, in ULP, of each function of core/math.h over float32 inputs, against the C library in
// double; and over a sample for double, against long double. `math_ulp STRIDE` visits every STRIDE-th
// of all 2^32 bit patterns: 1 is exhaustive. Prints one line per function and exits 1 above a bound.
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmath>
#include <limits>
#include <random>

#include "cpu/simd.h"

using namespace fusestep;

namespace {

int failures = 0;

double spacing(float x) {
  if (!isfinite(x)) return INFINITY;
  int exponent;
  frexp(double(x), &exponent);
  return ldexp(1.0, (x == 0 || exponent < -125 ? -125 : exponent) - 24);
}

double error_in_ulps(float got, double exact) {
  const float rounded = float(exact);
  if (isnan(exact) || isnan(got)) return isnan(exact) && isnan(got) ? 0 : INFINITY;
  if (isinf(rounded) || isinf(got)) {
    // Up to half a spacing beyond the largest float, infinity and that float are both within an ULP.
    return rounded == got || fabs(exact) > 3.4028234e38 ? 0 : INFINITY;
  }
  return fabs(double(got) - exact) / spacing(rounded);
}

void report(const char* name, double worst, double at, double bound) {
  const bool ok = worst <= bound;
  printf("%-16s %.3f ULP at %.9g (bound %.2f)%s\n", name, worst, at, bound, ok ? "" : "  TOO LARGE");
  if (!ok) ++failures;
}

// `function` is called on a lane and on a pack. Where a pack does not divide but has `quotient`, the two may
// differ, each within the bound.
constexpr bool packs_divide = FUSESTEP_VECTOR_BYTES < 64;

template <class Function>
void check_float(const char* name, Function function, double (*exact)(double), uint64_t stride,
                 double bound) {
  using V = Pack<float>;
  double worst = 0;
  float at = 0;
  float lanes[V::lanes], out[V::lanes];
  for (uint64_t bits = 0; bits < (uint64_t(1) << 32);) {
    for (float& lane : lanes) {
      lane = bit_cast<float>(uint32_t(bits));
      bits += stride;
    }
    store_pack(out, function(load_pack(lanes)));
    for (int i = 0; i < V::lanes; ++i) {
      const float lane = function(lanes[i]);
      const double right = exact(double(lanes[i]));
      const double error = ::fmax(error_in_ulps(out[i], right), error_in_ulps(lane, right));
      if (error > worst) {
        worst = error;
        at = lanes[i];
      }
      const bool same =
          bit_cast<uint32_t>(lane) == bit_cast<uint32_t>(out[i]) || (isnan(lane) && isnan(out[i]));
      if (packs_divide && !same) {
        printf("%s(%.9g): %.9g in a lane, %.9g in a pack\n", name, lanes[i], lane, out[i]);
        ++failures;
        return;
      }
    }
  }
  report(name, worst, at, bound);
}

// A domain to sample: evenly, or (`wide`) evenly in the exponent and with either sign.
struct Domain {
  double low, high;
  bool wide = false;
};
constexpr double tiniest = 5e-324;

template <class Function>
void check_double(const char* name, Function function, long double (*exact)(long double),
                  std::initializer_list<Domain> domains, double bound) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> unit(0, 1);
  double worst = 0, at = 0;
  for (const Domain& domain : domains) {
    for (int i = 0; i < 1000000; ++i) {
      const double low = domain.wide ? ::log(domain.low) : domain.low;
      const double high = domain.wide ? ::log(domain.high) : domain.high;
      const double drawn = low + unit(random) * (high - low);
      const double x = !domain.wide ? drawn : (i & 1) != 0 ? -::exp(drawn) : ::exp(drawn);
      const double got = function(x);
      const long double right = exact(x);
      int exponent;
      frexpl(right, &exponent);
      const double ulp = ldexp(1.0, (exponent < -1021 ? -1021 : exponent) - 53);
      double error = double(fabsl((long double)(got)-right) / ulp);
      if (isnan(got) || isnan(right)) error = isnan(got) && isnan(right) ? 0 : INFINITY;
      if (error > worst) {
        worst = error;
        at = x;
      }
    }
  }
  report(name, worst, at, bound);
}

// Rounded to nearest, even on a tie: no neighbour is closer.
template <class T>
bool check_nearest(T x) {
  Float16 half;
  BFloat16 brain;
  narrow(x, half);
  narrow(x, brain);
  for (int kind = 0; kind < 2; ++kind) {
    const uint16_t got = kind == 0 ? half.bits : brain.bits;
    const auto value = [&](int step) {
      const uint16_t b = uint16_t(got + step);
      return kind == 0 ? double(widen(Float16{b})) : double(widen(BFloat16{b}));
    };
    bool ok = isnan(double(x)) == isnan(value(0));
    if (ok && isinf(value(0))) {  // from half a spacing beyond the largest finite number on
      ok = fabs(double(x)) >= (kind == 0 ? 65520.0 : 0x1.ffp127);
    } else if (ok && !isnan(double(x))) {
      const double here = fabs(value(0) - double(x));
      for (const int step : {-1, 1}) {
        if ((got & 0x7fff) == 0 && step < 0) continue;
        const double there = fabs(value(step) - double(x));
        ok = ok && !(there < here || (there == here && (got & 1) != 0));
      }
      ok = ok && (value(0) == 0 || (value(0) > 0) == (x > 0));
    }
    if (!ok) {
      printf("%.17g narrows to %04x\n", double(x), got);
      ++failures;
      return false;
    }
  }
  return true;
}

// The storage conversions against the hardware's own, for every half and for a sample of floats.
void check_conversions(uint64_t stride) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const Float16 half{uint16_t(bits)};
    const float wide = widen(half);
    Float16 back;
    narrow(wide, back);
    const int exponent = int(bits >> 10 & 31), fraction = int(bits & 1023);
    const double magnitude = exponent == 31  ? (fraction != 0 ? NAN : INFINITY)
                             : exponent == 0 ? ldexp(fraction, -24)
                                             : ldexp(1024 + fraction, exponent - 25);
    const double exact = bits >> 15 != 0 ? -magnitude : magnitude;
    if (!(double(wide) == exact || (isnan(wide) && isnan(exact))) || (back.bits != bits && !isnan(exact))) {
      printf("float16 %04x widens to %g and comes back as %04x\n", bits, wide, back.bits);
      ++failures;
      return;
    }
  }
  for (uint64_t bits = 0; bits < (uint64_t(1) << 32); bits += stride) {
    if (!check_nearest(bit_cast<float>(uint32_t(bits)))) return;
  }
  // Doubles, at and beside every power of two: far below the smallest float, on ties, above the largest.
  for (int exponent = -1074; exponent < 1024; ++exponent) {
    for (const double part :
         {1.0, 1 + 0x1p-8, 1 + 0x1p-9, 1 + 0x1p-11, 1 + 0x1p-12, 1 + 0x1p-24, 1 + 0x1p-25}) {
      const double x = ldexp(part, exponent);
      for (const double y : {x, nextafter(x, 0.0), nextafter(x, INFINITY)}) {
        if (!check_nearest(y) || !check_nearest(-y)) return;
      }
    }
  }
  Float16 half;
  narrow(65519.996f, half);
  if (half.bits != 0x7bff) ++failures;
  narrow(65520.0f, half);
  if (half.bits != 0x7c00) ++failures;
  // A double just above a tie: through float it would round down twice.
  narrow(1.0 + 0x1p-11 + 0x1p-40, half);
  if (half.bits != 0x3c01) ++failures;
  BFloat16 brain;
  narrow(1.0 + 0x1p-8 + 0x1p-40, brain);
  if (brain.bits != 0x3f81) ++failures;
  printf("conversions      checked\n");
}

double signed_zero(double x) { return isnan(x) ? x : -0.0; }
double max_with_nan(double x) { return isnan(x) || x > 1.5 ? x : 1.5; }
double min_with_nan(double x) { return isnan(x) || x < 1.5 ? x : 1.5; }
template <class T>
T exact_log_cosh(T x) {
  const T a = std::fabs(x), sinh = std::sinh(a / 2);
  return a < 1 ? std::log1p(2 * sinh * sinh) : a - std::log(T(2)) + std::log1p(std::exp(-2 * a));
}
double exact_fourth_root(double x) { return ::pow(x < 0 ? NAN : x, 0.25); }
double exact_power(double x) { return ::pow(x < 0 ? NAN : x, -0.75); }

// Where a value is prescribed, down to the sign of zero.
template <class T>
void check_special_values() {
  using namespace fusestep;
  const T inf = T(INFINITY), nan = T(NAN), zero = T(0), one = T(1),
          tiny = std::numeric_limits<T>::denorm_min();
  const auto check = [](const char* name, T got, T expected) {
    if ((isnan(got) && isnan(expected)) || (got == expected && signbit(got) == signbit(expected))) return;
    printf("%s: %g, not %g\n", name, double(got), double(expected));
    ++failures;
  };
  for (const T x : {zero, -zero, tiny, -tiny, 3 * tiny}) {
    check("log1p near 0", fusestep::log1p(x), x);
    check("tanh near 0", fusestep::tanh(x), x);
    check("log_cosh near 0", LogCosh<T>(x).value, zero);
    check("its slope near 0", LogCosh<T>(x).slope, x);
  }
  struct Case {
    T x, log1p, tanh, log_cosh;
  };
  for (const Case& c : {Case{inf, inf, one, inf}, Case{-inf, nan, -one, inf}, Case{nan, nan, nan, nan}}) {
    check("log1p", fusestep::log1p(c.x), c.log1p);
    check("tanh", fusestep::tanh(c.x), c.tanh);
    check("log_cosh", LogCosh<T>(c.x).value, c.log_cosh);
    check("its slope", LogCosh<T>(c.x).slope, c.tanh);
  }
  check("log1p(-1)", fusestep::log1p(-one), -inf);
  check("log1p below -1", fusestep::log1p(T(-1.5)), nan);
  check("0^2", power(zero, T(2)), zero);
  check("0^-2", power(zero, T(-2)), inf);
  check("inf^2", power(inf, T(2)), inf);
  check("inf^-2", power(inf, T(-2)), zero);
  for (const T x : {zero, one, T(3), inf}) check("x^0", power(x, zero), one);
  check("1^3", power(one, T(3)), one);
  check("nan^2", power(nan, T(2)), nan);
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t stride = argc > 1 ? strtoull(argv[1], nullptr, 10) : 1;
  check_float("exp", [](auto x) { return fusestep::exp(x); }, ::exp, stride, 1.0);
  check_float("log", [](auto x) { return fusestep::log(x); }, ::log, stride, 1.0);
  check_float("log1p", [](auto x) { return fusestep::log1p(x); }, ::log1p, stride, 0.90);
  check_float("tanh", [](auto x) { return fusestep::tanh(x); }, ::tanh, stride, 1.0);
  const auto log_cosh = [](auto x) { return LogCosh<decltype(x)>(x).value; };
  const auto its_slope = [](auto x) { return LogCosh<decltype(x)>(x).slope; };
  check_float("log_cosh", log_cosh, exact_log_cosh<double>, stride, 2.5);
  check_float("its slope", its_slope, ::tanh, stride, 1.8);
  // The error of a power grows with |b log(a)|, here up to 26 and 77.
  const auto fourth_root = [](auto x) { return fusestep::power(x, decltype(x)(0.25f)); };
  const auto power = [](auto x) { return fusestep::power(x, decltype(x)(-0.75f)); };
  check_float("power 0.25", fourth_root, exact_fourth_root, stride, 20);
  check_float("power -0.75", power, exact_power, stride, 120);
  // The primitives: a pack must do what a lane does, down to the sign of zero and the place of NaN.
  check_float("abs", [](auto x) { return fusestep::abs(x); }, ::fabs, stride, 0);
  check_float("sqrt", [](auto x) { return fusestep::sqrt(x); }, ::sqrt, stride, 0.5);
  check_float(
      "broadcast", [](auto x) { return select(x == x, decltype(x)(-0.0f), x); }, signed_zero, stride, 0);
  check_float("max", [](auto x) { return fusestep::max(x, decltype(x)(1.5f)); }, max_with_nan, stride, 0);
  check_float("min", [](auto x) { return fusestep::min(decltype(x)(1.5f), x); }, min_with_nan, stride, 0);
  check_double(
      "exp double", [](double x) { return fusestep::exp(x); }, expl, {{-745, 709}, {tiniest, 1, true}}, 1.0);
  check_double(
      "log double", [](double x) { return fusestep::log(x); }, logl,
      {{tiniest, 10}, {tiniest, DBL_MAX, true}}, 1.0);
  check_double(
      "log1p double", [](double x) { return fusestep::log1p(x); }, log1pl,
      {{-1, 4}, {1e-20, 1000000.0, true}, {tiniest, DBL_MAX, true}}, 0.90);
  check_double(
      "tanh double", [](double x) { return fusestep::tanh(x); }, tanhl,
      {{-3, 3}, {1e-9, 40, true}, {tiniest, DBL_MAX, true}}, 1.0);
  check_double("log_cosh double", log_cosh, exact_log_cosh<long double>,
               {{-3, 3}, {1e-9, 1000.0, true}, {tiniest, DBL_MAX, true}}, 2.5);
  check_double("slope double", its_slope, tanhl, {{-3, 3}, {1e-9, 40, true}, {tiniest, DBL_MAX, true}}, 1.8);
  check_special_values<float>();
  check_special_values<double>();
  check_conversions(stride);
  return failures == 0 ? 0 : 1;
}
