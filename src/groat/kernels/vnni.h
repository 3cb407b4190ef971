// Products in int8 on x86 CPUs with AVX512-VNNI: one instruction multiplies 64 bytes and adds them up by fours.
//
// It takes one side unsigned and one signed. Weights come as value + 128; the 128 times the sum of a row's block that this
// adds is taken off before the block begins.

#pragma once

#include "avx512.h"

namespace {

constexpr int ROWS_AT_ONCE = 6;  // their sums of four vectors of outputs in int32 fill the registers

// Four bytes of a row times four of each of 16 outputs. Written out because compilers otherwise move many of them together,
// and have no registers for what they multiply.
inline void add_products(__m512i& sums, __m512i weights, __m512i four) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(four));
}

// sums[ROWS][TILES * TILE_OUTPUTS] += ROWS rows of a sixteen times TILES tiles: of these the blocks from `block` on that share a
// scale. Unless they have BEGUN, the sums begin. `left` begins with that row and block.
template <int ROWS, int TILES, bool BEGUN, class Scale>
__attribute__((noinline)) void multiply_rows(const TileProduct<Scale>& right, const RoundedRows& left, long block,
                                             float* sums) {
  constexpr int VECTORS = 2 * TILES;
  const long apart = right.apart * BLOCK_BYTES, end = std::min(right.blocks, block + right.scaled);
  __m512i wholes[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS; i++) wholes[row][i] = _mm512_set1_epi32(left.excess[row]);
  const int8_t* values = left.values;
  const uint8_t* tile = right.values + block * BLOCK_BYTES;
  for (long number = block; number < end; number++, tile += BLOCK_BYTES, values += SIXTEEN * BLOCK) {
    for (int i = 0; right.next && i < TILES; i++) prefetch_weights<BLOCK_BYTES>(right.next + i * apart + number * BLOCK_BYTES);
#pragma GCC unroll 1
    for (int group = 0; group < BLOCK / GROUP; group++) {
      __m512i weights[VECTORS];
#pragma GCC unroll 4
      for (int i = 0; i < VECTORS; i++)
        weights[i] = _mm512_loadu_si512(tile + i / 2 * apart + group * TILE_OUTPUTS * GROUP + i % 2 * 64);
#pragma GCC unroll 8
      for (int row = 0; row < ROWS; row++) {
        const __m512i four = four_of(values + row * BLOCK + group * GROUP);
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++) add_products(wholes[row][i], weights[i], four);
      }
    }
  }
  __m512 factors[VECTORS];
#pragma GCC unroll 4
  for (int i = 0; i < VECTORS; i++) factors[i] = scales_of(right.scales_from(block) + i / 2 * right.scales_apart() + i % 2 * 16);
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; row++) {
    const __m512 scale = _mm512_set1_ps(left.scales[row]);
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS; i++) {
      float* sum = sums + row * TILES * TILE_OUTPUTS + i * 16;
      const __m512 before = BEGUN ? _mm512_load_ps(sum) : _mm512_setzero_ps();
      _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_cvtepi32_ps(wholes[row][i]), _mm512_mul_ps(factors[i], scale), before));
    }
  }
}

// The same by their number.
template <int TILES, bool BEGUN, class Scale>
constexpr decltype(&multiply_rows<1, TILES, BEGUN, Scale>) rows_products[] = {nullptr,
                                                                              multiply_rows<1, TILES, BEGUN, Scale>,
                                                                              multiply_rows<2, TILES, BEGUN, Scale>,
                                                                              multiply_rows<3, TILES, BEGUN, Scale>,
                                                                              multiply_rows<4, TILES, BEGUN, Scale>,
                                                                              multiply_rows<5, TILES, BEGUN, Scale>,
                                                                              multiply_rows<6, TILES, BEGUN, Scale>};
static_assert(ROWS_AT_ONCE == 6);

// All rows meet the blocks that share a scale before the next ones come: these and the sums stay in the first cache. So do
// they while `finish(row, rows, out, out_stride)` adds to them.
template <int TILES, class Scale, class Finish>
void multiply_all_rows(TileProduct<Scale> right, const RoundedRows& left, long rows, float* out, long out_stride,
                       const Finish& finish) {
  constexpr long ROWS_WITH_SUMS = 2 * SIXTEEN, WIDTH = TILES * TILE_OUTPUTS;
  alignas(64) float sums[ROWS_WITH_SUMS][WIDTH];
  for (long start = 0; start < rows; start += ROWS_WITH_SUMS, right.next = nullptr) {
    const long here = std::min(ROWS_WITH_SUMS, rows - start);
    for (long block = 0; block < right.blocks; block += right.scaled) {
      TileProduct<Scale> once = right;  // the first rows ask for the next values
      each_few_rows<ROWS_AT_ONCE>(here, [&](long row, long size) {
        const auto multiply = block ? rows_products<TILES, true, Scale>[size] : rows_products<TILES, false, Scale>[size];
        multiply(once, left.at(start + row, block), block, sums[row]);
        once.next = nullptr;
      });
    }
    float* to = out + start * out_stride;
    if (right.bias || right.add)
      for (long row = 0; row < here; row++)
        for (int i = 0; i < WIDTH; i += LANES)
          store(sums[row] + i, completed(load(sums[row] + i), right, i, to + row * out_stride));
    finish(start, here, sums[0], WIDTH);
    for (long row = 0; row < here; row++)
      for (int i = 0; i < WIDTH; i += LANES)
        store_part(to + row * out_stride + i, right.width - i, load(sums[row] + i));
  }
}

template <class Scale, class Finish>
void multiply_tiles(const TileProduct<Scale>& right, const RoundedRows& left, long rows, float* out, long out_stride,
                    const Finish& finish) {
  if (right.tiles() == 2)
    multiply_all_rows<2>(right, left, rows, out, out_stride, finish);
  else
    multiply_all_rows<1>(right, left, rows, out, out_stride, finish);
}

}  // namespace
