// The scan with AVX-VNNI, for CPUs that have it without AVX-512.
//
// Compile with: -mavx2 -mfma -mavxvnni
#include <cpuid.h>
#include <immintrin.h>

#include <type_traits>

#include "scan.h"

namespace phoenix {
namespace {

#include "hits.h"
#include "rows.h"
#include "x86_256.h"
#include "x86_rows.h"

struct VnniDot {
  static constexpr bool kBiased = true;
  using Bytes = Ints256;

  static Bytes Load(const uint8_t* line) {
    const auto* from = reinterpret_cast<const __m256i*>(line);
    return {_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)};
  }
  static void Dot(Ints256& sums, const Bytes& rows, const int8_t* query) {
    int32_t four;
    __builtin_memcpy(&four, query, 4);
    const __m256i all = _mm256_set1_epi32(four);
    sums.low = _mm256_dpbusd_avx_epi32(sums.low, rows.low, all);
    sums.high = _mm256_dpbusd_avx_epi32(sums.high, rows.high, all);
  }
};

using Ops = Ops256<VnniDot>;

#include "scan_impl.h"

bool Available(int64_t) {
  unsigned eax, ebx, ecx, edx;
  const bool vnni = __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & (1u << 4)) != 0;
  return vnni && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

}  // namespace

const Variant kAvxVnni = {"avx-vnni",       4,         Available, PackRuns<4>,
                          ScanRuns<Ops, 4>, EncodeRow, ScoreRows};

}  // namespace phoenix
