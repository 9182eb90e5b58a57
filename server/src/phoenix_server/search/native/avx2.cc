// The scan with AVX2, for CPUs without VNNI.
//
// `maddubs` multiplies unsigned by signed bytes and saturates sums of two products beyond 16 bits.
// So rows give their absolute values and queries take the rows' signs: two products of at most
// 127 * 127 fit.
//
// Compile with: -mavx2 -mfma
#include <immintrin.h>

#include <type_traits>

#include "scan.h"

namespace phoenix {
namespace {

#include "hits.h"
#include "rows.h"
#include "x86_256.h"
#include "x86_rows.h"

struct SignedDot {
  static constexpr bool kBiased = false;
  struct Bytes {
    Ints256 values, sizes;
  };

  static Bytes Load(const uint8_t* line) {
    const auto* from = reinterpret_cast<const __m256i*>(line);
    const __m256i bias = _mm256_set1_epi8(static_cast<char>(0x80));
    const __m256i low = _mm256_xor_si256(_mm256_loadu_si256(from), bias);
    const __m256i high = _mm256_xor_si256(_mm256_loadu_si256(from + 1), bias);
    return {{low, high}, {_mm256_abs_epi8(low), _mm256_abs_epi8(high)}};
  }
  static __m256i Products(__m256i values, __m256i sizes, __m256i query) {
    const __m256i pairs = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(query, values));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
  static void Dot(Ints256& sums, const Bytes& rows, const int8_t* query) {
    int32_t four;
    __builtin_memcpy(&four, query, 4);
    const __m256i all = _mm256_set1_epi32(four);
    sums.low = _mm256_add_epi32(sums.low, Products(rows.values.low, rows.sizes.low, all));
    sums.high = _mm256_add_epi32(sums.high, Products(rows.values.high, rows.sizes.high, all));
  }
};

using Ops = Ops256<SignedDot>;

#include "scan_impl.h"

bool Available(int64_t) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

}  // namespace

const Variant kAvx2 = {"avx2",           4,         Available, PackRuns<4>,
                       ScanRuns<Ops, 4>, EncodeRow, ScoreRows};

}  // namespace phoenix
