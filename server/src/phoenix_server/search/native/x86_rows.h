// The scores and codes of rows.h with 256-bit registers, for all x86 variants. The bits are those of
// the portable code.

inline float Reduce(__m256 low, __m256 high) {
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  const __m128 one = _mm_add_ss(two, _mm_shuffle_ps(two, two, 1));
  return _mm_cvtss_f32(one) + 0.0f;
}

template <int ROWS>
inline void ScoreSome(const float* vectors, int64_t width, const int32_t* rows, const float* query,
                      float* scores) {
  const float* from[ROWS];
  __m256 low[ROWS], high[ROWS];
  for (int r = 0; r < ROWS; r++) {
    from[r] = vectors + rows[r] * width;
    low[r] = high[r] = _mm256_setzero_ps();
  }
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) {
    const __m256 query_low = _mm256_loadu_ps(query + i);
    const __m256 query_high = _mm256_loadu_ps(query + i + 8);
    for (int r = 0; r < ROWS; r++) {
      low[r] = _mm256_fmadd_ps(_mm256_loadu_ps(from[r] + i), query_low, low[r]);
      high[r] = _mm256_fmadd_ps(_mm256_loadu_ps(from[r] + i + 8), query_high, high[r]);
    }
  }
  if (i < width) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const int left = static_cast<int>(width - i);
    const __m256i mask_low = _mm256_cmpgt_epi32(_mm256_set1_epi32(left), lanes);
    const __m256i mask_high = _mm256_cmpgt_epi32(_mm256_set1_epi32(left - 8), lanes);
    const __m256 query_low = _mm256_maskload_ps(query + i, mask_low);
    const __m256 query_high = _mm256_maskload_ps(query + i + 8, mask_high);
    for (int r = 0; r < ROWS; r++) {
      low[r] = _mm256_fmadd_ps(_mm256_maskload_ps(from[r] + i, mask_low), query_low, low[r]);
      high[r] =
          _mm256_fmadd_ps(_mm256_maskload_ps(from[r] + i + 8, mask_high), query_high, high[r]);
    }
  }
  for (int r = 0; r < ROWS; r++) scores[r] = Reduce(low[r], high[r]);
}

// Scores four rows at once.
inline void ScoreRows(const float* vectors, int64_t width, const int32_t* rows, int64_t count,
                      const float* query, float* scores) {
  int64_t i = 0;
  for (int64_t ahead = 0; ahead < count && ahead < kRowsAhead; ahead++) {
    PrefetchRow(vectors + rows[ahead] * width, width);
  }
  for (; i + 4 <= count; i += 4) {
    for (int64_t ahead = i + kRowsAhead; ahead < i + kRowsAhead + 4 && ahead < count; ahead++) {
      PrefetchRow(vectors + rows[ahead] * width, width);
    }
    ScoreSome<4>(vectors, width, rows + i, query, scores + i);
  }
  for (; i < count; i++) ScoreSome<1>(vectors, width, rows + i, query, scores + i);
}

inline void EncodeRow(const float* row, int64_t width, int lane, uint8_t* codes, float* bounds) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  const int64_t whole = width / 16 * 16;
  __m256 most = _mm256_setzero_ps();
  for (int64_t i = 0; i < whole; i += 8) {
    most = _mm256_max_ps(most, _mm256_andnot_ps(sign, _mm256_loadu_ps(row + i)));
  }
  float lanes[16];
  _mm256_storeu_ps(lanes, most);
  RowEncoder encoder(LargestOf(row + whole, width - whole, LargestOf(lanes, 8, 0)));
  const __m256 scale = _mm256_set1_ps(encoder.scale), inverse = _mm256_set1_ps(encoder.inverse);
  const __m128i bias = _mm_set1_epi8(static_cast<char>(0x80));
  __m256 squares[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int64_t i = 0; i < whole; i += 16) {
    __m128i ints[4];
    for (int half = 0; half < 2; half++) {
      const __m256 values = _mm256_loadu_ps(row + i + half * 8);
      const __m256 rounded = _mm256_round_ps(_mm256_mul_ps(values, inverse),
                                             _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      const __m256 rest = _mm256_fnmadd_ps(rounded, scale, values);
      squares[half] = _mm256_fmadd_ps(rest, rest, squares[half]);
      const __m256i whole_numbers = _mm256_cvtps_epi32(rounded);
      ints[2 * half] = _mm256_castsi256_si128(whole_numbers);
      ints[2 * half + 1] = _mm256_extracti128_si256(whole_numbers, 1);
    }
    const __m128i bytes = _mm_xor_si128(
        bias, _mm_packs_epi16(_mm_packs_epi32(ints[0], ints[1]), _mm_packs_epi32(ints[2], ints[3])));
    uint8_t* out = codes + i * 16 + lane * 4;
    _mm_storeu_si32(out, bytes);
    _mm_storeu_si32(out + 64, _mm_srli_si128(bytes, 4));
    _mm_storeu_si32(out + 128, _mm_srli_si128(bytes, 8));
    _mm_storeu_si32(out + 192, _mm_srli_si128(bytes, 12));
  }
  _mm256_storeu_ps(encoder.squares, squares[0]);
  _mm256_storeu_ps(encoder.squares + 8, squares[1]);
  encoder.EncodeFrom(whole, row, width, lane, codes);
  encoder.WriteBounds(lane, bounds);
}
