// Activations rounded to 8 bits, one tile of weights to multiply them with, and where the product goes.

#pragma once

#include "int8.h"

#include <algorithm>

namespace {

// Which scale is a block's, and how many some blocks have, if so many share one: one or two. Divisions by what is not known
// while compiling would take as long as the products of a block.
inline long scale_of(long block, long scaled) { return scaled == PAIR ? block / PAIR : block; }
inline long num_scales(long blocks, long scaled) { return scaled == PAIR ? pairs_of(blocks) : blocks; }

// Blocks of rows as the product reads them: 64 rounded values, and of so many blocks the scale, and what the 128 adds.
// Sixteen rows lie side by side, [rows / 16][blocks][16], so that a matrix tile is read from one piece of memory.
struct RoundedRows {
  Rounded* values;  // where a cache line begins
  float* scales;
  int32_t* excess;
  long blocks, scaled;  // blocks that share a scale, one or two; the last ones may be fewer

  // In `room` of ROUNDED_BYTES for each block of whole sixteens of rows.
  RoundedRows(void* room, long rows, long blocks, long scaled)
      : values(static_cast<Rounded*>(room)), blocks(blocks), scaled(scaled) {
    scales = reinterpret_cast<float*>(values + sixteens_of(rows) * SIXTEEN * blocks * BLOCK);
    excess = reinterpret_cast<int32_t*>(scales + sixteens_of(rows) * SIXTEEN * num_scales(blocks, scaled));
  }

  float* end(long rows) const { return reinterpret_cast<float*>(excess + sixteens_of(rows) * SIXTEEN * num_scales(blocks, scaled)); }

  // The same from a row and a block on, the first of those with its scale. Up to the end of its sixteen, row i lies i
  // places further, and block or scale i of them all SIXTEEN * i places.
  RoundedRows at(long row, long block) const {
    RoundedRows rest = *this;
    const long sixteen = row / SIXTEEN, beside = row % SIXTEEN;
    const long scale = (sixteen * num_scales(blocks, scaled) + scale_of(block, scaled)) * SIXTEEN + beside;
    rest.values += ((sixteen * blocks + block) * SIXTEEN + beside) * BLOCK;
    rest.scales += scale, rest.excess += scale;
    return rest;
  }
};

// Calls with the first of MOST rows at most and their number, all of one sixteen, as evenly as it goes.
template <long MOST, class Act>
inline void each_few_rows(long rows, const Act& act) {
  static_assert(SIXTEEN <= 3 * MOST);
  for (long row = 0; row < rows; row += SIXTEEN) {
    const long end = std::min(row + SIXTEEN, rows);
    for (long first = row, count; first < end; first += count) {
      const long left = end - first;
      count = left <= MOST ? left : left <= 2 * MOST ? left / 2 : left / 3;
      act(first, count);
    }
  }
}

// How a block lies beside the weights it meets: turned as int8's are, or its even and odd numbers apart, by eights, as
// NF4's pairs come out of their bytes.
enum class Order { TURNED, PAIRED };

// Asks for a piece of weights: into the second cache, as the first is full.
template <int BYTES>
inline void prefetch_weights(const uint8_t* from) {
#pragma GCC unroll 32
  for (int i = 0; i < BYTES; i += 64) __builtin_prefetch(from + i, 0, 2);
}

// One tile or two side by side, and where their product goes: `width` outputs are stored, or added to what is there. Scales
// are bf16 or fp32.
template <class Scale>
struct TileProduct {
  const uint8_t* values;
  const Scale* scales;
  long blocks, scaled;  // blocks that share a scale, as the rows' do
  long apart;           // blocks from one tile to the next
  const float* bias;  // or null
  int width;
  bool add;
  const uint8_t* next;  // the values that are needed after these, as many again; or null

  int tiles() const { return width > TILE_OUTPUTS ? 2 : 1; }
  const Scale* scales_from(long block) const { return scales + scale_of(block, scaled) * TILE_OUTPUTS; }
  long scales_apart() const { return num_scales(apart, scaled) * TILE_OUTPUTS; }

  // Tile `number` of them alone.
  TileProduct tile(int number) const {
    TileProduct one = *this;
    one.values += number * apart * BLOCK_BYTES, one.scales += number * scales_apart();
    if (bias) one.bias += number * TILE_OUTPUTS;
    if (next) one.next += number * apart * BLOCK_BYTES;
    one.width = std::min(TILE_OUTPUTS, width - number * TILE_OUTPUTS);
    return one;
  }

  // Asks for a quarter of the next values that lie where block `block` of these does: few at a time, as few can be under
  // way.
  void prefetch(long block, int quarter) const {
    if (next) prefetch_weights<BLOCK_BYTES / 4>(next + block * BLOCK_BYTES + quarter * (BLOCK_BYTES / 4));
  }
};

// A vector of a row's sums, from an output on, and what is added to it.
template <class Scale>
inline Vec completed(Vec sums, const TileProduct<Scale>& right, int output, const float* out) {
  const long left = right.width - output;
  if (right.bias) sums += load_part(right.bias + output, left);
  if (right.add) sums += load_part(out + output, left);
  return sums;
}

template <class Scale>
inline void store_sums(Vec sums, const TileProduct<Scale>& right, int output, float* out) {
  store_part(out + output, right.width - output, completed(sums, right, output, out));
}

}  // namespace
