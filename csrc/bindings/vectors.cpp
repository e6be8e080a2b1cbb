#include "bindings/vectors.h"

#include <stdexcept>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/engines.h"

namespace py = pybind11;

namespace fusestep {
namespace {

void need_like(const Array& array, const char* name, const Array& first) {
  if (!is_floating(array.dtype)) throw Unsupported{"`" + std::string(name) + "` is not floating point"};
  if (array.device != first.device || array.device_index != first.device_index) {
    throw Unsupported{"vectors are on several devices"};
  }
  if (array.count != first.count) {
    throw std::runtime_error("`" + std::string(name) + "` must have " + std::to_string(first.count) +
                             " elements, got " + describe(array));
  }
}

struct Vectors {
  std::vector<View> views;
  std::vector<py::object> alive;  // the GIL is released: somebody may drop one meanwhile
};

// `check` is called with each array.
template <class Check>
void read_vectors(const py::iterable& from, const char* name, Vectors& to, Check&& check) {
  Array array;
  for (const py::handle vector : from) {
    read_array(vector, name, array);
    check(array);
    to.views.push_back(view_of(array));
    to.alive.push_back(py::reinterpret_borrow<py::object>(vector));
  }
}

struct Combination {
  Array out;
  py::object alive;  // the owner of `out`
  Vectors vectors;
  std::vector<double> coefficients;
};

void read_combination(const py::tuple& from, Combination& to) {
  to.alive = from[0];
  for (const py::handle c : py::reinterpret_borrow<py::iterable>(from[1])) {
    to.coefficients.push_back(py::cast<double>(c));
  }
  read_array(to.alive, "out", to.out);
  need_like(to.out, "out", to.out);
  read_vectors(from[2], "vectors", to.vectors, [&](const Array& vector) {
    need_like(vector, "vectors", to.out);
    const bool in_place = to.vectors.views.empty() && same_memory(to.out, vector);
    if (overlap(to.out, vector) && !in_place) {
      throw Unsupported{"`out` overlaps a vector and is not the first of them"};
    }
  });
  if (to.coefficients.empty() || to.coefficients.size() != to.vectors.views.size()) {
    throw py::value_error("as many coefficients as vectors are needed, and at least one: got " +
                          std::to_string(to.coefficients.size()) + " for " +
                          std::to_string(to.vectors.views.size()));
  }
  if (!to.out.writeable) throw py::value_error("`out` is read-only: " + describe(to.out));
  if (overlaps_itself(to.out)) throw Unsupported{"`out` overlaps itself"};
}

}  // namespace

void run_dots(const py::iterable& a, const py::iterable& b, const py::object& out) {
  Vectors rows, columns;
  Array first, result;
  read_vectors(a, "a", rows, [&](const Array& row) {
    if (rows.views.empty()) first = row;
    need_like(row, "a", first);
  });
  read_vectors(b, "b", columns, [&](const Array& column) {
    if (rows.views.empty() && columns.views.empty()) first = column;
    need_like(column, "b", first);
  });
  read_array(out, "out", result);
  const int64_t pairs = int64_t(rows.views.size() * columns.views.size());
  if (result.dtype != DType::f64 || !result.writeable || result.count != pairs ||
      (pairs > 0 && !is_row_major(result))) {
    throw py::value_error("`out` must be a writeable float64 array of " + std::to_string(pairs) +
                          " neighbouring numbers, got " + describe(result));
  }
  if (pairs == 0) return;
  if (result.device != first.device || result.device_index != first.device_index) {
    throw py::value_error("`out` is not where the vectors are");
  }
  const int64_t elements = first.count * int64_t(rows.views.size() + columns.views.size());
  Launch launch(rows.alive[0], first, Shape::vectors, pairs, elements);
  const DotsArgs args{rows.views.data(),
                      int64_t(rows.views.size()),
                      columns.views.data(),
                      int64_t(columns.views.size()),
                      static_cast<double*>(result.data),
                      launch.stream(),
                      launch.workspace()};
  launch.run([&] { launch.table().dots(args); });
  launch.check("dots");
}

void run_combine(const py::iterable& calls) {
  std::vector<Combination> combinations;
  for (const py::handle call : calls) {
    read_combination(py::reinterpret_borrow<py::tuple>(call), combinations.emplace_back());
  }
  for (const Combination& call : combinations) {
    const int64_t count = int64_t(call.vectors.views.size());
    Launch launch(call.alive, call.out, Shape::update, count, call.out.count * (count + 1));
    const CombineArgs args{view_of(call.out), call.vectors.views.data(), call.coefficients.data(), count,
                           launch.stream()};
    launch.run([&] { launch.table().combine(args); });
    launch.check("combine");
  }
}

}  // namespace fusestep
