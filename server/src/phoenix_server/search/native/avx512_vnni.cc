// The scan with AVX-512 VNNI: sixteen rows in a register, four components of each.
//
// Compile with: -mavx2 -mfma -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -Wno-maybe-uninitialized -Wno-uninitialized
// (GCC warns of its own header without reason: its bug 105593.)
#include <immintrin.h>

#include <type_traits>

#include "scan.h"

namespace phoenix {
namespace {

#include "rows.h"
#include "x86_512.h"
#include "x86_rows.h"
#include "scan_impl.h"

bool Available(int64_t) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}

}  // namespace

const Variant kAvx512Vnni = {"avx512-vnni",     16,        Available, PackRuns<16>,
                             ScanRuns<Ops512, 16>, EncodeRow, ScoreRows};

}  // namespace phoenix
