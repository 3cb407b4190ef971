// Keys and values as they are kept: fp32, or int8 with a scale for each head of a token.

#pragma once

#include "kernels.h"
#include "vectors.h"

#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

typedef int8_t Bytes __attribute__((vector_size(LANES)));

// As many bytes as there are lanes become whole numbers; compilers do it a lane at a time if they are not told how.
inline IntVec widened(const int8_t* from) {
#if defined(__AVX512F__)
  return (IntVec)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__AVX2__)
  return (IntVec)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#else
  Bytes part;
  std::memcpy(&part, from, LANES);
  return __builtin_convertvector(part, IntVec);
#endif
}

inline IntVec load_part(const int8_t* from, long count) {
  if (count >= LANES) return widened(from);
  int8_t part[LANES] = {};
  std::memcpy(part, from, count);
  return widened(part);
}

inline void store_part(int8_t* to, long count, IntVec part) {
#if defined(__AVX512F__)
  if (count >= LANES) return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8((__m512i)part));
#endif
  const Bytes bytes = __builtin_convertvector(part, Bytes);
  if (count >= LANES) std::memcpy(to, &bytes, LANES);
  else std::memcpy(to, &bytes, count);
}

// What a head's numbers stand for: those in int8 for themselves times their scale.
inline Vec exact(Vec number, float) { return number; }
inline Vec exact(IntVec number, float scale) { return __builtin_convertvector(number, Vec) * scale; }

// A head rounded to so many steps either side of zero. If its numbers are not all finite the scale is NaN, so that what is
// computed with them is not finite either, and the step is noticed.
class RoundedHead {
 public:
  RoundedHead(const float* head, long size, float most_steps = 127.0f) : head(head), size(size) {
    const float largest = largest_magnitude((size + LANES - 1) / LANES, [&](long i) {
      return load_part(head + i * LANES, size - i * LANES);
    });
    is_finite = std::isfinite(largest);
    scale = is_finite ? largest / most_steps : std::numeric_limits<float>::quiet_NaN();
    steps = is_finite && largest > 0 ? most_steps / largest : 0.0f;
  }

  // The numbers from a column on, in steps.
  IntVec part(long column) const {
    if (!is_finite) return IntVec{};
    // Adding 1.5 * 2^23 rounds to the nearest whole number, and leaves that in the last bits.
    return (IntVec)(load_part(head + column, size - column) * steps + 12582912.0f) - 0x4B400000;
  }

  float scale;

 private:
  const float* head;
  long size;
  bool is_finite;
  float steps;
};

}  // namespace
