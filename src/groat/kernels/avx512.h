// Rounding activations, and what products do with scales and sums, by vectors of 512 bits.

#pragma once

#include "rounded.h"

#include <immintrin.h>

#include <algorithm>

namespace {

inline void add_and_subtract(__m512& a, __m512& b) {
  const __m512 sum = _mm512_add_ps(a, b);
  b = _mm512_sub_ps(a, b);
  a = sum;
}

inline void hadamard(__m512 v[4]) {
  add_and_subtract(v[0], v[1]), add_and_subtract(v[2], v[3]);
  add_and_subtract(v[0], v[2]), add_and_subtract(v[1], v[3]);
  const __m512 one = _mm512_set1_ps(1.0f), minus = _mm512_set1_ps(-1.0f);
  const auto signs = [&](__mmask16 upper) { return _mm512_mask_blend_ps(upper, one, minus); };
  const __m512 eights = signs(0xFF00), fours = signs(0xF0F0), twos = signs(0xCCCC), ones = signs(0xAAAA);
  for (int i = 0; i < 4; i++) {  // lane l with lane l ^ 8, 4, 2, 1: the sum in the lower one, the difference in the other
    v[i] = _mm512_fmadd_ps(v[i], eights, _mm512_shuffle_f32x4(v[i], v[i], 0x4E));
    v[i] = _mm512_fmadd_ps(v[i], fours, _mm512_shuffle_f32x4(v[i], v[i], 0xB1));
    v[i] = _mm512_fmadd_ps(v[i], twos, _mm512_permute_ps(v[i], 0x4E));
    v[i] = _mm512_fmadd_ps(v[i], ones, _mm512_permute_ps(v[i], 0xB1));
  }
}

inline void load_block(const float* from, int count, __m512 v[4]) {
  for (int i = 0; i < 4; i++) {
    const int left = std::clamp(count - 16 * i, 0, 16);
    v[i] = _mm512_maskz_loadu_ps(__mmask16((1u << left) - 1), from + 16 * i);
  }
}

// The bits of the largest absolute value: as whole numbers they have the same order, with NaN above all.
template <int VECTORS>
inline int32_t largest_bits(const __m512* v) {
  __m512i most = _mm512_setzero_si512();
  for (int i = 0; i < VECTORS; i++) most = _mm512_max_epi32(most, _mm512_castps_si512(_mm512_abs_ps(v[i])));
  return _mm512_reduce_max_epi32(most);
}

// Of every eight bytes, those at even places first.
inline void pair(int8_t* values) {
  const __m512i places = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
  _mm512_storeu_si512(values, _mm512_shuffle_epi8(_mm512_loadu_si512(values), places));
}

// One block or two, put in order and rounded to 127 steps either side of zero: the first ones of `to`, to one scale.
template <int BLOCKS>
inline void round_blocks(const float* from, long count, Order order, const RoundedRows& to) {
  __m512 v[4 * BLOCKS];
  for (int block = 0; block < BLOCKS; block++) {
    load_block(from + block * BLOCK, int(std::clamp(count - block * BLOCK, 0L, long(BLOCK))), v + 4 * block);
    if (order == Order::TURNED) hadamard(v + 4 * block);
  }
  const int32_t bits = largest_bits<4 * BLOCKS>(v);
  if (__builtin_expect(bits >= 0x7F800000, false)) {  // so that the product is not one either, and the step is noticed
    for (int block = 0; block < BLOCKS; block++) std::memset(to.values + block * SIXTEEN * BLOCK, 0, BLOCK);
    *to.scales = NAN, *to.excess = 0;
    return;
  }
  float most;
  std::memcpy(&most, &bits, sizeof most);
  const __m512 steps = _mm512_set1_ps(most > 0 ? 127.0f / most : 0.0f);
  __m512i total = _mm512_setzero_si512();
  for (int block = 0; block < BLOCKS; block++) {
    __m512i whole[4];
    for (int i = 0; i < 4; i++) {
      whole[i] = _mm512_cvtps_epi32(_mm512_mul_ps(v[4 * block + i], steps));
      total = _mm512_add_epi32(total, whole[i]);
    }
    // Packing goes by lanes of four; they are put in order at the end.
    const __m512i halves = _mm512_packs_epi32(whole[0], whole[1]), others = _mm512_packs_epi32(whole[2], whole[3]);
    const __m512i order_of_fours = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    int8_t* values = to.values + block * SIXTEEN * BLOCK;
    _mm512_store_si512(values, _mm512_permutexvar_epi32(order_of_fours, _mm512_packs_epi16(halves, others)));
    if (order == Order::PAIRED) pair(values);
  }
  *to.scales = most / (order == Order::TURNED ? 127.0f * 8.0f : 127.0f);
  *to.excess = -128 * _mm512_reduce_add_epi32(total);
}

inline __m512 scales_of(const uint16_t* from) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

inline __m512 scales_of(const float* from) { return _mm512_loadu_ps(from); }

inline __m512i four_of(const int8_t* from) {
  int32_t four;
  std::memcpy(&four, from, sizeof four);
  return _mm512_set1_epi32(four);
}

}  // namespace
