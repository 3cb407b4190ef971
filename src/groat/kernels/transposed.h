// Gradients in int8 by AVX512-VNNI: the weights become tiles of W' that are rounded along the outputs.

#pragma once

#include "tile_products.h"

#include <memory>

namespace {

// Turns eight numbers that lie at the same place of eight vectors.
inline void hadamard_of_eight(__m512 v[8]) {
#pragma GCC unroll 3
  for (int step = 1; step < 8; step *= 2)
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
      if (!(i & step)) add_and_subtract(v[i], v[i + step]);
}

// Tiles of W', of blocks of 64 outputs, turned and rounded along the outputs. `weights.read(output, input, take)` calls
// `take(i, eight)` with 16 inputs of outputs i to i + 7 of 64, zeros for those that are not there; `weights.fetch` asks for what
// 32 outputs have for 32 inputs.
struct TransposedTiles : MadeTiles<float> {
  // Tile `number`: 32 inputs from `input`, blocks from `output`.
  template <class Weights>
  void fill(int number, const Weights& weights, long input, long output, long blocks) {
    __m512 v[BLOCK];
    for (long block = 0; block < blocks; block++)
      for (int half = 0; half < TILE_OUTPUTS; half += 16) {
        for (int line = 0; line < 16; line += 2) weights.fetch(output + (block + 1) * BLOCK + 2 * half, input, line);
        weights.read(output + block * BLOCK, input + half, [&](long first, __m512 eight[8]) {
          hadamard_of_eight(eight);
          for (int i = 0; i < 8; i++) v[first + i] = eight[i];
        });
        round(v, largest_turned(v), number, block, half);
      }
  }

  // Turns 64 vectors, eight times as large as the orthogonal matrix makes them, whose eights have been turned among themselves; and
  // finds the largest magnitude of each lane.
  static __m512 largest_turned(__m512* v) {
    constexpr int LARGER_MAGNITUDE = 0b1011;
    __m512 most = _mm512_setzero_ps();
    for (int place = 0; place < 8; place++) {
      __m512 eight[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) eight[i] = v[8 * i + place];
      hadamard_of_eight(eight);
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) {
        most = _mm512_range_ps(most, eight[i], LARGER_MAGNITUDE);
        v[8 * i + place] = eight[i];
      }
    }
    return most;
  }

  // 16 inputs from `place` on, a lane each.
  void round(const __m512* v, __m512 most, int number, long block, int place) {
    const __m512 scale = _mm512_mul_ps(most, _mm512_set1_ps(1.0f / (127.0f * 8.0f)));
    _mm512_storeu_ps(scales[number] + block * TILE_OUTPUTS + place, scale);
    const __mmask16 present = _mm512_cmp_ps_mask(most, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512 steps = _mm512_maskz_div_ps(present, _mm512_set1_ps(127.0f), most);
    uint8_t* to = values[number] + block * BLOCK_BYTES + place * GROUP;
    // Adding 1.5 * 2^23 rounds to the nearest whole number, and leaves that in the last bits. What else it leaves is taken off
    // before, and 128 are added to each byte; none of them overflows.
    constexpr uint32_t LEFT = 0x4B400000;
    constexpr int32_t begin = int32_t(0x80808080 - LEFT - (LEFT << 8));
    for (int group = 0; group < BLOCK / GROUP; group++) {
      __m512i bytes = _mm512_set1_epi32(begin);
#pragma GCC unroll 4
      for (int i = 0; i < GROUP; i++) {
        const __m512i whole = _mm512_castps_si512(_mm512_fmadd_ps(v[group * GROUP + i], steps, _mm512_set1_ps(12582912.0f)));
        bytes = _mm512_add_epi32(bytes, _mm512_slli_epi32(whole, 8 * i));
      }
      _mm512_store_si512(to + group * TILE_OUTPUTS * GROUP, bytes);
    }
  }
};

// out[rows, width] = g W from rounded rows of g, of whole blocks of inputs: tiles of W' are made for as many rows as there are.
// `finish(rows, out, out_stride)` gets some rows of a block of them when they are complete.
template <class Weights, class Finish>
void multiply_transposed(const Weights& weights, const RoundedRows& left, float* out, long out_stride, long rows, long width,
                         const Finish& finish, int threads) {
  const long blocks = blocks_of(weights.outputs);
  by_workers(threads, [&](const Worker& worker) {
    const std::unique_ptr<TransposedTiles> made(new TransposedTiles);
    [[maybe_unused]] const MatrixTiles matrix_tiles;
    // Blocks of g that stay in the cache meet all tiles before the next ones come.
    for (long block = 0; block < blocks; block += TransposedTiles::BLOCKS) {
      const long depth = std::min(TransposedTiles::BLOCKS, blocks - block);
      worker.each(width / BLOCK, [&](long number) {
        const long input = number * BLOCK;
        for (int i = 0; i < 2; i++) made->fill(i, weights, input + i * TILE_OUTPUTS, block * BLOCK, depth);
        const TileProduct<float> right{made->values[0], made->scales[0], depth, 1, TransposedTiles::BLOCKS,
                                       nullptr, BLOCK, block > 0, nullptr};
        multiply(right, left.at(0, block), rows, out + input, out_stride, [&](long, long some, float* to, long stride) {
          if (block + depth == blocks) finish(some, to, stride);
        });
      });
    }
  });
}

}  // namespace
