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

// out[rows, width] = rows times the tiles, by matrix tiles where there are any. `finish(row, rows, out, out_stride)` is called once
// for all rows, some of them at a time, and adds to what is theirs, wherever that lies then.
template <class Scale, class Finish>
void multiply(const TileProduct<Scale>& right, const RoundedRows& left, long rows, float* out, long out_stride,
              const Finish& finish) {
  long done = 0;
  for (int number = 0; number < right.tiles(); number++)
    done = multiply_strips(right.tile(number), left, rows, out + number * TILE_OUTPUTS, out_stride);
  if (done) finish(0, done, out, out_stride);
  if (done == rows) return;
  TileProduct<Scale> rest = right;
  if (done) rest.next = nullptr;  // the others have asked for it
  multiply_tiles(rest, left.at(done, 0), rows - done, out + done * out_stride, out_stride,
                 [&](long row, long count, float* to, long stride) { finish(done + row, count, to, stride); });
}

// Calls with the first of one or two tiles side by side and their number, of a worker's share of `rounds` times all `tiles`.
template <class Act>
void each_two_tiles(const Worker& worker, long rounds, long tiles, const Act& act) {
  const long end = worker.end(rounds * tiles);
  for (long task = worker.begin(rounds * tiles), count; task < end; task += count) {
    count = std::min({2L, end - task, tiles - task % tiles});
    act(task / tiles, task % tiles, count);
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

// Two tiles that are made when they are needed; of so many blocks at most, since more would not stay in the cache.
template <class Scale>
struct MadeTiles {
  static constexpr long BLOCKS = 64;
  alignas(64) uint8_t values[2][BLOCKS * BLOCK_BYTES];
  alignas(64) Scale scales[2][BLOCKS * TILE_OUTPUTS];
};

}  // namespace
