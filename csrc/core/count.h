#pragma once

namespace fusestep {

// A number that a tensor's state keeps, such as `step`, around a step; both as they are stored.
struct Count {
  double before, after;
};

}  // namespace fusestep
