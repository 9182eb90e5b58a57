// The scan with AMX: the products of 32 queries and 32 rows, 64 components at a time.
//
// The layout of codes is that of AMX's right operand: 16 lines of 64 bytes hold 64 components of 16
// rows. Batches of few queries, which memory bounds, are scanned with AVX-512.
//
// Compile with: -mavx2 -mfma -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mamx-tile -mamx-int8 -Wno-maybe-uninitialized -Wno-uninitialized
// (GCC warns of its own header without reason: its bug 105593.)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <type_traits>

#include "scan.h"

namespace phoenix {
namespace {

constexpr int kQueries = 32;  // two tiles of queries
constexpr int kFewQueries = 6;  // up to which AVX-512 is at least as fast
constexpr int kStep = 64;       // components of one tile
constexpr int kQuadsOfStep = kStep / 4;

#include "rows.h"
#include "x86_512.h"
#include "scan_impl.h"
#include "x86_rows.h"

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// The tiles' registers belong to the thread while it scans a tile of rows; then they are released,
// as the state of a thread that holds them is costly to switch.
class TileRegisters {
 public:
  TileRegisters() {
    TileConfig config;
    for (int i = 0; i < 8; i++) {
      config.row_bytes[i] = kStep;
      config.rows[i] = kGroup;
    }
    _tile_loadconfig(&config);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

bool Allowed() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed;
}

bool Available(int64_t quads) {
  unsigned eax, ebx, ecx, edx;
  const bool amx = __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & (1u << 24)) != 0 &&
                   (edx & (1u << 25)) != 0;
  return amx && quads % kQuadsOfStep == 0 && kAvx512Vnni.available(quads) && Allowed();
}

// Packs queries as [2][J/16][16][64]: the left operands of each step, zeros where there is no query.
void Pack(const int8_t* codes, int queries, int64_t quads, int8_t* packed) {
  if (queries <= kFewQueries) return kAvx512Vnni.pack(codes, queries, quads, packed);
  const int64_t width = quads * 4;
  std::memset(packed, 0, static_cast<size_t>(kQueries * width));
  for (int q = 0; q < queries; q++) {
    for (int64_t i = 0; i < width; i++) {
      const int64_t step = (q / kGroup) * (width / kStep) + i / kStep;
      packed[(step * kGroup + q % kGroup) * kStep + i % kStep] = codes[q * width + i];
    }
  }
}

// How the queries of a block reach their thresholds. Queries that are none reach nothing.
struct Comparisons {
  int32_t offset[kQueries];
  Reach reach[kQueries];
};

Comparisons ComparisonsOf(const QueryBlock& block) {
  Comparisons all;
  for (int q = 0; q < kQueries; q++) {
    const bool none = q >= block.queries;
    all.offset[q] = none ? 0 : block.coded[q].coarse.offset;
    all.reach[q] = none ? Reach{0, -INFINITY} : ReachOf(block.coded[q], block.thresholds[q]);
  }
  return all;
}

// The products of sixteen queries and a pair of groups. Two of them lie in 4 KiB: a load from one
// must not look like a load of what is being stored to the other.
struct alignas(2048) Products {
  int32_t sums[2][kGroup][kGroup];  // by group and query
};

// Sixteen queries and a pair of groups.
struct Unit {
  int32_t pair;
  int first_query;
  const uint32_t* words;  // [kQueries], the masks of the pair
};

void Multiply(const Tile& tile, Unit unit, const QueryBlock& block, Products* products) {
  const int64_t group_bytes = int64_t{tile.quads} * 64;
  const uint8_t* codes = tile.codes + 2 * unit.pair * group_bytes;
  const int8_t* queries = block.packed + int64_t{unit.first_query} * tile.quads * 4;
  _tile_zero(0);
  _tile_zero(1);
  for (int64_t step = 0; step < tile.quads / kQuadsOfStep; step++) {
    const uint8_t* lines = codes + step * kGroup * 64;
    _tile_loadd(2, queries + step * kGroup * kStep, kStep);
    _tile_loadd(3, lines, 64);
    _tile_loadd(4, lines + group_bytes, 64);
    _tile_dpbsud(0, 2, 3);
    _tile_dpbsud(1, 2, 4);
  }
  _tile_stored(0, products->sums[0], 64);
  _tile_stored(1, products->sums[1], 64);
}

// Loads a pair of groups into the cache that the CPU would not expect: it does not foresee tiles.
void Prefetch(const Tile& tile, int32_t pair) {
  const int64_t bytes = int64_t{tile.quads} * 2 * 64;
  const uint8_t* codes = tile.codes + pair * bytes;
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(codes + i);
}

void Compare(const Tile& tile, Unit unit, const Comparisons& all, const Products& products,
             Hits* hits) {
  for (int g = 0; g < 2; g++) {
    const float* bounds = tile.bounds + (2 * unit.pair + g) * 2 * kGroup;
    const __m512 scale = _mm512_loadu_ps(bounds), residual = _mm512_loadu_ps(bounds + kGroup);
    for (int q = 0; q < kGroup; q += 4) {
      uint32_t masks[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        const int query = unit.first_query + q + i;
        const __m512i sums = _mm512_load_si512(products.sums[g][q + i]);
        const __m512 sum =
            _mm512_cvtepi32_ps(_mm512_add_epi32(sums, _mm512_set1_epi32(all.offset[query])));
        const __m512 margin = _mm512_fmadd_ps(residual, _mm512_set1_ps(all.reach[query].norm),
                                              _mm512_set1_ps(all.reach[query].margin));
        const __m512 beyond = _mm512_fmadd_ps(sum, scale, margin);
        masks[i] = _mm512_cmp_ps_mask(beyond, _mm512_setzero_ps(), _CMP_GE_OQ) &
                   (unit.words[query] >> (g * kGroup));
      }
      if (__builtin_expect((masks[0] | masks[1] | masks[2] | masks[3]) == 0, 1)) continue;
      for (int i = 0; i < 4; i++) {
        const int query = unit.first_query + q + i;
        if (masks[i] == 0) continue;
        const __m512i sums = _mm512_load_si512(products.sums[g][q + i]);
        Ops512::Append(hits[query],
                       _mm512_add_epi32(sums, _mm512_set1_epi32(all.offset[query])), masks[i],
                       tile.first_row + (2 * unit.pair + g) * kGroup);
      }
    }
  }
}

void Scan(const Tile& tile, const QueryBlock& block, Hits* hits) {
  if (block.queries <= kFewQueries) return kAvx512Vnni.scan(tile, block, hits);
  const Comparisons comparisons = ComparisonsOf(block);
  // The tiles multiply one unit while the vector units compare the one before.
  const TileRegisters registers;
  Products products[2];
  uint32_t words[2][kQueries] = {};  // of this pair and of the one before
  Unit before = {-1, 0, nullptr};
  int turn = 0, words_turn = 0;
  for (int32_t pair = 0; pair < tile.rows / kPair; pair++) {
    uint32_t any = 0;
    for (int q = 0; q < block.queries; q++) {
      words[words_turn][q] = block.eligible[q][pair];
      any |= words[words_turn][q];
    }
    if (any == 0) continue;
    if (block.first) Prefetch(tile, pair + 6);  // of the last pairs, what follows the tile
    for (int first = 0; first < block.queries; first += kGroup) {
      const Unit unit = {pair, first, words[words_turn]};
      Multiply(tile, unit, block, &products[turn]);
      turn = 1 - turn;
      if (before.pair >= 0) Compare(tile, before, comparisons, products[turn], hits);
      before = unit;
    }
    words_turn = 1 - words_turn;
  }
  if (before.pair >= 0) Compare(tile, before, comparisons, products[1 - turn], hits);
  for (int q = 0; q < block.queries; q++) {
    Refine<Ops512>(tile, block.coded[q], block.thresholds[q], hits[q]);
  }
}

}  // namespace

const Variant kAmx = {"amx", kQueries, Available, Pack, Scan, EncodeRow, ScoreRows};

}  // namespace phoenix
