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
  static Ints Add(Ints a, Ints b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
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
  static void Store(Ints ints, int32_t* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), ints.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8), ints.high);
  }
  static void Append(Hits& hits, Ints sums, uint32_t mask, int32_t first_row) {
    int32_t lanes[kGroup];
    Store(sums, lanes);
    AppendLanes(hits, lanes, mask, first_row);
  }
};
