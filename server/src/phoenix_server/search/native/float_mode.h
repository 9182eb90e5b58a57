// How this thread computes with floats.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace phoenix {

// Has the thread compute as IEEE 754 says while it lives: XLA's threads take tiny numbers for 0,
// which changes the bits of scores.
class IeeeFloats {
 public:
  IeeeFloats(const IeeeFloats&) = delete;
  IeeeFloats& operator=(const IeeeFloats&) = delete;
#if defined(__x86_64__)
  IeeeFloats() : saved_(_mm_getcsr()) { _mm_setcsr(kDefault); }
  ~IeeeFloats() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kDefault = 0x1F80;  // to nearest, exceptions masked, nothing flushed
  const unsigned saved_;
#elif defined(__aarch64__)
  IeeeFloats() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(uint64_t{0}));
  }
  ~IeeeFloats() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#else
  IeeeFloats() {}
#endif
};

}  // namespace phoenix
