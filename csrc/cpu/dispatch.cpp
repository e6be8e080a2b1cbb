#include "cpu/dispatch.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fusestep {

#if defined(__x86_64__)
namespace baseline {
extern const OpTable table;
}
namespace avx2 {
extern const OpTable table;
}
namespace avx512 {
extern const OpTable table;
}

// Clang does not know it by name.
static bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

const Isa kIsas[] = {
    {"baseline", &baseline::table, [] { return true; }},
    {"avx2", &avx2::table,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }},
    {"avx512", &avx512::table,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
     }},
};
#else
namespace baseline {
extern const OpTable table;
}

const Isa kIsas[] = {{"baseline", &baseline::table, [] { return true; }}};
#endif

const int kIsaCount = int(sizeof(kIsas) / sizeof(kIsas[0]));

const Isa* choose_isa(const char* forced) {
  for (int i = kIsaCount - 1; i >= 0; --i) {
    const bool wanted = forced == nullptr || *forced == '\0' || strcmp(forced, kIsas[i].name) == 0;
    if (wanted && kIsas[i].supported()) return &kIsas[i];
  }
  return nullptr;
}

}  // namespace fusestep
