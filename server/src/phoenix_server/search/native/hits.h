// How variants without a compressing instruction add hits. Include it inside an anonymous namespace;
// see scan_impl.h.

// Adds the rows of a mask, with the sums of their lanes.
inline void AppendLanes(Hits& hits, const int32_t* sums, uint32_t mask, int32_t first_row) {
  for (; mask != 0; mask &= mask - 1) {
    const int lane = __builtin_ctz(mask);
    hits.sums[hits.count] = sums[lane];
    hits.rows[hits.count++] = first_row + lane;
  }
}
