// The codes of a query: 8 bits for each value, and 8 more of what these leave out.
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
inline CodedQuery Code(const float* query, int64_t width, float longest, int8_t* codes,
                       int8_t* fine_codes) {
  const int64_t padded = Quads(width) * 4;
  float largest = 0;
  for (int64_t i = 0; i < width; i++) largest = std::max(largest, std::fabs(query[i]));
  // Below this, the scale would lose its precision: the query is all error.
  const float scale = largest > 1e-30f ? largest / 127.0f : 1.0f;
  const float fine_scale = scale / 254.0f;
  auto round = [](double value) {
    return static_cast<int8_t>(std::clamp(std::nearbyint(value), -127.0, 127.0));
  };
  struct Sums {
    int32_t codes = 0;
    double error = 0, norm = 0;  // squared
    void Add(int8_t code, double value, double coded) {
      codes += code;
      error += (value - coded) * (value - coded);
      norm += coded * coded;
    }
  } coarse, fine;
  double length = 0;
  for (int64_t i = 0; i < padded; i++) {
    const double value = i < width ? query[i] : 0.0f;
    codes[i] = round(value / scale);
    const double coded = double{scale} * codes[i];
    fine_codes[i] = round((value - coded) / fine_scale);
    coarse.Add(codes[i], value, coded);
    fine.Add(fine_codes[i], value, coded + double{fine_scale} * fine_codes[i]);
    length += value * value;
  }
  // |q x - q^ x^| <= |q^| |x - x^| + |q - q^| |x|, and the rounding of three things: the score
  // itself, the sums of products that exceed 24 bits, and the arithmetic of the bound.
  const double rounding = std::ldexp(static_cast<double>(width) / 16 + 24, -24) *
                          1.1 * std::sqrt(length) * longest;
  auto part = [&](float scale, const Sums& sums) -> QueryPart {
    const double slack = std::sqrt(sums.error) * longest * (1 + 1e-6) + rounding + 1e-30;
    return {scale, -128 * sums.codes, RoundUp(std::sqrt(sums.norm) * (1 + 1e-6)), RoundUp(slack)};
  };
  return {part(scale, coarse), part(fine_scale, fine), fine_codes};
}

}  // namespace phoenix
