// Products in int8 with weights in int8.

#include "int8.h"

#include <algorithm>

#if defined(MULTIPLIES_IN_INT8)
#include "adapter.h"
#include "tile_products.h"

#if defined(MULTIPLIES_BY_VNNI)
#include "bfloat16.h"
#include "transposed.h"
#else
#include "madd_gradient.h"
#endif

namespace {

constexpr long BYTES_IN_CACHE = 1 << 20;

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
    [[maybe_unused]] const MatrixTiles matrix_tiles;
    for (long start = 0; start < sixteens; start += at_once) {
      const long here = std::min(at_once, sixteens - start);
      each_two_tiles(worker, row_parts, tiles, [&](long part, long tile, long count) {
        const long first = tile * TILE_OUTPUTS, row = SIXTEEN * (start + cut(here, part, row_parts));
        const long end = std::min(rows, SIXTEEN * (start + cut(here, part + 1, row_parts)));
        if (row >= end) return;
        const int width = int(std::min(count * TILE_OUTPUTS, weights.outputs - first));
        const uint8_t* next = tile + count < tiles ? weights.block(tile + count, 0) : nullptr;
        const TileProduct<uint16_t> right{weights.block(tile, 0), weights.block_scales(tile, 0), blocks, PAIR, blocks,
                                          bias ? bias + first : nullptr, width, false, next};
        if (adapter) fetch_adapter(*adapter, first, width);
        multiply(right, left.at(row, 0), end - row, out + row * out_stride + first, out_stride,
                 [&](long from, long some, float* to, long stride) {
                   if (adapter) add_adapter(*adapter, first, width, row + from, some, to, stride);
                 });
      });
    }
  });
}

#if defined(MULTIPLIES_BY_VNNI)
namespace {

// The weights as `multiply_transposed` takes them.
struct Columns {
  const Int8Tiles& tiles;
  const long outputs = tiles.outputs;

