// Gradients in int8 by AVX512-VNNI: the weights become tiles of W' that are rounded along the outputs.

#pragma once

#include "tile_products.h"

#include <memory>

namespace {

// Turns 64 numbers that lie at the same place of 64 vectors, eight times as large as the orthogonal matrix makes them.
inline void hadamard_across(__m512* v) {
  for (int stride : {1, 8})
    for (int i = 0; i < BLOCK; i += 8) {
      __m512* first = stride == 1 ? v + i : v + i / 8;
      __m512 eight[8];
#pragma GCC unroll 8
      for (int k = 0; k < 8; k++) eight[k] = first[k * stride];
#pragma GCC unroll 3
      for (int step = 1; step < 8; step *= 2)
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++)
          if (!(k & step)) add_and_subtract(eight[k], eight[k + step]);
#pragma GCC unroll 8
      for (int k = 0; k < 8; k++) first[k * stride] = eight[k];
    }
}

// Tiles of W', of blocks of 64 outputs, turned and rounded along the outputs. `weights.read(output, input, v)` puts 16 inputs of 64
// outputs into 64 vectors; outputs that are not there are zeros.
struct TransposedTiles : MadeTiles<uint16_t> {
  // Tile `number`: 32 inputs from `input`, blocks from `output`.
  template <class Weights>
  void fill(int number, const Weights& weights, long input, long output, long blocks) {
    __m512 v[BLOCK];
    for (long block = 0; block < blocks; block++)
      for (int half = 0; half < TILE_OUTPUTS; half += 16) {
        weights.read(output + block * BLOCK, input + half, v);
        hadamard_across(v);
        round(v, number, block, half);
      }
  }

  // 16 inputs from `place` on, a lane each.
  void round(const __m512* v, int number, long block, int place) {
    __m512 most = _mm512_setzero_ps();
    for (int i = 0; i < BLOCK; i++) most = _mm512_max_ps(most, _mm512_abs_ps(v[i]));
    // The next bf16 number that is not smaller.
    const __m512i bits = _mm512_castps_si512(_mm512_mul_ps(most, _mm512_set1_ps(1.0f / (127.0f * 8.0f))));
    const __m512i above = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0xFFFF)), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(scales[number] + block * TILE_OUTPUTS + place), _mm512_cvtepi32_epi16(above));
    const __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(above, 16));
    const __mmask16 present = _mm512_cmp_ps_mask(scale, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512 steps = _mm512_maskz_div_ps(present, _mm512_set1_ps(0.125f), scale);
    uint8_t* to = values[number] + block * BLOCK_BYTES + place * GROUP;
    for (int group = 0; group < BLOCK / GROUP; group++) {
      __m512i bytes = _mm512_set1_epi32(int(0x80808080));  // 128 in each; none of them overflows
#pragma GCC unroll 4
      for (int i = 0; i < GROUP; i++) {
        const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(v[group * GROUP + i], steps));
        bytes = _mm512_add_epi32(bytes, _mm512_slli_epi32(whole, 8 * i));
      }
      _mm512_store_si512(to + group * TILE_OUTPUTS * GROUP, bytes);
    }
  }
};

// out[rows, width] = g W from rounded rows of g: tiles of W' are made for as many rows as there are.
template <class Weights>
void multiply_transposed(const Weights& weights, const RoundedRows& left, float* out, long out_stride, long rows, long width,
                         int threads) {
  const long blocks = blocks_of(weights.outputs);
  by_workers(threads, [&](const Worker& worker) {
    const std::unique_ptr<TransposedTiles> made(new TransposedTiles);
    [[maybe_unused]] const MatrixTiles matrix_tiles;
    // Blocks of g that stay in the cache meet all tiles before the next ones come.
    for (long block = 0; block < blocks; block += TransposedTiles::BLOCKS) {
      const long depth = std::min(TransposedTiles::BLOCKS, blocks - block);
      each_two_tiles(worker, 1, width / TILE_OUTPUTS, [&](long, long tile, long count) {
        const long input = tile * TILE_OUTPUTS;
        for (int i = 0; i < count; i++) made->fill(i, weights, input + i * TILE_OUTPUTS, block * BLOCK, depth);
        const TileProduct<uint16_t> right{made->values[0], made->scales[0], depth, 1, TransposedTiles::BLOCKS,
                                          nullptr, int(count * TILE_OUTPUTS), block > 0, nullptr};
        multiply(right, left.at(0, block), rows, out + input, out_stride, [](long, long, float*, long) {});
      });
    }
  });
}

}  // namespace
