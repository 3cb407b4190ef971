// Products in int8 on x86 CPUs with AVX2 and no VNNI: what is multiplied comes as 16 bits, two products at a time are added
// up to 32, and that is done twice as fast as in fp32. The same whole numbers as by VNNI, scaled and added up in the same
// order.

#pragma once

#include "rounded.h"

#include <immintrin.h>

#include <algorithm>

namespace {

constexpr int ROWS_AT_ONCE = 6;  // whose sums in int32 are held in registers
constexpr int EIGHT = 8;         // outputs of them
constexpr int BLOCK_VECS = BLOCK / LANES;
static_assert(LANES == EIGHT);

inline void add_and_subtract(Vec& a, Vec& b) {
  const Vec sum = a + b;
  b = a - b;
  a = sum;
}

// Steps in the order in which 512 bits take them.
inline void hadamard(Vec v[BLOCK_VECS]) {
  for (int step : {2, 4, 1})
#pragma GCC unroll 8
    for (int i = 0; i < BLOCK_VECS; i++)
      if (!(i & step)) add_and_subtract(v[i], v[i + step]);
  const IntVec lanes = lane_numbers();
#pragma GCC unroll 3
  for (int step = LANES / 2; step; step /= 2) {  // the sum in the lower lane, the difference in the other
    const Vec signs = (lanes & step) != 0 ? splat(-1.0f) : splat(1.0f);
    for (int i = 0; i < BLOCK_VECS; i++) v[i] = v[i] * signs + __builtin_shuffle(v[i], lanes ^ step);
  }
}

inline int32_t sum_of_lanes(__m256i numbers) {
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
}

// Sixteen numbers rounded to 16 bits.
inline __m256i rounded_sixteen(Vec first, Vec second) {
  const __m256i halves = _mm256_packs_epi32(_mm256_cvtps_epi32((__m256)first), _mm256_cvtps_epi32((__m256)second));
  return _mm256_permute4x64_epi64(halves, 0xD8);  // packing goes by lanes of eight
}

// Of every eight numbers, those at even places first.
inline __m256i paired(__m256i values) {
  const __m128i places = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  return _mm256_shuffle_epi8(values, _mm256_broadcastsi128_si256(places));
}

// One block or two, put in order and rounded to 127 steps either side of zero: the first ones of `to`, to one scale.
template <int BLOCKS>
inline void round_blocks(const float* from, long count, Order order, const RoundedRows& to) {
  Vec v[BLOCK_VECS * BLOCKS];
  for (int i = 0; i < BLOCK_VECS * BLOCKS; i++) v[i] = load_part(from + i * LANES, count - i * LANES);
  for (int block = 0; order == Order::TURNED && block < BLOCKS; block++) hadamard(v + block * BLOCK_VECS);
  const float most = largest_magnitude(BLOCK_VECS * BLOCKS, [&](long i) { return v[i]; });
  if (__builtin_expect(!std::isfinite(most), false)) {  // so that the product is not one either, and the step is noticed
    for (int block = 0; block < BLOCKS; block++) std::fill_n(to.values + block * SIXTEEN * BLOCK, BLOCK, Rounded(0));
    *to.scales = NAN, *to.excess = 0;
    return;
  }
  const Vec steps = splat(most > 0 ? 127.0f / most : 0.0f);
  __m256i total = _mm256_setzero_si256();
  for (int i = 0; i < BLOCK_VECS * BLOCKS; i += 2) {
    const __m256i whole = rounded_sixteen(v[i] * steps, v[i + 1] * steps);
    total = _mm256_add_epi32(total, _mm256_madd_epi16(whole, _mm256_set1_epi16(1)));
    Rounded* values = to.values + i / BLOCK_VECS * SIXTEEN * BLOCK + i % BLOCK_VECS * LANES;
    _mm256_store_si256(reinterpret_cast<__m256i*>(values), order == Order::PAIRED ? paired(whole) : whole);
  }
  *to.scales = most / (order == Order::TURNED ? 127.0f * 8.0f : 127.0f);
  *to.excess = -128 * sum_of_lanes(total);
}

inline Vec scales_of(const uint16_t* from) { return from_bfloat16s(from); }
inline Vec scales_of(const float* from) { return load(from); }

inline __m256i four_of(const Rounded* from) {
  int64_t four;
  std::memcpy(&four, from, sizeof four);
  return _mm256_set1_epi64x(four);
}

// Adds the products of 16 numbers each, two by two. Written out because compilers otherwise put many products before the
// sums, and have no registers for them. CPUs with AVX-VNNI have one instruction for it (not run on such a CPU yet).
inline void add_products(__m256i& sums, __m256i left, __m256i right) {
#if defined(__AVXVNNI__)
  sums = _mm256_dpwssd_avx_epi32(sums, left, right);
#else
  __m256i products;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sums), "=&x"(products) : "x"(left), "x"(right));
