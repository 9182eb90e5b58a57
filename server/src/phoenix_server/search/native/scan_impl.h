// The scan of a tile, for an instruction set that `Ops` describes. Include it inside an anonymous
// namespace: each variant is compiled with its own flags, and must not share a symbol with others.

// Adds the hits of NQ queries among the rows of one tile, a group at a time: its codes are read in
// the order in which they lie, as the CPU expects.
template <class Ops, int NQ, bool FINE>
void ScanQueries(const Tile& tile, const CodedQuery* coded, const int8_t* packed,
                 const float* thresholds, const uint32_t* const* eligible, Hits* hits) {
  const int64_t quads = tile.quads;
  const int8_t* fine = packed + quads * NQ * 4;
  for (int32_t group = 0; group < tile.rows / kGroup; group++) {
    const int shift = group % 2 * kGroup;
    uint32_t any = 0;
    for (int q = 0; q < NQ; q++) any |= eligible[q][group / 2];
    if ((any >> shift & 0xFFFF) == 0) continue;
    const uint8_t* codes = tile.codes + group * quads * 64;
    const float* bounds = tile.bounds + group * 2 * kGroup;
    __builtin_prefetch(bounds + 4 * 2 * kGroup);
    __builtin_prefetch(bounds + 4 * 2 * kGroup + kGroup);
    typename Ops::Ints sums[NQ], fines[FINE ? NQ : 1];
#pragma GCC unroll 16
    for (int q = 0; q < NQ; q++) {
      sums[q] = Ops::Set(Ops::kBiased ? coded[q].offset : 0);
      if (FINE) fines[q] = Ops::Set(Ops::kBiased ? coded[q].fine_offset : 0);
    }
    const int8_t* next = packed;
    const int8_t* next_fine = fine;
    for (int64_t quad = 0; quad < quads; quad++) {
      const uint8_t* line = codes + quad * 64;
      const typename Ops::Bytes bytes = Ops::Load(line);
      __builtin_prefetch(line + 8192);
#pragma GCC unroll 16
      for (int q = 0; q < NQ; q++) {
        Ops::Dot(sums[q], bytes, next + q * 4);
        if (FINE) Ops::Dot(fines[q], bytes, next_fine + q * 4);
      }
      next += NQ * 4;
      next_fine += NQ * 4;
    }
    const typename Ops::Floats scale = Ops::LoadFloats(bounds);
    const typename Ops::Floats residual = Ops::LoadFloats(bounds + kGroup);
#pragma GCC unroll 16
    for (int q = 0; q < NQ; q++) {
      typename Ops::Floats upper =
          Ops::MultiplyAdd(residual, Ops::SetFloat(coded[q].norm), Ops::SetFloat(coded[q].slack));
      upper = Ops::MultiplyAdd(Ops::ToFloats(sums[q]),
                               Ops::Multiply(scale, Ops::SetFloat(coded[q].scale)), upper);
      if (FINE) {
        upper = Ops::MultiplyAdd(Ops::ToFloats(fines[q]),
                                 Ops::Multiply(scale, Ops::SetFloat(coded[q].fine_scale)), upper);
      }
      const uint32_t word = eligible[q][group / 2] >> shift;
      const uint32_t mask = Ops::AtLeast(upper, thresholds[q]) & word & 0xFFFF;
      if (__builtin_expect(mask != 0, 0)) {
        Ops::Append(hits[q], upper, mask, tile.first_row + group * kGroup);
      }
    }
  }
}

// Cuts a block into runs of 16, 8, 4, 2 and 1 queries, the longest first, up to `longest`.
inline int RunLength(int left, int longest) {
  for (int run = longest; run > 1; run /= 2) {
    if (left >= run) return run;
  }
  return 1;
}

// Packs the codes of each run as [J][run][4], its fine codes behind them.
template <int LONGEST>
void PackRuns(const int8_t* codes, const int8_t* fine, int queries, int64_t quads, int8_t* packed) {
  for (int q = 0; q < queries;) {
    const int run = RunLength(queries - q, LONGEST);
    for (int part = 0; part < 2; part++) {
      const int8_t* from = part == 0 ? codes : fine;
      for (int64_t quad = 0; quad < quads; quad++) {
        for (int i = 0; i < run; i++) {
          for (int c = 0; c < 4; c++) *packed++ = from[((q + i) * quads + quad) * 4 + c];
        }
      }
    }
    q += run;
  }
}

template <class Ops, int LONGEST>
void ScanRuns(const Tile& tile, const QueryBlock& block, Hits* hits) {
  const int8_t* packed = block.packed;
  for (int q = 0; q < block.queries;) {
    const int run = RunLength(block.queries - q, LONGEST);
    auto scan = [&](auto count) {
      constexpr int NQ = decltype(count)::value;
      auto* go = block.fine && NQ <= 2 ? ScanQueries<Ops, NQ, NQ <= 2> : ScanQueries<Ops, NQ, false>;
      go(tile, block.coded + q, packed, block.thresholds + q, block.eligible + q, hits + q);
    };
    if constexpr (LONGEST >= 16) if (run == 16) scan(Count<16>{});
    if constexpr (LONGEST >= 8) if (run == 8) scan(Count<8>{});
    if (run == 4) scan(Count<4>{});
    if (run == 2) scan(Count<2>{});
    if (run == 1) scan(Count<1>{});
    packed += 2 * run * tile.quads * 4;
    q += run;
  }
}
