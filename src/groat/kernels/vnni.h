// Products in int8 on x86 CPUs with AVX512-VNNI: one instruction multiplies 64 bytes and adds them up by fours.
//
// It takes one side unsigned and one signed. Weights come as value + 128; the 128 times the sum of a row's block that this
// adds is taken off before the block begins.

#pragma once

#include "avx512.h"

namespace {

constexpr int ROWS_AT_ONCE = 6;  // their sums, in int32 and in fp32, fill the 32 registers

// ROWS rows of a sixteen times one tile.
template <int ROWS, class Scale>
void multiply_rows(const TileProduct<Scale>& right, const RoundedRows& left, float* out, long out_stride) {
  const uint8_t* tile = right.values;
  const Scale* scales = right.scales;
  __m512 sums[ROWS][2];
  for (int row = 0; row < ROWS; row++) sums[row][0] = sums[row][1] = _mm512_setzero_ps();
  for (long block = 0, place = 0; block < right.blocks; place += SIXTEEN, scales += TILE_OUTPUTS) {
    __m512i wholes[ROWS][2];
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++)
      wholes[row][0] = wholes[row][1] = _mm512_set1_epi32(left.excess[place + row]);
    for (const long end = std::min(right.blocks, block + right.scaled); block < end; block++, tile += BLOCK_BYTES) {
      for (int quarter = 0; quarter < 4; quarter++) right.prefetch(block, quarter);
      const int8_t* values = left.values + block * SIXTEEN * BLOCK;
#pragma GCC unroll 4
      for (int group = 0; group < BLOCK / GROUP; group++) {
        const __m512i first = _mm512_loadu_si512(tile + group * TILE_OUTPUTS * GROUP);
        const __m512i second = _mm512_loadu_si512(tile + group * TILE_OUTPUTS * GROUP + 64);
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++) {
          const __m512i four = four_of(values + row * BLOCK + group * GROUP);
          wholes[row][0] = _mm512_dpbusd_epi32(wholes[row][0], first, four);
          wholes[row][1] = _mm512_dpbusd_epi32(wholes[row][1], second, four);
        }
      }
    }
    const __m512 factors[2] = {scales_of(scales), scales_of(scales + 16)};
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++) {
      const __m512 scale = _mm512_set1_ps(left.scales[place + row]);
      for (int half = 0; half < 2; half++)
        sums[row][half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(wholes[row][half]), _mm512_mul_ps(factors[half], scale),
                                          sums[row][half]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; row++)
    for (int half = 0; half < 2; half++) store_sums((Vec)sums[row][half], right, 16 * half, out + row * out_stride);
}

}  // namespace
