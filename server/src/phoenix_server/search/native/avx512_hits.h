// How variants with AVX-512 note hits. Include it inside an anonymous namespace; see scan_impl.h.

inline void AppendHits(Hits& hits, __m512 upper, uint32_t mask, int32_t first_row) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i rows = _mm512_add_epi32(lanes, _mm512_set1_epi32(first_row));
  const auto chosen = static_cast<__mmask16>(mask);
  // Compressed in a register: a compressing store to memory is slow on some CPUs.
  _mm512_storeu_ps(hits.upper + hits.count, _mm512_maskz_compress_ps(chosen, upper));
  _mm512_storeu_si512(hits.rows + hits.count, _mm512_maskz_compress_epi32(chosen, rows));
  hits.count += __builtin_popcount(mask);
}