  template <class Take>
  void read(long output, long input, const Take& take) const {
    for (long part = 0; part < BLOCK; part += 16) {
      __m512 sixteen[16];
      if (output + part < outputs)
        read_sixteen(output + part, input, sixteen);
      else
        std::fill_n(sixteen, 16, _mm512_setzero_ps());
      take(part, sixteen), take(part + 8, sixteen + 8);
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

// A block of turned numbers, of which `from(i)` are sixteen from number i on.
template <class From>
void turn_back(const From& from, float* to, long columns) {
  __m512 v[4];
  for (int i = 0; i < 4; i++) v[i] = from(16 * i);
  hadamard(v);
  for (int i = 0; i < 4; i++) store_part(to + 16 * i, columns - 16 * i, (Vec)_mm512_mul_ps(v[i], _mm512_set1_ps(0.125f)));
}

// The same of rows, of which `from(row, column)` are sixteen.
template <class From>
void turn_rows_back(const From& from, long blocks, float* out, long out_stride, long rows, long columns, int threads) {
  in_parallel(rows * blocks, threads, [&](long place) {
    const long row = place / blocks, first = place % blocks * BLOCK;
    turn_back([&](long i) { return from(row, first + i); }, out + row * out_stride + first, columns - first);
  });
}

}  // namespace

bool has_bfloat16_tiles() { return multiplies_in_bfloat16(); }

void int8_straight_product(const Int8Tiles& weights, const float* grad, long grad_stride, long inputs, float* out,
                           long out_stride, long rows, const AdapterBackward* adapter, void* scratch, int threads) {
  const long blocks = blocks_of(weights.outputs), width = weights.blocks * BLOCK;
#if defined(MULTIPLIES_IN_BFLOAT16)
  if (multiplies_in_bfloat16()) {
    const ColumnTiles turned{static_cast<float*>(scratch), rows, width / TILE_OUTPUTS};
    adapted_product_in_halves(Columns{weights}, grad, grad_stride, turned, adapter, true, turned.end(), threads);
    const auto from = [&](long row, long column) { return turned.sixteen(row, column); };
    return turn_rows_back(from, weights.blocks, out, out_stride, rows, inputs, threads);
  }
#endif
  const RoundedRows left(scratch, rows, blocks, 1);
  round_rows(grad, grad_stride, rows, weights.outputs, Order::TURNED, left, threads);
  if (width == inputs) {  // each two tiles are a block, turned back where they are
    const auto finish = [](long some, float* to, long stride) {
      for (; some > 0; some--, to += stride) turn_back([&](long i) { return _mm512_loadu_ps(to + i); }, to, BLOCK);
    };
    return multiply_transposed(Columns{weights}, left, out, out_stride, rows, width, finish, threads);
  }
  float* turned = left.end(rows);
  multiply_transposed(Columns{weights}, left, turned, width, rows, width, [](long, float*, long) {}, threads);
  const auto from = [&](long row, long column) { return _mm512_loadu_ps(turned + row * width + column); };
  turn_rows_back(from, weights.blocks, out, out_stride, rows, inputs, threads);
}

#else
namespace {

// The weights as `multiply_straight` takes them.
struct Pairs {
  static constexpr long WIDTH = PAIR * BLOCK;  // inputs that share a scale
  const Int8Tiles& tiles;
  const long outputs = tiles.outputs, inputs = tiles.blocks * BLOCK;

  void read_scales(long output, long count, long input, float* to) const {
    for (long i = 0; i < count; i += TILE_OUTPUTS) {
      const uint16_t* from = tiles.block_scales((output + i) / TILE_OUTPUTS, input / BLOCK);
      for (int j = 0; j < TILE_OUTPUTS; j += LANES) store(to + i + j, from_bfloat16s(from + j));
    }
  }

  void read_pairs(long output, long input, Rounded* to) const {
    const uint8_t* from = tiles.block(output / TILE_OUTPUTS, input / BLOCK) + output % TILE_OUTPUTS * GROUP;
    const __m256i by_turns = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
    for (long group = 0; group < STRIP / GROUP; group++, to += 2 * GROUP) {
      const uint8_t* place = from + (input % BLOCK / GROUP + group) * TILE_OUTPUTS * GROUP;
      const __m256i eight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(place));
      const __m256i pairs = _mm256_shuffle_epi8(_mm256_xor_si256(eight, _mm256_set1_epi8(-128)), by_turns);
      put_two(_mm256_cvtepi8_epi16(_mm256_castsi256_si128(pairs)), to);
      put_two(_mm256_cvtepi8_epi16(_mm256_extracti128_si256(pairs, 1)), to + 4 * STRIP);
    }
  }

  // Four inputs of a pair of outputs, and of the next.
  static void put_two(__m256i pairs, Rounded* to) {
    _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(pairs));
    _mm_store_si128(reinterpret_cast<__m128i*>(to + 2 * STRIP), _mm256_extracti128_si256(pairs, 1));
  }
};

void turn_back(const float* from, long blocks, float* out, long out_stride, long rows, long columns, int threads) {
  in_parallel(rows * blocks, threads, [&](long place) {
    const long row = place / blocks, first = place % blocks * BLOCK;
    Vec v[BLOCK_VECS];
    for (int i = 0; i < BLOCK_VECS; i++) v[i] = load(from + place * BLOCK + i * LANES);
    hadamard(v);
    for (int i = 0; i < BLOCK_VECS && first + i * LANES < columns; i++)
      store_part(out + row * out_stride + first + i * LANES, columns - first - i * LANES, v[i] * 0.125f);
  });
}

}  // namespace

bool has_bfloat16_tiles() { return false; }

void int8_straight_product(const Int8Tiles& weights, const float* grad, long grad_stride, long inputs, float* out,
                           long out_stride, long rows, const AdapterBackward*, void* scratch, int threads) {
  float* turned = static_cast<float*>(scratch);
  const long width = weights.blocks * BLOCK;
  multiply_straight(Pairs{weights}, grad, grad_stride, turned, width, rows, turned + rows * width, threads);
  turn_back(turned, weights.blocks, out, out_stride, rows, inputs, threads);
}

#endif

extern "C" int groat_multiplies_in_int8() { return 1; }

#else

void int8_product(const Int8Tiles&, const float*, long, long, float*, long, long, const float*, const Adapter*, void*,
                  int) {}
void int8_straight_product(const Int8Tiles&, const float*, long, long, float*, long, long, const AdapterBackward*, void*,
                           int) {}
bool has_bfloat16_tiles() { return false; }

extern "C" int groat_multiplies_in_int8() { return 0; }

#endif