#endif
}

// ROWS rows of a sixteen times eight outputs of a tile.
template <int ROWS, class Scale>
__attribute__((noinline)) void multiply_eight(const TileProduct<Scale>& right, const RoundedRows& left, int output, float* out,
                                              long out_stride) {
  const uint8_t* tile = right.values + output * GROUP;
  const Scale* scales = right.scales + output;
  const __m256i zero = _mm256_setzero_si256();
  Vec sums[ROWS] = {};
  for (long block = 0, place = 0; block < right.blocks; place += SIXTEEN, scales += TILE_OUTPUTS) {
    __m256i wholes[ROWS][2];  // of four outputs each, two of the eight side by side: sums of even pairs and of odd ones
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++) wholes[row][0] = wholes[row][1] = zero;
    for (const long end = std::min(right.blocks, block + right.scaled); block < end; block++, tile += BLOCK_BYTES) {
      right.prefetch(block, output / EIGHT);
      const Rounded* values = left.values + block * SIXTEEN * BLOCK;
#pragma GCC unroll 16
      for (int group = 0; group < BLOCK / GROUP; group++) {
        const __m256i bytes =
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + group * TILE_OUTPUTS * GROUP));
        const __m256i first = _mm256_unpacklo_epi8(bytes, zero), second = _mm256_unpackhi_epi8(bytes, zero);
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++) {
          const __m256i four = four_of(values + row * BLOCK + group * GROUP);
          add_products(wholes[row][0], first, four);
          add_products(wholes[row][1], second, four);
        }
      }
    }
    const Vec factors = scales_of(scales);
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++) {
      const __m256i whole = _mm256_add_epi32(_mm256_hadd_epi32(wholes[row][0], wholes[row][1]),
                                             _mm256_set1_epi32(left.excess[place + row]));
      sums[row] = multiply_add((Vec)_mm256_cvtepi32_ps(whole), factors * splat(left.scales[place + row]), sums[row]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; row++) store_sums(sums[row], right, output, out + row * out_stride);
}

// ROWS rows of a sixteen times one tile.
template <int ROWS, class Scale>
void multiply_rows(const TileProduct<Scale>& right, const RoundedRows& left, float* out, long out_stride) {
  for (int output = 0; output < TILE_OUTPUTS; output += EIGHT)
    multiply_eight<ROWS>(right, left, output, out, out_stride);
}

// The same by their number.
template <class Scale>
constexpr decltype(&multiply_rows<1, Scale>) rows_products[] = {nullptr,
                                                                multiply_rows<1, Scale>,
                                                                multiply_rows<2, Scale>,
                                                                multiply_rows<3, Scale>,
                                                                multiply_rows<4, Scale>,
                                                                multiply_rows<5, Scale>,
                                                                multiply_rows<6, Scale>};
static_assert(ROWS_AT_ONCE == 6);

template <class Scale, class Finish>
void multiply_tiles(const TileProduct<Scale>& right, const RoundedRows& left, long rows, float* out, long out_stride,
                    const Finish& finish) {
  for (int number = 0; number < right.tiles(); number++) {
    TileProduct<Scale> here = right.tile(number);
    each_few_rows<ROWS_AT_ONCE>(rows, [&](long row, long size) {
      rows_products<Scale>[size](here, left.at(row, 0), out + row * out_stride + number * TILE_OUTPUTS, out_stride);
      here.next = nullptr;  // the first rows have asked for it
    });
  }
  finish(0, rows, out, out_stride);
}

}  // namespace
