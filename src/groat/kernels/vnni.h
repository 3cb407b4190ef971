// What all products in int8 share, on x86 CPUs with AVX512-VNNI: one instruction multiplies 64 bytes and adds them up by
// fours.
//
// It takes one side unsigned and one signed. Weights come as value + 128; the 128 times the sum of a row's block that this
// adds is taken off before the block begins.

#pragma once

#include "amx.h"
#include "rounded.h"
#include "workers.h"

#include <memory>

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
    for (int half = 0; half < 2; half++) store_sums(sums[row][half], right, half, out + row * out_stride);
}

// Where part `part` of `parts` equal ones begins.
inline long cut(long whole, long part, long parts) { return whole * part / parts; }

template <class Scale>
void multiply_tile(const TileProduct<Scale>& right, const RoundedRows& left, long rows, float* out, long out_stride) {
  typedef void (*Product)(const TileProduct<Scale>&, const RoundedRows&, float*, long);
  constexpr Product by_rows[] = {nullptr,
                                 multiply_rows<1, Scale>,
                                 multiply_rows<2, Scale>,
                                 multiply_rows<3, Scale>,
                                 multiply_rows<4, Scale>,
                                 multiply_rows<5, Scale>,
                                 multiply_rows<6, Scale>};
  TileProduct<Scale> here = right;
  for (long row = multiply_strips(right, left, rows, out, out_stride); row < rows; row += SIXTEEN) {
    const long present = std::min(SIXTEEN, rows - row), parts = (present + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    for (long part = 0; part < parts; part++) {
      const long first = row + cut(present, part, parts), size = row + cut(present, part + 1, parts) - first;
      if (first) here.next = nullptr;  // the first rows have asked for it
      by_rows[size](here, left.at(first, 0), out + first * out_stride, out_stride);
    }
  }
}

// Rows as a product reads them; those that are missing in the last sixteen have the scale 0.
inline void round_rows(const float* from, long stride, long rows, long columns, Order order, const RoundedRows& to,
                       int threads) {
  in_parallel(rows, rows * to.blocks > 16 ? threads : 1, [&](long row) {
    const float* here = from + row * stride;
    for (long block = 0; block < to.blocks; block += to.scaled) {
      const RoundedRows place = to.at(row, block);
      if (to.scaled == PAIR && block + 1 < to.blocks)
        round_blocks<PAIR>(here + block * BLOCK, columns - block * BLOCK, order, place);
      else
        round_blocks<1>(here + block * BLOCK, columns - block * BLOCK, order, place);
    }
  });
  for (long row = rows; row < sixteens_of(rows) * SIXTEEN; row++)
    for (long block = 0; block < to.blocks; block += to.scaled)
      *to.at(row, block).scales = 0, *to.at(row, block).excess = 0;
}

// A tile that is made when it is needed; of so many blocks at most, since more would not stay in the cache.
template <class Scale>
struct MadeTile {
  static constexpr long BLOCKS = 64;
  alignas(64) uint8_t values[BLOCKS * BLOCK_BYTES];
  alignas(64) Scale scales[BLOCKS * TILE_OUTPUTS];
};

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

// A tile of W', of 32 inputs from `input` and blocks of 64 outputs from `output`, turned and rounded along the outputs.
// `weights.read(output, input, v)` puts 16 inputs of 64 outputs into 64 vectors; outputs that are not there are zeros.
struct TransposedTile : MadeTile<uint16_t> {
  template <class Weights>
  void fill(const Weights& weights, long input, long output, long blocks) {
    __m512 v[BLOCK];
    for (long block = 0; block < blocks; block++)
      for (int half = 0; half < TILE_OUTPUTS; half += 16) {
        weights.read(output + block * BLOCK, input + half, v);
        hadamard_across(v);
        round(v, block, half);
      }
  }

  // 16 inputs from `place` on, a lane each.
  void round(const __m512* v, long block, int place) {
    __m512 most = _mm512_setzero_ps();
    for (int i = 0; i < BLOCK; i++) most = _mm512_max_ps(most, _mm512_abs_ps(v[i]));
    // The next bf16 number that is not smaller.
    const __m512i bits = _mm512_castps_si512(_mm512_mul_ps(most, _mm512_set1_ps(1.0f / (127.0f * 8.0f))));
    const __m512i above = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0xFFFF)), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(scales + block * TILE_OUTPUTS + place), _mm512_cvtepi32_epi16(above));
    const __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(above, 16));
    const __mmask16 present = _mm512_cmp_ps_mask(scale, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512 steps = _mm512_maskz_div_ps(present, _mm512_set1_ps(0.125f), scale);
    uint8_t* to = values + block * BLOCK_BYTES + place * GROUP;
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

// out[rows, width] = g W from rounded rows of g: a tile of W' is made for as many rows as there are.
template <class Weights>
void multiply_transposed(const Weights& weights, const RoundedRows& left, float* out, long out_stride, long rows, long width,
                         int threads) {
  const long blocks = blocks_of(weights.outputs);
  by_workers(threads, [&](const Worker& worker) {
    const std::unique_ptr<TransposedTile> tile(new TransposedTile);
    const MatrixTiles tiles;
    // Blocks of g that stay in the cache meet all tiles before the next ones come.
    for (long block = 0; block < blocks; block += TransposedTile::BLOCKS) {
      const long count = std::min(TransposedTile::BLOCKS, blocks - block);
      worker.each(width / TILE_OUTPUTS, [&](long number) {
        const long input = number * TILE_OUTPUTS;
        tile->fill(weights, input, block * BLOCK, count);
        const TileProduct<uint16_t> right{tile->values, tile->scales, count, 1, nullptr, TILE_OUTPUTS, block > 0,
                                           nullptr};
        multiply_tile(right, left.at(0, block), rows, out + input, out_stride);
      });
    }
  });
}

}  // namespace
