// The codes of a query: 8 bits for each value, and 8 more where few queries are searched.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "scan.h"

namespace phoenix {

inline float RoundUp(double value) {
  const auto rounded = static_cast<float>(value);
  return rounded >= value ? rounded : std::nextafter(rounded, INFINITY);
}

// Codes a query, [J * 4] twice, and bounds the errors that do not depend on a row.
inline CodedQuery Code(const float* query, int64_t width, float longest, bool fine, int8_t* codes,
                       int8_t* fine_codes) {
  const int64_t padded = Quads(width) * 4;
  float largest = 0;
  for (int64_t i = 0; i < width; i++) largest = std::max(largest, std::fabs(query[i]));
  // Below this, the scale would lose its precision: the query is all error.
  const float scale = largest > 1e-30f ? largest / 127.0f : 1.0f;
  const float fine_scale = fine ? scale / 254.0f : 0.0f;
  double error = 0, norm = 0, length = 0;
  int32_t sum = 0, fine_sum = 0;
  for (int64_t i = 0; i < padded; i++) {
    const double value = i < width ? query[i] : 0.0f;
    const auto code = static_cast<int>(std::clamp(std::nearbyint(value / scale), -127.0, 127.0));
    double coded = double{scale} * code;
    int fine_code = 0;
    if (fine) {
      fine_code = static_cast<int>(
          std::clamp(std::nearbyint((value - coded) / fine_scale), -127.0, 127.0));
      coded += double{fine_scale} * fine_code;
    }
    codes[i] = static_cast<int8_t>(code);
    fine_codes[i] = static_cast<int8_t>(fine_code);
    sum += code;
    fine_sum += fine_code;
    error += (value - coded) * (value - coded);
    norm += coded * coded;
    length += value * value;
  }
  // |q x - q^ x^| <= |q^| |x - x^| + |q - q^| |x|, and the rounding of three things: the score
  // itself, the sums of products that exceed 24 bits, and the arithmetic of the bound.
  const double rounding = std::ldexp(static_cast<double>(width) / 16 + 24, -24) *
                          1.1 * std::sqrt(length) * longest;
  const double slack = std::sqrt(error) * longest * (1 + 1e-6) + rounding + 1e-30;
  return {scale,          fine_scale,     -128 * sum, -128 * fine_sum,
          RoundUp(std::sqrt(norm) * (1 + 1e-6)), RoundUp(slack)};
}

}  // namespace phoenix
