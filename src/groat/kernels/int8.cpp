// Products in int8 with weights in int8.

#include "int8.h"

#include <algorithm>

#if defined(MULTIPLIES_IN_INT8)
#include "adapter.h"
#include "bfloat16.h"
#include "vnni.h"
#include "workers.h"

namespace {

constexpr long BYTES_IN_CACHE = 1 << 20;

// The weights as `multiply_transposed` takes them.
struct Columns {
  const Int8Tiles& tiles;
  const long outputs = tiles.outputs;

  void read(long output, long input, __m512* to) const {
    for (long part = 0; part < BLOCK; part += 16) {
      if (output + part < outputs)
        read_sixteen(output + part, input, to + part);
      else
        std::fill_n(to + part, 16, _mm512_setzero_ps());
    }
  }

  // Asks for lines `line` and the next of the sixteen that 32 outputs have for 32 inputs. Inlined, because compilers drop
  // calls of a function that does nothing else.
  __attribute__((always_inline)) void fetch(long output, long input, long line) const {
    if (line >= 16 || output >= outputs) return;
    const uint8_t* from = tiles.block(output / TILE_OUTPUTS, input / BLOCK) + input % BLOCK * TILE_OUTPUTS + line * 64;
    __builtin_prefetch(from, 0, 2), __builtin_prefetch(from + 64, 0, 2);
  }

  // 16 outputs of one tile, a vector each.
  void read_sixteen(long output, long input, __m512* to) const {
    const long tile = output / TILE_OUTPUTS, first = output % TILE_OUTPUTS, number = input / BLOCK;
    const uint8_t* from = tiles.block(tile, number) + (input % BLOCK / GROUP * TILE_OUTPUTS + first) * GROUP;
    __m512i groups[4], pairs[4];  // of each output four inputs, then eight, then sixteen
    const __m512i sign = _mm512_set1_epi8(int8_t(0x80));
    for (int i = 0; i < 4; i++) groups[i] = _mm512_xor_si512(_mm512_loadu_si512(from + i * TILE_OUTPUTS * GROUP), sign);
    for (int i = 0; i < 4; i += 2) {
      pairs[i] = _mm512_unpacklo_epi32(groups[i], groups[i + 1]);
      pairs[i + 1] = _mm512_unpackhi_epi32(groups[i], groups[i + 1]);
    }
    alignas(64) int8_t inputs[4][4][16];  // output 4 i + k at [k][i]
    for (int i = 0; i < 2; i++) {
      _mm512_store_si512(inputs[2 * i], _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]));
      _mm512_store_si512(inputs[2 * i + 1], _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]));
    }
    alignas(64) float factors[16];
    _mm512_store_ps(factors, scales_of(tiles.block_scales(tile, number) + first));
    for (int i = 0; i < 16; i++) {
      const __m128i bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(inputs[i % 4][i / 4]));
      to[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), _mm512_set1_ps(factors[i]));
    }
  }
};

// Blocks of rows; `from(row, column)` are sixteen numbers.
template <class From>
void turn_back(const From& from, long blocks, float* out, long out_stride, long rows, long columns, int threads) {
  in_parallel(rows * blocks, threads, [&](long place) {
    const long row = place / blocks, first = place % blocks * BLOCK;
    __m512 v[4];
    for (int i = 0; i < 4; i++) v[i] = from(row, first + 16 * i);
    hadamard(v);
    float* to = out + row * out_stride + first;
    for (int i = 0; i < 4; i++) {
      const long left = std::clamp(columns - first - 16 * i, 0L, 16L);
      _mm512_mask_storeu_ps(to + 16 * i, __mmask16((1u << left) - 1), _mm512_mul_ps(v[i], _mm512_set1_ps(0.125f)));
    }
  });
}

}  // namespace

void int8_product(const Int8Tiles& weights, const float* x, long x_stride, long inputs, float* out, long out_stride,
                  long rows, const float* bias, const Adapter* adapter, void* scratch, int threads) {
  const long blocks = weights.blocks, tiles = (weights.outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
  const long row_parts = tiles < 4 * threads ? threads : 1;
  const RoundedRows left(scratch, rows, blocks, PAIR);
  round_rows(x, x_stride, rows, inputs, Order::TURNED, left, threads);
  // Rows that stay in the cache meet all tiles before the next ones come.
  const long sixteens = sixteens_of(rows), at_once = std::max(6L, BYTES_IN_CACHE / (blocks * SIXTEEN * ROUNDED_BYTES));
  by_workers(threads, [&](const Worker& worker) {
    const MatrixTiles matrix_tiles;
    for (long start = 0; start < sixteens; start += at_once) {
      const long here = std::min(at_once, sixteens - start);
      worker.each(row_parts * tiles, [&](long task) {
        const long tile = task % tiles, first = tile * TILE_OUTPUTS;
        const long row = SIXTEEN * (start + cut(here, task / tiles, row_parts));
        const long end = std::min(rows, SIXTEEN * (start + cut(here, task / tiles + 1, row_parts)));
        if (row >= end) return;
        const int width = int(std::min(long(TILE_OUTPUTS), weights.outputs - first));
        const uint8_t* next = tile + 1 < tiles ? weights.block(tile + 1, 0) : nullptr;
        const TileProduct<uint16_t> right{weights.block(tile, 0), weights.block_scales(tile, 0), blocks, PAIR,
                                          bias ? bias + first : nullptr, width, false, next};
        float* to = out + row * out_stride + first;
        if (adapter) fetch_adapter(*adapter, first, width);
        multiply_tile(right, left.at(row, 0), end - row, to, out_stride);
        if (adapter) add_adapter(*adapter, first, width, row, end - row, to, out_stride);
      });
    }
  });
}

bool has_bfloat16_tiles() { return multiplies_in_bfloat16(); }

void int8_straight_product(const Int8Tiles& weights, const float* grad, long grad_stride, long inputs, float* out,
                           long out_stride, long rows, const AdapterBackward* adapter, void* scratch, int threads) {
  const long blocks = blocks_of(weights.outputs), width = weights.blocks * BLOCK;
#if defined(MULTIPLIES_IN_BFLOAT16)
  if (multiplies_in_bfloat16()) {
    const ColumnTiles turned{static_cast<float*>(scratch), rows, width / TILE_OUTPUTS};
    adapted_product_in_halves(Columns{weights}, grad, grad_stride, turned, adapter, true, turned.end(), threads);
    const auto from = [&](long row, long column) { return turned.sixteen(row, column); };
    return turn_back(from, weights.blocks, out, out_stride, rows, inputs, threads);
  }
#endif
  const RoundedRows left(scratch, rows, blocks, 1);
  float* turned = left.end(rows);
  round_rows(grad, grad_stride, rows, weights.outputs, Order::TURNED, left, threads);
  multiply_transposed(Columns{weights}, left, turned, width, rows, width, threads);
  const auto from = [&](long row, long column) { return _mm512_loadu_ps(turned + row * width + column); };
  turn_back(from, weights.blocks, out, out_stride, rows, inputs, threads);
}

extern "C" int groat_multiplies_in_int8() { return 1; }

#else

void int8_product(const Int8Tiles&, const float*, long, long, float*, long, long, const float*, const Adapter*, void*,
                  int) {}
void int8_straight_product(const Int8Tiles&, const float*, long, long, float*, long, long, const AdapterBackward*, void*,
                           int) {}
bool has_bfloat16_tiles() { return false; }

extern "C" int groat_multiplies_in_int8() { return 0; }

#endif
