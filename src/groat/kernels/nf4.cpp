// Products in int8 with weights in NF4: their codes become int8 tiles as they are needed.

#include "int8.h"

#if defined(MULTIPLIES_IN_INT8)
#include "adapter.h"
#include "bfloat16.h"
#include "vnni.h"
#include "workers.h"

namespace {

// The 16 values of the code as bytes, value + 128, in each 128-bit lane.
__m512i code_bytes(const float* code) {
  alignas(16) uint8_t bytes[16];
  for (int i = 0; i < 16; i++) bytes[i] = uint8_t(std::lround(code[i] * 127.0f) + 128);
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
}

struct CodedTile : MadeTile<float> {
  // 32 outputs from `output`, blocks from `first`; `bytes` are those of the code.
  void fill(const NF4Rows& weights, __m512i bytes, long output, long first, long blocks) {
    for (long block = 0; block < blocks; block++)
      for (int half = 0; half < TILE_OUTPUTS; half += 16) fill_half(weights, bytes, output + half, first + block, block, half);
  }

  void fill_half(const NF4Rows& weights, __m512i bytes, long output, long number, long block, int half) {
    const long row_blocks = weights.inputs / BLOCK, first = output * row_blocks + number;
    const int present = int(std::clamp(weights.outputs - output, 0L, 16L));
    for (int i = 0; i < 16; i++)
      scales[block * TILE_OUTPUTS + half + i] = i < present ? weights.scale(first + i * row_blocks) * (1 / 127.0f) : 0.0f;
    const uint8_t* rows[16];  // those that are not there get the scale 0: the first row's bytes will do
    for (int i = 0; i < 16; i++) rows[i] = weights.values + (i < present ? first + i * row_blocks : 0) * (BLOCK / 2);
    __m512i columns[8];
    gather(rows, columns);
    uint8_t* to = values + block * BLOCK_BYTES + half * GROUP;
    const __m512i low = _mm512_set1_epi8(15);
    for (int i = 0; i < 8; i++) {  // four bytes of each row: eight inputs, the even ones in the high halves
      const __m512i even = _mm512_and_si512(_mm512_srli_epi16(columns[i], 4), low), odd = _mm512_and_si512(columns[i], low);
      _mm512_store_si512(to + 2 * i * TILE_OUTPUTS * GROUP, _mm512_shuffle_epi8(bytes, even));
      _mm512_store_si512(to + (2 * i + 1) * TILE_OUTPUTS * GROUP, _mm512_shuffle_epi8(bytes, odd));
    }
  }

  // columns[i] = the i-th four bytes of all 16 rows.
  static void gather(const uint8_t* const rows[16], __m512i columns[8]) {
    __m512i fours[8];
    for (int i = 0; i < 8; i += 4) {  // rows 2 i to 2 i + 7: four of them in the lower halves, four in the upper ones
      __m512i pairs[4], halves[4];
      for (int k = 0; k < 4; k++) {
        const __m256i lower = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[2 * i + k]));
        const __m256i upper = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[2 * i + k + 4]));
        pairs[k] = _mm512_inserti64x4(_mm512_castsi256_si512(lower), upper, 1);
      }
      for (int k = 0; k < 4; k += 2) {
        halves[k] = _mm512_unpacklo_epi32(pairs[k], pairs[k + 1]);
        halves[k + 1] = _mm512_unpackhi_epi32(pairs[k], pairs[k + 1]);
      }
      for (int k = 0; k < 2; k++) {
        fours[i + 2 * k] = _mm512_unpacklo_epi64(halves[k], halves[k + 2]);
        fours[i + 2 * k + 1] = _mm512_unpackhi_epi64(halves[k], halves[k + 2]);
      }
    }
    for (int k = 0; k < 4; k++) {  // lanes of fours[k]: columns k and 4 + k, of the first four rows and of the next four
      columns[k] = _mm512_shuffle_i32x4(fours[k], fours[4 + k], 0x88);
      columns[4 + k] = _mm512_shuffle_i32x4(fours[k], fours[4 + k], 0xDD);
    }
  }
};

