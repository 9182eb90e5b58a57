// The score of a row for a query, and the codes of a row: definitions in portable C++.
//
// The score is one definition with the same bits on every CPU. Sixteen partial sums start at 0; the
// product of component i is added to partial sum i mod 16 by a fused multiply-add, in ascending
// order of i. Then sums 8 apart are added, 4 apart, 2 apart, 1 apart. A score of -0 becomes 0.
//
// Include it inside an anonymous namespace; see scan_impl.h.

inline float AddTree(float* sums) {
  for (int apart = 8; apart > 0; apart /= 2) {
    for (int i = 0; i < apart; i++) sums[i] += sums[i + apart];
  }
  return sums[0] + 0.0f;  // -0 + 0 is 0
}

inline float ScorePortable(const float* row, const float* query, int64_t width) {
  float sums[16] = {};
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) {
    for (int lane = 0; lane < 16; lane++) {
      sums[lane] = __builtin_fmaf(row[i + lane], query[i + lane], sums[lane]);
    }
  }
  for (int lane = 0; i < width; i++, lane++) {
    sums[lane] = __builtin_fmaf(row[i], query[i], sums[lane]);
  }
  return AddTree(sums);
}

inline void PrefetchRow(const float* row, int64_t width) {
  for (int64_t i = 0; i < width; i += 16) __builtin_prefetch(row + i);
}

constexpr int kRowsAhead = 8;  // rows whose memory is on its way while others are scored

inline float LargestOf(const float* values, int64_t count, float largest) {
  for (int64_t i = 0; i < count; i++) {
    const float size = __builtin_fabsf(values[i]);
    largest = size > largest ? size : largest;
  }
  return largest;
}

// The codes of a row, whose largest component is known.
struct RowEncoder {
  // Below 1e-30 the scale and its inverse would lose their precision: the row is all residual.
  explicit RowEncoder(float largest)
      : scale(largest > 1e-30f ? largest / 127.0f : 0.0f),
        inverse(largest > 1e-30f ? 127.0f / largest : 0.0f) {}

  // Encodes the components from `first` on; it is a multiple of 16.
  void EncodeFrom(int64_t first, const float* row, int64_t width, int lane, uint8_t* codes) {
    for (int64_t i = first; i < Quads(width) * 4; i++) {
      const float value = i < width ? row[i] : 0.0f;
      const float rounded = __builtin_rintf(value * inverse);
      const float rest = __builtin_fmaf(-rounded, scale, value);
      squares[i % 16] = __builtin_fmaf(rest, rest, squares[i % 16]);
      codes[i / 4 * 64 + lane * 4 + i % 4] = static_cast<uint8_t>(static_cast<int>(rounded) + 128);
    }
  }

  // Writes the scale, and the length of what the codes leave out, rounded up.
  void WriteBounds(int lane, float* bounds) const {
    float sum = 0;
    for (int i = 0; i < 16; i++) sum += squares[i];
    bounds[lane] = scale;
    // The factor covers the rounding of at most 2,000 sums; 1e-18 covers squares that underflow.
    bounds[kGroup + lane] = __builtin_sqrtf(sum) * (1.0f + 2e-4f) + 1e-18f;
  }

  const float scale, inverse;
  float squares[16] = {};
};

inline void EncodePortable(const float* row, int64_t width, int lane, uint8_t* codes,
                           float* bounds) {
  RowEncoder encoder(LargestOf(row, width, 0));
  encoder.EncodeFrom(0, row, width, lane, codes);
  encoder.WriteBounds(lane, bounds);
}
