// Holds the CUDA engine, emulated, against the CPU engine, for every op of the registry. Each case runs
// twice on the emulator, in order and in a random order of blocks and threads: the bits must not change.
// Usage: parity [seed of the random order] [op, "vectors", "launches" or "far"]
#include "cases.h"

static bool tell_failure(const parity::Report& report) {
  if (!report.failure.empty()) printf("  FAILED: %s\n", report.failure.c_str());
  return !report.failure.empty();
}

int main(int argc, char** argv) {
  using namespace parity;
  const unsigned seed = argc > 1 ? unsigned(atoi(argv[1])) : 1u;
  bool failed = false;
  for (int i = 0; i < kOpCount; ++i) {
    if (argc > 2 && strcmp(argv[2], kOps[i].name) != 0) continue;
    const Op op{kOps[i], baseline::table.kernels[i], fusestep_engine()->kernels[i], seed};
    Report report;
    switch (op.info.shape) {
      case Shape::pointwise:
        check_pointwise(op, report);
        break;
      case Shape::rowwise:
        check_rowwise(op, report);
        break;
      case Shape::dense:
        check_dense(op, report);
        break;
      case Shape::update:
        check_update(op, report);
        break;
      case Shape::vectors:
        break;  // no op of the registry
    }
    if (op.info.domain != nullptr && report.outside == 0) report.fail("no case left the domain", "all");
    const std::string outside =
        op.info.domain == nullptr ? "" : ", " + std::to_string(report.outside) + " outside the domain";
    printf("%-32s %6d cases, largest error %.3g ulp%s\n", op.info.name, report.cases, report.worst,
           outside.c_str());
    failed = tell_failure(report) || failed;
  }
  const auto check = [&](const char* name, auto&& run) {
    if (argc > 2 && strcmp(argv[2], name) != 0) return;
    Report report;
    run(report);
    printf("%-32s %6d cases, largest error %.3g ulp\n", name, report.cases, report.worst);
    failed = tell_failure(report) || failed;
  };
  check("vectors", [&](Report& report) { check_vectors(seed, report); });
  check("launches", check_launches);
  check("far", check_far);
  return failed ? 1 : 0;
}