// The weights as `multiply_transposed` takes them.
struct Columns {
  const NF4Rows& rows;
  const long outputs = rows.outputs;
  const __m512 code = _mm512_loadu_ps(rows.code);

  void read(long output, long input, __m512* to) const {
    for (long i = 0; i < BLOCK; i++) to[i] = output + i < outputs ? sixteen(output + i, input) : _mm512_setzero_ps();
  }

  // Asks for an eighth of what 32 outputs have for 32 inputs, if that begins a line; `line` is even, up to 14.
  __attribute__((always_inline)) void fetch(long output, long input, long line) const {
    if (line >= 16 || input % 128) return;
    for (long row = output + 2 * line; row < std::min(outputs, output + 2 * line + 4); row++)
      __builtin_prefetch(rows.values + (row * rows.inputs + input) / 2, 0, 2);
  }

  // Inputs of an output.
  __m512 sixteen(long output, long input) const {
    const long place = output * rows.inputs + input;
    const __m128i pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(rows.values + place / 2));
    const __m128i low = _mm_set1_epi8(15), first = _mm_and_si128(_mm_srli_epi16(pairs, 4), low);
    const __m512i codes = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(first, _mm_and_si128(pairs, low)));
    const __m512 scale = _mm512_set1_ps(rows.scale(place / BLOCK));
    return _mm512_mul_ps(_mm512_permutexvar_ps(codes, code), scale);
  }
};

}  // namespace

void nf4_product(const NF4Rows& weights, const float* x, long x_stride, float* out, long out_stride, long rows,
                 const float* bias, const Adapter* adapter, void* scratch, int threads) {
  const long blocks = weights.inputs / BLOCK, tiles = (weights.outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
  const RoundedRows left(scratch, rows, blocks, 1);
  round_rows(x, x_stride, rows, weights.inputs, Order::PAIRED, left, threads);
  const __m512i bytes = code_bytes(weights.code);
  by_workers(threads, [&](const Worker& worker) {
    const std::unique_ptr<CodedTile> tile(new CodedTile);
    const MatrixTiles matrix_tiles;
    worker.each(tiles, [&](long number) {
      const long first = number * TILE_OUTPUTS;
      const int width = int(std::min(long(TILE_OUTPUTS), weights.outputs - first));
      for (long block = 0; block < blocks; block += CodedTile::BLOCKS) {
        const long count = std::min(CodedTile::BLOCKS, blocks - block);
        tile->fill(weights, bytes, first, block, count);
        const TileProduct<float> right{tile->values, tile->scales, count, 1, bias && !block ? bias + first : nullptr,
                                       width, block > 0, nullptr};
        multiply_tile(right, left.at(0, block), rows, out + first, out_stride);
      }
      if (adapter) add_adapter(*adapter, first, width, 0, rows, out + first, out_stride);
    });
  });
}

void nf4_straight_product(const NF4Rows& weights, const float* grad, long grad_stride, float* out, long out_stride,
                          long rows, const AdapterBackward* adapter, void* scratch, int threads) {
#if defined(MULTIPLIES_IN_BFLOAT16)
  if (multiplies_in_bfloat16()) {
    const ColumnTiles tiles{static_cast<float*>(scratch), rows, weights.inputs / TILE_OUTPUTS};
    adapted_product_in_halves(Columns{weights}, grad, grad_stride, tiles, adapter, false, tiles.end(), threads);
    return in_parallel(rows, threads, [&](long row) {
      for (long column = 0; column < weights.inputs; column += 16)
        _mm512_storeu_ps(out + row * out_stride + column, tiles.sixteen(row, column));
    });
  }
#endif
  const RoundedRows left(scratch, rows, blocks_of(weights.outputs), 1);
  round_rows(grad, grad_stride, rows, weights.outputs, Order::TURNED, left, threads);
  multiply_transposed(Columns{weights}, left, out, out_stride, rows, weights.inputs, threads);
}

#else

void nf4_product(const NF4Rows&, const float*, long, float*, long, long, const float*, const Adapter*, void*, int) {}
void nf4_straight_product(const NF4Rows&, const float*, long, float*, long, long, const AdapterBackward*, void*, int) {}

#endif
