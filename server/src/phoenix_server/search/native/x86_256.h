// What the variants with 256-bit registers share: sixteen rows in two registers. `DotOps` provides
// kBiased, Bytes, Load and Dot.

struct Ints256 {
  __m256i low, high;
};

template <class DotOps>
struct Ops256 : DotOps {
  using Ints = Ints256;
  struct Floats {
    __m256 low, high;
  };

  static Ints Set(int32_t value) {
    return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)};
  }
  static Floats ToFloats(Ints ints) {
    return {_mm256_cvtepi32_ps(ints.low), _mm256_cvtepi32_ps(ints.high)};
  }
  static Floats LoadFloats(const float* values) {
    return {_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8)};
  }
  static Floats SetFloat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static Floats Multiply(Floats a, Floats b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static Floats MultiplyAdd(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static uint32_t AtLeast(Floats values, float threshold) {
    const __m256 least = _mm256_set1_ps(threshold);
    const int low = _mm256_movemask_ps(_mm256_cmp_ps(values.low, least, _CMP_GE_OQ));
    const int high = _mm256_movemask_ps(_mm256_cmp_ps(values.high, least, _CMP_GE_OQ));
    return static_cast<uint32_t>(low | high << 8);
  }
  static void Append(Hits& hits, Floats upper, uint32_t mask, int32_t first_row) {
    float lanes[kGroup];
    _mm256_storeu_ps(lanes, upper.low);
    _mm256_storeu_ps(lanes + 8, upper.high);
    for (; mask != 0; mask &= mask - 1) {
      const int lane = __builtin_ctz(mask);
      hits.upper[hits.count] = lanes[lane];
      hits.rows[hits.count++] = first_row + lane;
    }
  }
};
