// The scan of a tile, for an instruction set that `Ops` describes. Include it inside an anonymous
// namespace: each variant is compiled with its own flags, and must not share a symbol with others.

// Adds the hits of NQ queries among the rows of one tile. NG: groups at once, 1 or 2.
template <class Ops, int NQ, int NG, bool FINE>
void ScanQueries(const Tile& tile, const CodedQuery* coded, const int8_t* packed,
                 const float* thresholds, const uint32_t* const* eligible, Hits* hits) {
  const int64_t quads = tile.quads;
  const int64_t group_bytes = quads * 64;
  const int8_t* fine = packed + quads * NQ * 4;
  for (int32_t pair = 0; pair < tile.rows / kPair; pair++) {
    uint32_t any = 0;
    for (int q = 0; q < NQ; q++) any |= eligible[q][pair];
    if (any == 0) continue;
    for (int half = 0; half < 2; half += NG) {
      if (NG == 1 && ((any >> (half * kGroup)) & 0xFFFF) == 0) continue;
      const int64_t group = 2 * int64_t{pair} + half;
      const uint8_t* codes = tile.codes + group * group_bytes;
      typename Ops::Ints sums[NG][NQ], fines[NG][FINE ? NQ : 1];
#pragma GCC unroll 16
      for (int q = 0; q < NQ; q++) {
#pragma GCC unroll 2
        for (int g = 0; g < NG; g++) {
          sums[g][q] = Ops::Set(Ops::kBiased ? coded[q].offset : 0);
          if (FINE) fines[g][q] = Ops::Set(Ops::kBiased ? coded[q].fine_offset : 0);
        }
      }
      const int8_t* next = packed;
      const int8_t* next_fine = fine;
      for (int64_t quad = 0; quad < quads; quad++) {
        typename Ops::Bytes bytes[NG];
#pragma GCC unroll 2
        for (int g = 0; g < NG; g++) {
          const uint8_t* line = codes + g * group_bytes + quad * 64;
          bytes[g] = Ops::Load(line);
          __builtin_prefetch(line + 8192);
        }
#pragma GCC unroll 16
        for (int q = 0; q < NQ; q++) {
#pragma GCC unroll 2
          for (int g = 0; g < NG; g++) {
            Ops::Dot(sums[g][q], bytes[g], next + q * 4);
            if (FINE) Ops::Dot(fines[g][q], bytes[g], next_fine + q * 4);
          }
        }
        next += NQ * 4;
        next_fine += NQ * 4;
      }
#pragma GCC unroll 2
      for (int g = 0; g < NG; g++) {
        const float* bounds = tile.bounds + (group + g) * 2 * kGroup;
        const typename Ops::Floats scale = Ops::LoadFloats(bounds);
        const typename Ops::Floats residual = Ops::LoadFloats(bounds + kGroup);
#pragma GCC unroll 16
        for (int q = 0; q < NQ; q++) {
          typename Ops::Floats upper =
              Ops::MultiplyAdd(residual, Ops::SetFloat(coded[q].norm), Ops::SetFloat(coded[q].slack));
          upper = Ops::MultiplyAdd(Ops::ToFloats(sums[g][q]),
                                   Ops::Multiply(scale, Ops::SetFloat(coded[q].scale)), upper);
          if (FINE) {
            upper = Ops::MultiplyAdd(Ops::ToFloats(fines[g][q]),
                                     Ops::Multiply(scale, Ops::SetFloat(coded[q].fine_scale)), upper);
          }
          const uint32_t word = eligible[q][pair] >> ((half + g) * kGroup);
          const uint32_t mask = Ops::AtLeast(upper, thresholds[q]) & word & 0xFFFF;
          if (__builtin_expect(mask != 0, 0)) {
            Ops::Append(hits[q], upper, mask,
                        tile.first_row + static_cast<int32_t>(group + g) * kGroup);
          }
        }
      }
    }
  }
}

// Cuts a block into runs of 8, 4, 2 and 1 queries, the longest first, up to `longest`.
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

template <class Ops, int LONGEST, int NG>
void ScanRuns(const Tile& tile, const QueryBlock& block, Hits* hits) {
  const int8_t* packed = block.packed;
  for (int q = 0; q < block.queries;) {
    const int run = RunLength(block.queries - q, LONGEST);
    auto scan = [&](auto count) {
      constexpr int NQ = decltype(count)::value;
      auto* go = block.fine && NQ <= 2 ? ScanQueries<Ops, NQ, NG, NQ <= 2>
                                       : ScanQueries<Ops, NQ, NG, false>;
      go(tile, block.coded + q, packed, block.thresholds + q, block.eligible + q, hits + q);
    };
    if constexpr (LONGEST >= 8) if (run == 8) scan(Count<8>{});
    if (run == 4) scan(Count<4>{});
    if (run == 2) scan(Count<2>{});
    if (run == 1) scan(Count<1>{});
    packed += 2 * run * tile.quads * 4;
    q += run;
  }
}
