// The scan with AVX-512 VNNI: sixteen rows in a register, four components of each.
//
// Compile with: -mavx2 -mfma -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -Wno-maybe-uninitialized -Wno-uninitialized
// (GCC warns of its own header without reason: its bug 105593.)
#include <immintrin.h>

#include <type_traits>

#include "scan.h"

namespace phoenix {
namespace {

template <int N>
using Count = std::integral_constant<int, N>;

#include "avx512_hits.h"
#include "rows.h"
#include "x86_rows.h"

struct Ops {
  static constexpr bool kBiased = true;
  using Ints = __m512i;
  using Floats = __m512;
  using Bytes = __m512i;

  static Ints Set(int32_t value) { return _mm512_set1_epi32(value); }
  static Bytes Load(const uint8_t* line) { return _mm512_loadu_si512(line); }
  static void Dot(Ints& sums, Bytes rows, const int8_t* query) {
    // As an intrinsic, GCC 12 copies each sum twice, and does not broadcast from memory.
    struct Four {
      int8_t codes[4];
    };
    __asm__("vpdpbusd %2%{1to16%}, %1, %0"
            : "+v"(sums)
            : "v"(rows), "m"(*reinterpret_cast<const Four*>(query)));
  }
  static Floats ToFloats(Ints ints) { return _mm512_cvtepi32_ps(ints); }
  static Floats LoadFloats(const float* values) { return _mm512_loadu_ps(values); }
  static Floats SetFloat(float value) { return _mm512_set1_ps(value); }
  static Floats Multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats MultiplyAdd(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static uint32_t AtLeast(Floats values, float threshold) {
    return _mm512_cmp_ps_mask(values, _mm512_set1_ps(threshold), _CMP_GE_OQ);
  }
  static void Append(Hits& hits, Floats upper, uint32_t mask, int32_t first_row) {
    AppendHits(hits, upper, mask, first_row);
  }
};

#include "scan_impl.h"

bool Available(int64_t) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}

}  // namespace

const Variant kAvx512Vnni = {"avx512-vnni",        16,        2, Available, PackRuns<16>,
                             ScanRuns<Ops, 16>, EncodeRow, ScoreRows};

}  // namespace phoenix
