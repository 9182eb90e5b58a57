// The exact top k of one shard: an int8 scan with certain bounds, then float32 scores.
//
// Shapes:
//     P  rows of the shard         D  width of a vector
//     B  queries                   K  results
#pragma once

#include <cstdint>
#include "for_each.h"
#include "scan.h"

namespace phoenix {

struct Shard {
  const float* vectors;     // [P, D]
  const uint32_t* ids;      // [P, 2], the high and the low half
  const uint8_t* codes;     // see scan.h
  const float* bounds;
  float longest;            // an upper bound of the length of the longest vector
  int64_t width;            // D
  int32_t rows;             // that are searched, a multiple of kTileRows
};

struct Search {
  const float* queries;      // [B, D]; a query of zeros is padding, and gets no result
  const int32_t* wanted;     // [B], the results that each query gets, K at most
  int32_t batch;             // B
  int32_t k;                 // K, at least 1
  const uint32_t* eligible;  // words of 32 rows, lowest first
  int64_t eligible_stride;   // words from one query's mask to the next; 0 if all share one
  float* scores;             // [B, K], descending; -inf where there is no result
  int32_t* rows;             // [B, K]; equal scores are in ascending order of their ids
};

void FindTopK(const Variant& variant, const Shard& shard, const Search& search, int workers,
              const RunTogether& run);

}  // namespace phoenix
