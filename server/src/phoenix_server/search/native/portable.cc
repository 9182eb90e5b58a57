// The scan in portable C++: the reference for the other variants, and the one for other CPUs.
#include "scan.h"

#include <type_traits>

namespace phoenix {
namespace {

#include "hits.h"
#include "rows.h"

struct Ops {
  static constexpr bool kBiased = true;
  struct Ints {
    int32_t lane[kGroup];
  };
  struct Floats {
    float lane[kGroup];
  };
  using Bytes = const uint8_t*;

  static Ints Set(int32_t value) {
    Ints ints;
    for (int i = 0; i < kGroup; i++) ints.lane[i] = value;
    return ints;
  }
  static Bytes Load(const uint8_t* line) { return line; }
  static void Dot(Ints& sums, Bytes line, const int8_t* query) {
    for (int i = 0; i < kGroup; i++) {
      for (int c = 0; c < 4; c++) sums.lane[i] += int32_t{line[i * 4 + c]} * int32_t{query[c]};
    }
  }
  static Ints Add(const Ints& a, const Ints& b) {
    Ints ints;
    for (int i = 0; i < kGroup; i++) ints.lane[i] = a.lane[i] + b.lane[i];
    return ints;
  }
  static Floats ToFloats(const Ints& ints) {
    Floats floats;
    for (int i = 0; i < kGroup; i++) floats.lane[i] = static_cast<float>(ints.lane[i]);
    return floats;
  }
  static Floats LoadFloats(const float* values) {
    Floats floats;
    for (int i = 0; i < kGroup; i++) floats.lane[i] = values[i];
    return floats;
  }
  static Floats SetFloat(float value) {
    Floats floats;
    for (int i = 0; i < kGroup; i++) floats.lane[i] = value;
    return floats;
  }
  static Floats Multiply(const Floats& a, const Floats& b) {
    Floats floats;
    for (int i = 0; i < kGroup; i++) floats.lane[i] = a.lane[i] * b.lane[i];
    return floats;
  }
  static Floats MultiplyAdd(const Floats& a, const Floats& b, const Floats& c) {
    Floats floats;
    for (int i = 0; i < kGroup; i++) floats.lane[i] = a.lane[i] * b.lane[i] + c.lane[i];
    return floats;
  }
  static uint32_t AtLeast(const Floats& values, float threshold) {
    uint32_t mask = 0;
    for (int i = 0; i < kGroup; i++) mask |= uint32_t{values.lane[i] >= threshold} << i;
    return mask;
  }
  static void Store(const Ints& ints, int32_t* to) {
    for (int i = 0; i < kGroup; i++) to[i] = ints.lane[i];
  }
  static void Append(Hits& hits, const Ints& sums, uint32_t mask, int32_t first_row) {
    int32_t lanes[kGroup];
    Store(sums, lanes);
    AppendLanes(hits, lanes, mask, first_row);
  }
};

#include "scan_impl.h"

bool Available(int64_t) { return true; }

void Score(const float* vectors, int64_t width, const int32_t* rows, int64_t count,
           const float* query, float* scores) {
  for (int64_t i = 0; i < count; i++) {
    if (i + kRowsAhead < count) PrefetchRow(vectors + rows[i + kRowsAhead] * width, width);
    scores[i] = ScorePortable(vectors + rows[i] * width, query, width);
  }
}

}  // namespace

const Variant kPortable = {"portable",       4,              Available, PackRuns<4>,
                           ScanRuns<Ops, 4>, EncodePortable, Score};

}  // namespace phoenix
