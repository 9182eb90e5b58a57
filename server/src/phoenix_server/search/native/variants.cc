// The variants of the scan for this machine's architecture.
#include "scan.h"

namespace phoenix {

const Variant* const* Variants(int* count) {
  static const Variant* const variants[] = {
#if defined(__x86_64__)
      &kAmx, &kAvx512Vnni, &kAvxVnni, &kAvx2,
#elif defined(__aarch64__)
      &kNeonDot,
#endif
      &kPortable,
  };
  *count = sizeof(variants) / sizeof(variants[0]);
  return variants;
}

}  // namespace phoenix
