// What the variants with AVX-512 share: sixteen rows in a register, four components of each. Include
// it inside an anonymous namespace; see scan_impl.h.

struct Ops512 {
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
  static Ints Add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static Floats ToFloats(Ints ints) { return _mm512_cvtepi32_ps(ints); }
  static Floats LoadFloats(const float* values) { return _mm512_loadu_ps(values); }
  static Floats SetFloat(float value) { return _mm512_set1_ps(value); }
  static Floats Multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats MultiplyAdd(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static uint32_t AtLeast(Floats values, float threshold) {
    return _mm512_cmp_ps_mask(values, _mm512_set1_ps(threshold), _CMP_GE_OQ);
  }
  static void Store(Ints ints, int32_t* to) { _mm512_storeu_si512(to, ints); }
  static void Append(Hits& hits, Ints sums, uint32_t mask, int32_t first_row) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i rows = _mm512_add_epi32(lanes, _mm512_set1_epi32(first_row));
    const auto chosen = static_cast<__mmask16>(mask);
    // Compressed in a register: a compressing store to memory is slow on some CPUs.
    _mm512_storeu_si512(hits.sums + hits.count, _mm512_maskz_compress_epi32(chosen, sums));
    _mm512_storeu_si512(hits.rows + hits.count, _mm512_maskz_compress_epi32(chosen, rows));
    hits.count += __builtin_popcount(mask);
  }
};
