// What a variant of the scan provides: one implementation per instruction set, chosen at run time.
//
// Shapes:
//     D  width of a vector         J  quads of a vector: D / 4, rounded up
//     P  rows of a shard           B  queries
//
// Codes lie in groups of 16 rows: [P/16][J][16][4] u8, so that 64 consecutive bytes hold four
// components of each of 16 rows. A component c is stored as c + 128; -127 <= c <= 127.
// Bounds lie beside them: [P/16][2][16] f32, of each row its scale and its residual norm.
#pragma once

#include <cstdint>

namespace phoenix {

constexpr int kGroup = 16;      // rows of a group
constexpr int kPair = 32;       // rows of a pair of groups: one word of a mask
constexpr int kTileRows = 1024; // rows that one call of `scan` sees at most; their codes fit in L2
constexpr int kHits = kTileRows + kGroup; // room for the hits of a tile: stores are 16 wide

inline int64_t Quads(int64_t width) { return (width + 3) / 4; }

// Codes of a query, and the bound of a score's error for a query that is coded so far.
struct QueryPart {
  float scale;
  int32_t offset;  // -128 * the sum of the codes: rows are stored with 128 added
  float norm;      // of the coded query, rounded up: the factor of a row's residual norm
  float slack;     // the part of the error bound that is the same for all rows
};

// A query as the scan sees it: q = coarse.scale * codes + fine.scale * fine_codes + error. The codes
// are compared with all rows; only where they reach the threshold, the fine codes are as well.
struct CodedQuery {
  QueryPart coarse;
  QueryPart fine;            // its bound is of both
  const int8_t* fine_codes;  // [J * 4]
};

// When codes reach a threshold, with few operations a row:
// (sum + offset) * row_scale + residual * norm + margin >= 0.
struct Reach {
  float norm;
  float margin;
};

inline Reach ReachOf(const CodedQuery& query, float threshold) {
  const QueryPart& part = query.coarse;
  const float margin = (part.slack - threshold) / part.scale;
  // The factors cover the rounding of the divisions and of the comparison itself.
  return {part.norm / part.scale * (1.0f + 1e-6f), margin + 1e-6f * __builtin_fabsf(margin)};
}

// Rows whose upper bound reaches the threshold.
struct Hits {
  float upper[kHits];
  int32_t sums[kHits];  // of the products of the coarse codes
  int32_t rows[kHits];
  int32_t count;
};

struct Tile {
  const uint8_t* codes;
  const float* bounds;
  int32_t first_row;
  int32_t rows;  // a multiple of 32, at most kTileRows
  int32_t quads; // J
};

// The queries of one call of `scan`.
struct QueryBlock {
  int queries;
  bool first;                       // whether no other block has been scanned in this tile
  const CodedQuery* coded;          // [queries]
  const int8_t* packed;             // as `pack` has written it
  const float* thresholds;          // [queries]
  const uint32_t* const* eligible;  // [queries], each the words of the tile
};

struct Variant {
  const char* name;
  int block;  // the most queries of one call of `scan`
  bool (*available)(int64_t quads);

  // Rearranges the codes of a block, [queries][J * 4].
  // `packed` has room for block * J * 4 bytes, rounded up to a multiple of 64.
  void (*pack)(const int8_t* codes, int queries, int64_t quads, int8_t* packed);

  // Adds the rows to `hits` that are eligible and whose upper bound is at least the threshold.
  void (*scan)(const Tile& tile, const QueryBlock& block, Hits* hits);

  // Writes the codes and bounds of one row, [D] f32, into its group.
  void (*encode)(const float* row, int64_t width, int lane, uint8_t* codes, float* bounds);

  // Scores rows of [*, D] for a query [D]; see rows.h.
  void (*score)(const float* vectors, int64_t width, const int32_t* rows, int64_t count,
                const float* query, float* scores);
};

extern const Variant kPortable;
#if defined(__x86_64__)
extern const Variant kAvx2;
extern const Variant kAvxVnni;
extern const Variant kAvx512Vnni;
extern const Variant kAmx;
#elif defined(__aarch64__)
extern const Variant kNeonDot;
#endif

// The variants of this machine's architecture, the fastest first; some may not be available.
const Variant* const* Variants(int* count);

}  // namespace phoenix
