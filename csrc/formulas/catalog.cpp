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
  static constexpr auto numbers = F<float>::numbers;
  static constexpr auto starts_at = F<float>::starts_at;
};

template <template <class> class F>
struct Operands {
  static constexpr auto list = F<float>::operands;
};
template <template <class> class F>
constexpr OpInfo loss(const char* name, const char* class_name, Shape shape, const char* domain) {
  OpInfo info{};
  info.name = name;
  info.class_name = class_name;
  info.shape = shape;
  info.hyper = Hypers<F>::list.name;
  info.hyper_count = Hypers<F>::list.size;
  info.operands = Operands<F>::list.name;
  info.operand_count = Operands<F>::list.size;
  info.domain = domain;
  return info;
}

template <template <class> class F>
constexpr OpInfo rule(const char* name, const char* class_name) {
  OpInfo info{};
  info.name = name;
  info.class_name = class_name;
  info.shape = Shape::update;
  info.hyper = Hypers<F>::list.name;
  info.hyper_count = Hypers<F>::list.size;
  info.states = States<F>::list.name;
  info.state_count = States<F>::list.size;
  info.asked_by = States<F>::asked_by.name;
  info.numbers = States<F>::numbers.name;
  info.number_count = States<F>::numbers.size;
  info.starts_at = States<F>::starts_at.size > 0 ? States<F>::starts_at.name : nullptr;
  info.by_rows = F<float>::by_rows;
  info.advance = F<float>::advance;
  return info;
}

}  // namespace

const OpInfo kOps[] = {
#define FUSESTEP_POINTWISE(op, F) loss<F>(#op, #F, Shape::pointwise, F<float>::domain),
#define FUSESTEP_ROWWISE(op, F) loss<F>(#op, #F, Shape::rowwise, nullptr),
#define FUSESTEP_DENSE(op, F) loss<F>(#op, #F, Shape::dense, nullptr),
#define FUSESTEP_UPDATE(op, F) rule<F>(#op, #F),
#include "formulas/registry.def"
#undef FUSESTEP_POINTWISE
#undef FUSESTEP_ROWWISE
#undef FUSESTEP_DENSE
#undef FUSESTEP_UPDATE
};

const int kOpCount = int(sizeof(kOps) / sizeof(kOps[0]));

}  // namespace fusestep
