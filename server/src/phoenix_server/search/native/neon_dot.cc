// The scan with the dot products of ARMv8.2: sixteen rows in four registers.
//
// Compile with: -march=armv8.2-a+dotprod
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include <type_traits>

#include "scan.h"

namespace phoenix {
namespace {

#include "hits.h"
#include "rows.h"

struct Ops {
  static constexpr bool kBiased = false;
  struct Ints {
    int32x4_t part[4];
  };
  struct Floats {
    float32x4_t part[4];
  };
  struct Bytes {
    int8x16_t part[4];
  };

  static Ints Set(int32_t value) {
    Ints ints;
    for (int i = 0; i < 4; i++) ints.part[i] = vdupq_n_s32(value);
    return ints;
  }
  static Bytes Load(const uint8_t* line) {
    Bytes bytes;
    for (int i = 0; i < 4; i++) {
      bytes.part[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(line + i * 16), vdupq_n_u8(0x80)));
    }
    return bytes;
  }
  static void Dot(Ints& sums, const Bytes& rows, const int8_t* query) {
    int32_t four;
    __builtin_memcpy(&four, query, 4);
    const int8x16_t all = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (int i = 0; i < 4; i++) sums.part[i] = vdotq_s32(sums.part[i], rows.part[i], all);
  }
  static Ints Add(const Ints& a, const Ints& b) {
    Ints ints;
    for (int i = 0; i < 4; i++) ints.part[i] = vaddq_s32(a.part[i], b.part[i]);
    return ints;
  }
  static Floats ToFloats(const Ints& ints) {
    Floats floats;
    for (int i = 0; i < 4; i++) floats.part[i] = vcvtq_f32_s32(ints.part[i]);
    return floats;
  }
  static Floats LoadFloats(const float* values) {
    Floats floats;
    for (int i = 0; i < 4; i++) floats.part[i] = vld1q_f32(values + i * 4);
    return floats;
  }
  static Floats SetFloat(float value) {
    Floats floats;
    for (int i = 0; i < 4; i++) floats.part[i] = vdupq_n_f32(value);
    return floats;
  }
  static Floats Multiply(const Floats& a, const Floats& b) {
    Floats floats;
    for (int i = 0; i < 4; i++) floats.part[i] = vmulq_f32(a.part[i], b.part[i]);
    return floats;
  }
  static Floats MultiplyAdd(const Floats& a, const Floats& b, const Floats& c) {
    Floats floats;
    for (int i = 0; i < 4; i++) floats.part[i] = vfmaq_f32(c.part[i], a.part[i], b.part[i]);
    return floats;
  }
  static uint32_t AtLeast(const Floats& values, float threshold) {
    const uint32x4_t bits = {1, 2, 4, 8};
    const float32x4_t least = vdupq_n_f32(threshold);
    uint32_t mask = 0;
    for (int i = 0; i < 4; i++) {
      mask |= vaddvq_u32(vandq_u32(vcgeq_f32(values.part[i], least), bits)) << (i * 4);
    }
    return mask;
  }
  static void Store(const Ints& ints, int32_t* to) {
    for (int i = 0; i < 4; i++) vst1q_s32(to + i * 4, ints.part[i]);
  }
  static void Append(Hits& hits, const Ints& sums, uint32_t mask, int32_t first_row) {
    int32_t lanes[kGroup];
    Store(sums, lanes);
    AppendLanes(hits, lanes, mask, first_row);
  }
};

#include "scan_impl.h"

bool Available(int64_t) {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
  return true;  // every Apple CPU of this architecture that macOS runs on has them
#else
  return false;
#endif
}

float ScoreRow(const float* row, const float* query, int64_t width) {
  float32x4_t sums[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) {
    for (int part = 0; part < 4; part++) {
      const int64_t at = i + part * 4;
      sums[part] = vfmaq_f32(sums[part], vld1q_f32(row + at), vld1q_f32(query + at));
    }
  }
  float lanes[16];
  for (int part = 0; part < 4; part++) vst1q_f32(lanes + part * 4, sums[part]);
  for (int lane = 0; i < width; i++, lane++) {
    lanes[lane] = __builtin_fmaf(row[i], query[i], lanes[lane]);
  }
  return AddTree(lanes);
}

void ScoreRows(const float* vectors, int64_t width, const int32_t* rows, int64_t count,
               const float* query, float* scores) {
  for (int64_t i = 0; i < count; i++) {
    if (i + kRowsAhead < count) PrefetchRow(vectors + rows[i + kRowsAhead] * width, width);
    scores[i] = ScoreRow(vectors + rows[i] * width, query, width);
  }
}

}  // namespace

const Variant kNeonDot = {"neon-dot",       4,              Available, PackRuns<4>,
                          ScanRuns<Ops, 4>, EncodePortable, ScoreRows};

}  // namespace phoenix
