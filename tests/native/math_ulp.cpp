// Largest error, in ULP, of each function of core/math.h over float32 inputs, against the C library in
// double; and over a sample for double, against long double. `math_ulp STRIDE` visits every STRIDE-th
// of all 2^32 bit patterns: 1 is exhaustive. Prints one line per function and exits 1 above a bound.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

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
  printf("%-14s %.3f ULP at %.9g (bound %.2f)%s\n", name, worst, at, bound, ok ? "" : "  TOO LARGE");
  if (!ok) ++failures;
}

// A pack must give what a lane gives: `function` is called on both.
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
      const double error = error_in_ulps(out[i], exact(double(lanes[i])));
      if (error > worst) {
        worst = error;
        at = lanes[i];
      }
      const float lane = function(lanes[i]);
      if (bit_cast<uint32_t>(lane) != bit_cast<uint32_t>(out[i]) && !(isnan(lane) && isnan(out[i]))) {
        printf("%s(%.9g): %.9g in a lane, %.9g in a pack\n", name, lanes[i], lane, out[i]);
        ++failures;
        return;
      }
    }
  }
  report(name, worst, at, bound);
}

template <class Function>
void check_double(const char* name, Function function, long double (*exact)(long double), double low,
                  double high, double bound) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> inputs(low, high);
  double worst = 0, at = 0;
  for (int i = 0; i < 1000000; ++i) {
    const double x = inputs(random);
    const long double right = exact(x);
    int exponent;
    frexpl(right, &exponent);
    const double ulp = ldexp(1.0, (exponent < -1021 ? -1021 : exponent) - 53);
    const double error = double(fabsl((long double)(function(x)) - right) / ulp);
    if (error > worst) {
      worst = error;
      at = x;
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
  printf("conversions    checked\n");
}

double signed_zero(double x) { return isnan(x) ? x : -0.0; }
double max_with_nan(double x) { return isnan(x) || x > 1.5 ? x : 1.5; }
double min_with_nan(double x) { return isnan(x) || x < 1.5 ? x : 1.5; }
double exact_log1p(double x) { return x < 0 ? NAN : ::log1p(x); }

}  // namespace

int main(int argc, char** argv) {
  const uint64_t stride = argc > 1 ? strtoull(argv[1], nullptr, 10) : 1;
  check_float("exp", [](auto x) { return fusestep::exp(x); }, ::exp, stride, 1.0);
  check_float("log", [](auto x) { return fusestep::log(x); }, ::log, stride, 1.0);
  // Losses take log1p of sums of exponentials only; below zero the result is not used.
  check_float(
      "log1p x>=0",
      [](auto x) {
        using V = decltype(x);
        return select(x < V(0.0f), V(NAN), fusestep::log1p(x));
      },
      exact_log1p, stride, 1.5);
  // The primitives: a pack must do what a lane does, down to the sign of zero and the place of NaN.
  check_float("abs", [](auto x) { return fusestep::abs(x); }, ::fabs, stride, 0);
  check_float("sqrt", [](auto x) { return fusestep::sqrt(x); }, ::sqrt, stride, 0.5);
  check_float(
      "broadcast", [](auto x) { return select(x == x, decltype(x)(-0.0f), x); }, signed_zero, stride, 0);
  check_float("max", [](auto x) { return fusestep::max(x, decltype(x)(1.5f)); }, max_with_nan, stride, 0);
  check_float("min", [](auto x) { return fusestep::min(decltype(x)(1.5f), x); }, min_with_nan, stride, 0);
  check_double("exp double", [](double x) { return fusestep::exp(x); }, expl, -745, 709, 1.0);
  check_double("log double", [](double x) { return fusestep::log(x); }, logl, 1e-300, 10, 1.0);
  check_double("log1p double", [](double x) { return fusestep::log1p(x); }, log1pl, 0, 4, 1.5);
  check_conversions(stride);
  return failures == 0 ? 0 : 1;
}
