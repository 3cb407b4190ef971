// Products in bf16 by matrix tiles, on x86 CPUs with AMX-BF16: for gradients, nearer to fp32 than rounding to int8 and
// without scales to multiply with. Sums are in fp32.

#pragma once

#include "amx.h"
#include "products.h"
#include "workers.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AMX_INT8__)
#define MULTIPLIES_IN_BFLOAT16

#include <memory>
#include <vector>

namespace {

inline bool multiplies_in_bfloat16() { return tiles_are_allowed(); }

constexpr long STEP = 32;         // numbers of a row that a matrix tile has
constexpr long CHUNK = 256;       // that are multiplied before the next ones: rows of so many stay in the second cache
constexpr long TILE_STEPS = CHUNK / STEP, TILE_HALVES = STEP * TILE_OUTPUTS;

inline long steps_of(long count) { return (count + STEP - 1) / STEP; }
inline __mmask16 first_lanes(long count) { return __mmask16((1u << std::clamp(count, 0L, 16L)) - 1); }

// The left side, in bf16: [rows / 16][steps][16][STEP], so that a matrix tile is one piece of memory.
struct HalfRows {
  uint16_t* values;
  long steps;

  static long floats(long rows, long steps) { return sixteens_of(rows) * steps * SIXTEEN * STEP / 2; }
  uint16_t* at(long row, long step) const {
    return values + (row / SIXTEEN * steps + step) * SIXTEEN * STEP + row % SIXTEEN * STEP;
  }
  // Columns that are not there count as zeros.
  void narrow(long row, const float* from, long columns) const {
    for (long step = 0; step < steps; step++) {
      const long first = step * STEP;
      const __m512 low = _mm512_maskz_loadu_ps(first_lanes(columns - first), from + first);
      const __m512 high = _mm512_maskz_loadu_ps(first_lanes(columns - first - 16), from + first + 16);
      _mm512_store_si512(at(row, step), (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
  }
};

inline long chunk_floats(long rows) { return HalfRows::floats(rows, TILE_STEPS); }

// 16 columns from `column` on, 0 or 16, of the rows 2 `pair` and the next of 32 columns of a right side, in bf16:
// [steps][16 pairs of rows][32 columns][2].
inline void put_pair(uint16_t* right, long pair, int column, __m512 first, __m512 second) {
  const __m512i by_turns =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18,
                       2, 17, 1, 16, 0);
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
  _mm512_store_si512(right + pair * 2 * TILE_OUTPUTS + column * 2, _mm512_permutexvar_epi16(by_turns, both));
}

// Columns [0, 32) of `count` rows, of which `present` are there, as a right side; rows up to a whole step are zeros.
inline void put_rows(uint16_t* right, const float* from, long stride, long count, long present) {
  for (long row = 0; row < steps_of(count) * STEP; row += 2)
    for (int half = 0; half < TILE_OUTPUTS; half += 16) {
      const auto lanes = [&](long one) { return one < count ? first_lanes(present - half) : __mmask16(0); };
      put_pair(right, row / 2, half, _mm512_maskz_loadu_ps(lanes(row), from + row * stride + half),
               _mm512_maskz_loadu_ps(lanes(row + 1), from + (row + 1) * stride + half));
    }
}

// 32 columns of a right side.
struct HalfTile {
  alignas(64) uint16_t values[TILE_STEPS * TILE_HALVES];

  // Inputs [input, input + 32) of `count` outputs; `weights.read(output, input, take)` calls `take(i, eight)` with 16 inputs of
  // outputs i to i + 7 of 64, zeros for those that are not there.
  template <class Weights>
  void fill(const Weights& weights, long output, long count, long input) {
    for (long block = 0; block < count; block += BLOCK)
      for (int half = 0; half < TILE_OUTPUTS; half += 16)
        weights.read(output + block, input + half, [&](long first, const __m512 eight[8]) {
          for (int i = 0; i < 8; i += 2) put_pair(values, (block + first + i) / 2, half, eight[i], eight[i + 1]);
        });
  }
};

// One or two sixteens of rows from `row` on, times a right side: 32 columns of `out`, whose rows are all there. Meanwhile
// `ahead(row, step)` asks for what is needed next.
template <int SIXTEENS, class Ahead>
void multiply_halves(const uint16_t* right_side, const HalfRows& left, long row, long steps, bool add, float* out,
                     long out_stride, const Ahead& ahead) {
  const long bytes = out_stride * sizeof(float);
  float* below = out + SIXTEEN * out_stride;  // where the second sixteen goes
  asm volatile("" ::: "memory");              // tiles are loaded behind the compiler's back
  if (add) {
    _tile_loadd(0, out, bytes);
    _tile_loadd(1, out + 16, bytes);
    if constexpr (SIXTEENS == 2) {
      _tile_loadd(2, below, bytes);
      _tile_loadd(3, below + 16, bytes);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (SIXTEENS == 2) {
      _tile_zero(2);
      _tile_zero(3);
    }
  }
  for (long step = 0; step < steps; step++) {
    const uint16_t* right = right_side + step * TILE_HALVES;
    ahead(row, step);
    _tile_loadd(6, right, 2 * TILE_OUTPUTS * sizeof(uint16_t));
    _tile_loadd(4, left.at(row, step), STEP * sizeof(uint16_t));
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, right + TILE_OUTPUTS, 2 * TILE_OUTPUTS * sizeof(uint16_t));
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (SIXTEENS == 2) {
      _tile_loadd(5, left.at(row + SIXTEEN, step), STEP * sizeof(uint16_t));
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, out, bytes);
  _tile_stored(1, out + 16, bytes);
  if constexpr (SIXTEENS == 2) {
    _tile_stored(2, below, bytes);
    _tile_stored(3, below + 16, bytes);
  }
}

struct NothingAhead {
  void operator()(long, long) const {}
};

// All rows; the last ones, if they are no sixteen, by way of memory of their own.
template <class Ahead = NothingAhead>
void multiply_all_halves(const uint16_t* right, const HalfRows& left, long rows, long steps, bool add, float* out,
                         long out_stride, const Ahead& ahead = {}) {
  long row = 0;
  for (; row + 2 * SIXTEEN <= rows; row += 2 * SIXTEEN)
    multiply_halves<2>(right, left, row, steps, add, out + row * out_stride, out_stride, ahead);
  for (; row + SIXTEEN <= rows; row += SIXTEEN)
    multiply_halves<1>(right, left, row, steps, add, out + row * out_stride, out_stride, ahead);
  if (row == rows) return;
  alignas(64) float last[SIXTEEN][TILE_OUTPUTS] = {};
  for (long i = row; add && i < rows; i++) std::copy_n(out + i * out_stride, TILE_OUTPUTS, last[i - row]);
  multiply_halves<1>(right, left, row, steps, add, last[0], TILE_OUTPUTS, ahead);
  for (long i = row; i < rows; i++) std::copy_n(last[i - row], TILE_OUTPUTS, out + i * out_stride);
}

// fp32 rows as weights: those of a B are some outputs of a layer, `begin` the first of them.
struct PlainColumns {
  const float* values;
  long begin, outputs, inputs;
  template <class Take>
  void read(long output, long input, const Take& take) const {
    const __mmask16 lanes = first_lanes(inputs - input);
    for (long first = 0; first < BLOCK; first += 8) {
      __m512 eight[8];
      for (int i = 0; i < 8; i++) {
        const long row = output + first + i - begin;
        eight[i] = row >= 0 && row < outputs ? _mm512_maskz_loadu_ps(lanes, values + row * inputs + input) : _mm512_setzero_ps();
      }
      take(first, eight);
    }
  }
};

// Thin products of the same left side, beside that with the weights: g B_p for each part p of an adapter.
struct ThinParts {
  std::vector<PlainColumns> parts;
  float* sums;  // [parts][whole sixteens of rows][width]
  long rows, width;

  float* sums_of(long part) const { return sums + part * rows * width; }
};

// Columns of a matrix [rows, tiles * TILE_OUTPUTS], a tile of them after the other: what is added to again and again lies
// in one piece.
struct ColumnTiles {
  float* first;
  long rows, tiles;

  float* tile(long number) const { return first + number * rows * TILE_OUTPUTS; }
  float* end() const { return tile(tiles); }
  // Half a tile of a row.
  __m512 sixteen(long row, long column) const {
    return _mm512_loadu_ps(tile(column / TILE_OUTPUTS) + row * TILE_OUTPUTS + column % TILE_OUTPUTS);
  }
};

// out = g W, with the sums of `thin` beside it. `scratch`: room for a chunk, twice.
template <class Weights>
void multiply_in_halves(const Weights& weights, const float* grad, long grad_stride, const ColumnTiles& out,
                        const ThinParts& thin, float* scratch, int threads) {
  const long rows = out.rows, outputs = weights.outputs, thin_tiles = thin.width / TILE_OUTPUTS;
  by_workers(threads, [&](const Worker& worker) {
    const std::unique_ptr<HalfTile> tile(new HalfTile);
    const MatrixTiles matrix_tiles;
    for (long start = 0; start < outputs; start += CHUNK) {
      const long count = std::min(CHUNK, outputs - start), blocks = blocks_of(count);
      // The two halves by turns: who is late still reads the other.
      const HalfRows left{reinterpret_cast<uint16_t*>(scratch + start / CHUNK % 2 * chunk_floats(rows)), 2 * blocks};
      worker.each(rows, [&](long row) { left.narrow(row, grad + row * grad_stride + start, count); });
      worker.wait();
      worker.each(out.tiles, [&](long number) {
        tile->fill(weights, start, count, number * TILE_OUTPUTS);
        const auto ahead = [&](long row, long step) __attribute__((always_inline)) {
          if (number + 1 < out.tiles) weights.fetch(start + step * STEP, (number + 1) * TILE_OUTPUTS, row / SIXTEEN);
        };
        multiply_all_halves(tile->values, left, rows, left.steps, start > 0, out.tile(number), TILE_OUTPUTS, ahead);
      });
      worker.each(long(thin.parts.size()) * thin_tiles, [&](long number) {
        const PlainColumns& part = thin.parts[number / thin_tiles];
        const long column = number % thin_tiles * TILE_OUTPUTS;
        if (start && (part.begin >= start + count || part.begin + part.outputs <= start)) return;
        tile->fill(part, start, count, column);
        multiply_all_halves(tile->values, left, rows, left.steps, start > 0, thin.sums_of(number / thin_tiles) + column,
                            thin.width);
      });
    }
  });
}

// out += left[rows, inner] right[inner, width]. `scratch` likewise, once.
inline void add_in_halves(const float* left, const PlainColumns& right, const ColumnTiles& out, float* scratch,
                          int threads) {
  const long rows = out.rows, inner = right.outputs;
  by_workers(threads, [&](const Worker& worker) {
    const std::unique_ptr<HalfTile> tile(new HalfTile);
    const MatrixTiles matrix_tiles;
    for (long start = 0; start < inner; start += CHUNK) {
      const long count = std::min(CHUNK, inner - start);
      const HalfRows here{reinterpret_cast<uint16_t*>(scratch), steps_of(count)};
      worker.each(rows, [&](long row) { here.narrow(row, left + row * inner + start, count); });
      worker.wait();
      worker.each(out.tiles, [&](long number) {
        tile->fill(right, start, count, number * TILE_OUTPUTS);
        multiply_all_halves(tile->values, here, rows, here.steps, true, out.tile(number), TILE_OUTPUTS);
      });
      worker.wait();
    }
  });
}

// out = g W, turned as the rows of W are; and what the adapter adds to it, with grad_down = alpha g B_p for each part p.
// `scratch`: room for a chunk, twice, and a whole tile of columns a row for each tile of each B.
template <class Weights>
void adapted_product_in_halves(const Weights& weights, const float* grad, long grad_stride, const ColumnTiles& out,
                               const AdapterBackward* adapter, bool is_turned, float* scratch, int threads) {
  const long rows = out.rows, width = out.tiles * TILE_OUTPUTS;
  ThinParts thin{{}, scratch + 2 * chunk_floats(rows), rows, 0};
  if (!adapter) return multiply_in_halves(weights, grad, grad_stride, out, thin, scratch, threads);
  const long rank = adapter->rank, downs = adapter->parts * rank;
  thin.width = (rank + TILE_OUTPUTS - 1) / TILE_OUTPUTS * TILE_OUTPUTS;
  for (long part = 0, begin = 0; part < adapter->parts; begin += adapter->sizes[part++])
    thin.parts.push_back({adapter->bs[part], begin, adapter->sizes[part], rank});
  multiply_in_halves(weights, grad, grad_stride, out, thin, scratch, threads);
  for (long row = 0; row < rows; row++)
    for (long i = 0; i < downs; i++)
      adapter->grad_down[row * downs + i] = adapter->alpha * thin.sums_of(i / rank)[row * thin.width + i % rank];
  thread_local std::vector<float> turned;
  turned.resize(is_turned ? downs * width : 0);
  for (long i = 0; is_turned && i < downs; i++) {
    float* to = turned.data() + i * width;
    std::fill(std::copy_n(adapter->a + i * adapter->inputs, adapter->inputs, to), to + width, 0.0f);
    for (long block = 0; block < width; block += BLOCK) hadamard_orthogonal(to + block);
  }
  const PlainColumns a{is_turned ? turned.data() : adapter->a, 0, downs, width};
  add_in_halves(adapter->grad_down, a, out, scratch, threads);
}

// Hands out left[rows, height]' right[rows, width] in strips of columns: their first one, their number, and
// sums[height][TILE_OUTPUTS]. Threads share the strips.
template <class Take>
void for_each_outer_strip_in_halves(const Rows& left, const Rows& right, long rows, long height, long width,
                                    const Take& take, int threads) {
  const long steps = steps_of(rows), tall = sixteens_of(height) * SIXTEEN;
  std::vector<CacheLine> room(CacheLine::holding(HalfRows::floats(tall, steps)));
  const HalfRows turned{reinterpret_cast<uint16_t*>(room.data()), steps};
  by_workers(threads, [&](const Worker& worker) {
    const std::unique_ptr<HalfTile> tile(new HalfTile);
    std::vector<CacheLine> sums(CacheLine::holding(tall * TILE_OUTPUTS));
    const MatrixTiles matrix_tiles;
    std::vector<float> column(rows);
    worker.each(tall, [&](long i) {
      for (long row = 0; row < rows; row++) column[row] = i < height ? left[row][i] : 0.0f;
      turned.narrow(i, column.data(), rows);
    });
    worker.wait();
    worker.each((width + TILE_OUTPUTS - 1) / TILE_OUTPUTS, [&](long number) {
      const long first = number * TILE_OUTPUTS;
      const long present = std::min(long(TILE_OUTPUTS), width - first);
      for (long start = 0; start < rows; start += CHUNK) {
        const long count = std::min(CHUNK, rows - start);
        put_rows(tile->values, right[start] + first, right.stride, count, present);
        const HalfRows here{turned.at(0, start / STEP), steps};
        multiply_all_halves(tile->values, here, tall, steps_of(count), start > 0, sums.data()->floats, TILE_OUTPUTS);
      }
      take(first, present, sums.data()->floats);
    });
  });
}

}  // namespace

#else

namespace {
inline bool multiplies_in_bfloat16() { return false; }
}  // namespace

#endif
