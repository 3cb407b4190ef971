// Vectors of fp32 as wide as the machine it is compiled on has them, by the compiler's extensions.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

// For memory that begins where a line of the cache does.
struct alignas(64) CacheLine {
  float floats[16];
  static long holding(long count) { return (count + 15) / 16; }
};

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t IntVec __attribute__((vector_size(LANES * 4)));
typedef float UnalignedVec __attribute__((vector_size(LANES * 4), aligned(4)));

inline Vec load(const float* from) { return *reinterpret_cast<const UnalignedVec*>(from); }
inline void store(float* to, Vec value) { *reinterpret_cast<UnalignedVec*>(to) = value; }
inline Vec splat(float value) { return value - Vec{}; }

// a b + c, rounded once where the machine can, in whatever the compiler makes of the code around it: it may round `a * b + c`
// once in one copy of a function and twice in another, and a row would hang on what it is batched with.
inline Vec multiply_add(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// 1 / x for x from 1 on, within two units in the last place up to 2^126; dividing sixteen numbers takes as long as thirty products.
inline Vec reciprocal(Vec x) {
#if defined(__AVX512F__)
  const Vec near = (Vec)_mm512_rcp14_ps((__m512)x);
  return multiply_add(near, multiply_add(-x, near, splat(1.0f)), near);
#else
  return 1.0f / x;
#endif
}

inline IntVec lane_numbers() {
  IntVec lanes;
  for (int lane = 0; lane < LANES; lane++) lanes[lane] = lane;
  return lanes;
}

// The first `count` numbers, and zeros behind them.
inline Vec load_part(const float* from, long count) {
  if (count >= LANES) return load(from);
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps(__mmask16((1u << std::max(count, 0L)) - 1), from);
#elif defined(__AVX__)
  return (Vec)_mm256_maskload_ps(from, (__m256i)(lane_numbers() < int32_t(std::max(count, 0L))));
#else
  Vec part = {};
  for (int lane = 0; lane < count; lane++) part[lane] = from[lane];
  return part;
#endif
}

inline void store_part(float* to, long count, Vec part) {
  if (count >= LANES) return store(to, part);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, __mmask16((1u << std::max(count, 0L)) - 1), (__m512)part);
#else
  for (int lane = 0; lane < count; lane++) to[lane] = part[lane];
#endif
}

inline float sum(Vec value) {
  const IntVec lanes = lane_numbers();
#pragma GCC unroll 4
  for (int step = LANES / 2; step; step /= 2) value += __builtin_shuffle(value, lanes ^ step);
  return value[0];
}

// The sum of each of LANES vectors, a lane each: pairs are added crosswise until one is left. Spoils them.
inline Vec sums_of(Vec* vectors) {
  const IntVec lanes = lane_numbers();
#pragma GCC unroll 4
  for (int step = LANES / 2; step; step /= 2) {
    const IntVec is_upper = (lanes & step) != 0;
    const IntVec same = is_upper ? lanes + LANES : lanes;                       // of the second vector in upper lanes
    const IntVec other = is_upper ? (lanes ^ step) + LANES : (lanes ^ step);
#pragma GCC unroll 8
    for (int i = 0; i < step; i++)
      vectors[i] = __builtin_shuffle(vectors[i], vectors[i + step], same) +
                   __builtin_shuffle(vectors[i], vectors[i + step], other);
  }
  return vectors[0];
}

// LANES / WIDTH rows of as many pieces, of WIDTH numbers each: rows become columns.
template <int WIDTH>
inline void turn(Vec* rows) {
  const IntVec lanes = lane_numbers();
#pragma GCC unroll 4
  for (int step = LANES / WIDTH / 2; step; step /= 2) {
    const IntVec is_upper = (lanes & WIDTH * step) != 0, across = lanes ^ WIDTH * step;
    const IntVec first = is_upper ? across + LANES : lanes, second = is_upper ? lanes + LANES : across;
#pragma GCC unroll 16
    for (int i = 0; i < LANES / WIDTH; i++)
      if (!(i & step)) {
        const Vec turned = __builtin_shuffle(rows[i], rows[i + step], second);
        rows[i] = __builtin_shuffle(rows[i], rows[i + step], first);
        rows[i + step] = turned;
      }
  }
}

inline int32_t largest_lane(IntVec numbers) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_epi32((__m512i)numbers);
#elif defined(__AVX2__)
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128((__m256i)numbers), _mm256_extracti128_si256((__m256i)numbers, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
#else
  int32_t largest = numbers[0];
  for (int lane = 1; lane < LANES; lane++) largest = std::max(largest, int32_t(numbers[lane]));
  return largest;
#endif
}

// Of so many vectors; NaN if one of their numbers is: as whole numbers, magnitudes have the same order, with NaN above all.
template <class Part>
inline float largest_magnitude(long count, const Part& part) {
  IntVec most = {};
  for (long i = 0; i < count; i++) {
    const IntVec here = (IntVec)part(i) & 0x7FFFFFFF;
    most = here > most ? here : most;
  }
  const int32_t bits = largest_lane(most);
  float largest;
  std::memcpy(&largest, &bits, sizeof largest);
  return largest;
}

inline float largest(const float* from, long count) {
  Vec highest = splat(-std::numeric_limits<float>::infinity());
  long i = 0;
  for (; i + LANES <= count; i += LANES) {
    const Vec here = load(from + i);
    highest = here > highest ? here : highest;
  }
  float maximum = -std::numeric_limits<float>::infinity();
  for (int lane = 0; lane < LANES; lane++) maximum = std::max(maximum, highest[lane]);
  for (; i < count; i++) maximum = std::max(maximum, from[i]);
  return maximum;
}

// e^x to about 1e-7 relative (Cephes' polynomial after range reduction); 0 below -87.
inline Vec exponential(Vec x) {
  const Vec low = splat(-87.3f), high = splat(88.3f);
  const IntVec vanishes = x < low;
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Vec shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
  const IntVec power = (IntVec)shifted - 0x4B400000;
  const Vec whole = shifted - 12582912.0f;
  x = x - whole * 0.693359375f;
  x = x + whole * 2.12194440e-4f;
  Vec y = splat(1.9875691500e-4f);
  y = y * x + 1.3981999507e-3f;
  y = y * x + 8.3334519073e-3f;
  y = y * x + 4.1665795894e-2f;
  y = y * x + 1.6666665459e-1f;
  y = y * x + 5.0000001201e-1f;
  y = y * x * x + x + 1.0f;
  const Vec scale = (Vec)((power + 127) << 23);
  return vanishes ? Vec{} : y * scale;
}

inline Vec sigmoid(Vec x) { return reciprocal(1.0f + exponential(-x)); }

}  // namespace
