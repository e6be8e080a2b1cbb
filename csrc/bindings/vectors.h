// Scalar products and linear combinations of vectors, for algorithms that live in their span.
#pragma once

#include <pybind11/pybind11.h>

namespace fusestep {

// out[i * b.size() + j] = the scalar product of a[i] and b[j]; `out` is a float64 array where they are.
void run_dots(const pybind11::iterable& a, const pybind11::iterable& b, const pybind11::object& out);

// Each call is (out, coefficients, vectors), out = the sum of coefficients[i] * vectors[i]; `out` may be the
// first of the vectors. All are checked before anything is written.
void run_combine(const pybind11::iterable& calls);

}  // namespace fusestep
