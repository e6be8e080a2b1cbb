#include "formulas/catalog.h"

#include "formulas/all.h"  // written by CMake: every header of losses/ and optim/
#include "formulas/contracts.h"

namespace fusestep {

namespace {

// Names must have an address that outlives the call.
template <template <class> class F>
struct Hypers {
  static constexpr auto list = F<float>::hyper;
};
template <template <class> class F>
struct States {
  static constexpr auto list = F<float>::states;
  static constexpr auto asked_by = F<float>::asked_by;
};

template <template <class> class F>
constexpr OpInfo loss(const char* name, const char* class_name, Shape shape) {
  return {name, class_name, shape, Hypers<F>::list.name, Hypers<F>::list.size, nullptr, 0, nullptr, false};
}
template <template <class> class F>
constexpr OpInfo rule(const char* name, const char* class_name) {
  return {name,
          class_name,
          Shape::update,
          Hypers<F>::list.name,
          Hypers<F>::list.size,
          States<F>::list.name,
          States<F>::list.size,
          States<F>::asked_by.name,
          F<float>::counts_steps};
}

}  // namespace

const OpInfo kOps[] = {
#define FUSESTEP_POINTWISE(op, F) loss<F>(#op, #F, Shape::pointwise),
#define FUSESTEP_ROWWISE(op, F) loss<F>(#op, #F, Shape::rowwise),
#define FUSESTEP_UPDATE(op, F) rule<F>(#op, #F),
#include "formulas/registry.def"
#undef FUSESTEP_POINTWISE
#undef FUSESTEP_ROWWISE
#undef FUSESTEP_UPDATE
};

const int kOpCount = int(sizeof(kOps) / sizeof(kOps[0]));

}  // namespace fusestep
