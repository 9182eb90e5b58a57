// The scan of a tile, for an instruction set that `Ops` describes. Include it inside an anonymous
// namespace, and <type_traits> before: each variant is compiled with its own flags, and must not share
// a symbol with others.

// Keeps those hits of a query whose upper bound by all of its codes reaches the threshold. Before,
// `sums` are the products of the coarse codes; the hits of a group lie together.
template <class Ops>
void Refine(const Tile& tile, const CodedQuery& query, float threshold, Hits& hits) {
  int32_t kept = 0;
  for (int32_t i = 0; i < hits.count;) {
    const int32_t group = (hits.rows[i] - tile.first_row) / kGroup;
    const uint8_t* codes = tile.codes + group * tile.quads * 64;
    // Four sums, so that a product need not wait for the one before.
    typename Ops::Ints parts[4];
    for (int p = 0; p < 4; p++) parts[p] = Ops::Set(Ops::kBiased && p == 0 ? query.fine.offset : 0);
    auto add = [&](int part, int64_t quad) {
      Ops::Dot(parts[part], Ops::Load(codes + quad * 64), query.fine_codes + quad * 4);
    };
    int64_t quad = 0;
    for (; quad + 4 <= tile.quads; quad += 4) {
#pragma GCC unroll 4
      for (int part = 0; part < 4; part++) add(part, quad + part);
    }
    for (; quad < tile.quads; quad++) add(0, quad);
    int32_t fine[kGroup];
    Ops::Store(Ops::Add(Ops::Add(parts[0], parts[1]), Ops::Add(parts[2], parts[3])), fine);
    const float* scales = tile.bounds + group * 2 * kGroup;
    const float* residuals = scales + kGroup;
    for (; i < hits.count && (hits.rows[i] - tile.first_row) / kGroup == group; i++) {
      const int lane = hits.rows[i] % kGroup;
      const float product = static_cast<float>(hits.sums[i]) * query.coarse.scale +
                            static_cast<float>(fine[lane]) * query.fine.scale;
      const float upper =
          product * scales[lane] + (residuals[lane] * query.fine.norm + query.fine.slack);
      hits.upper[kept] = upper;
      hits.rows[kept] = hits.rows[i];
      kept += upper >= threshold;
    }
  }
  hits.count = kept;
}

// Finds the hits of NQ queries among the rows of one tile, a group at a time: its codes are read in
// the order in which they lie, as the CPU expects.
template <class Ops, int NQ>
void ScanQueries(const Tile& tile, const CodedQuery* coded, const int8_t* packed,
                 const float* thresholds, const uint32_t* const* eligible, Hits* hits) {
  const int64_t quads = tile.quads;
  Reach reach[NQ];
  for (int q = 0; q < NQ; q++) reach[q] = ReachOf(coded[q], thresholds[q]);
  for (int32_t group = 0; group < tile.rows / kGroup; group++) {
    const int shift = group % 2 * kGroup;
    uint32_t any = 0;
    for (int q = 0; q < NQ; q++) any |= eligible[q][group / 2];
    if ((any >> shift & 0xFFFF) == 0) continue;
    const uint8_t* codes = tile.codes + group * quads * 64;
    const float* bounds = tile.bounds + group * 2 * kGroup;
    __builtin_prefetch(bounds + 4 * 2 * kGroup);
    __builtin_prefetch(bounds + 4 * 2 * kGroup + kGroup);
    typename Ops::Ints sums[NQ];
#pragma GCC unroll 16
    for (int q = 0; q < NQ; q++) sums[q] = Ops::Set(Ops::kBiased ? coded[q].coarse.offset : 0);
    const int8_t* next = packed;
    for (int64_t quad = 0; quad < quads; quad++) {
      const uint8_t* line = codes + quad * 64;
      const typename Ops::Bytes bytes = Ops::Load(line);
      __builtin_prefetch(line + 8192);
#pragma GCC unroll 16
      for (int q = 0; q < NQ; q++) Ops::Dot(sums[q], bytes, next + q * 4);
      next += NQ * 4;
    }
    const typename Ops::Floats scale = Ops::LoadFloats(bounds);
    const typename Ops::Floats residual = Ops::LoadFloats(bounds + kGroup);
#pragma GCC unroll 16
    for (int q = 0; q < NQ; q++) {
      const typename Ops::Floats margin = Ops::MultiplyAdd(
          residual, Ops::SetFloat(reach[q].norm), Ops::SetFloat(reach[q].margin));
      const uint32_t mask = Ops::AtLeast(Ops::MultiplyAdd(Ops::ToFloats(sums[q]), scale, margin), 0) &
                            eligible[q][group / 2] >> shift & 0xFFFF;
      if (__builtin_expect(mask != 0, 0)) {
        Ops::Append(hits[q], sums[q], mask, tile.first_row + group * kGroup);
      }
    }
  }
  for (int q = 0; q < NQ; q++) Refine<Ops>(tile, coded[q], thresholds[q], hits[q]);
}

// Cuts a block into runs of 16, 8, 4, 2 and 1 queries, the longest first, up to `longest`.
inline int RunLength(int left, int longest) {
  for (int run = longest; run > 1; run /= 2) {
    if (left >= run) return run;
  }
  return 1;
}

// Packs the codes of each run as [J][run][4].
template <int LONGEST>
void PackRuns(const int8_t* codes, int queries, int64_t quads, int8_t* packed) {
  for (int q = 0; q < queries;) {
    const int run = RunLength(queries - q, LONGEST);
    for (int64_t quad = 0; quad < quads; quad++) {
      for (int i = 0; i < run; i++) {
        for (int c = 0; c < 4; c++) *packed++ = codes[((q + i) * quads + quad) * 4 + c];
      }
    }
    q += run;
  }
}

template <int N>
using Count = std::integral_constant<int, N>;

template <class Ops, int LONGEST>
void ScanRuns(const Tile& tile, const QueryBlock& block, Hits* hits) {
  const int8_t* packed = block.packed;
  for (int q = 0; q < block.queries;) {
    const int run = RunLength(block.queries - q, LONGEST);
    auto scan = [&](auto count) {
      ScanQueries<Ops, decltype(count)::value>(tile, block.coded + q, packed, block.thresholds + q,
                                               block.eligible + q, hits + q);
    };
    if constexpr (LONGEST >= 16) if (run == 16) scan(Count<16>{});
    if constexpr (LONGEST >= 8) if (run == 8) scan(Count<8>{});
    if (run == 4) scan(Count<4>{});
    if (run == 2) scan(Count<2>{});
    if (run == 1) scan(Count<1>{});
    packed += run * tile.quads * 4;
    q += run;
  }
}
