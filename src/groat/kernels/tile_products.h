// What all products in int8 share: rows are rounded, then meet a tile of weights after the other.

#pragma once

#include "amx.h"
#include "workers.h"

#if defined(MULTIPLIES_BY_VNNI)
#include "vnni.h"
#else
#include "madd.h"
#endif

namespace {

// Where part `part` of `parts` equal ones begins.
inline long cut(long whole, long part, long parts) { return whole * part / parts; }

// Some rows of a sixteen times one tile, by their number.
template <class Scale>
constexpr decltype(&multiply_rows<1, Scale>) rows_products[] = {nullptr,
                                                                multiply_rows<1, Scale>,
                                                                multiply_rows<2, Scale>,
                                                                multiply_rows<3, Scale>,
                                                                multiply_rows<4, Scale>,
                                                                multiply_rows<5, Scale>,
                                                                multiply_rows<6, Scale>};
static_assert(ROWS_AT_ONCE == 6);

template <class Scale>
void multiply_tile(const TileProduct<Scale>& right, const RoundedRows& left, long rows, float* out, long out_stride) {
  TileProduct<Scale> here = right;
  for (long row = multiply_strips(right, left, rows, out, out_stride); row < rows; row += SIXTEEN) {
    const long present = std::min(SIXTEEN, rows - row), parts = (present + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    for (long part = 0; part < parts; part++) {
      const long first = row + cut(present, part, parts), size = row + cut(present, part + 1, parts) - first;
      if (first) here.next = nullptr;  // the first rows have asked for it
      rows_products<Scale>[size](here, left.at(first, 0), out + first * out_stride, out_stride);
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

}  // namespace
