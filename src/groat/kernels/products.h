// Products of fp32 matrices that lie in the caches as they are: nothing is packed for them.

#pragma once

#include "vectors.h"

namespace {

// The left side of a product: a matrix by rows, or one that lies turned.
struct Left {
  const float* first;
  long row_stride, step_stride;
};
struct TurnedLeft {
  const float* first;
  static constexpr long row_stride = 1;
  long step_stride;
};

struct Rows {
  const float* first;
  long stride;
  const float* operator[](long row) const { return first + row * stride; }
  Vec part(long row, long column) const { return load((*this)[row] + column); }
};

struct Target {
  float* first;
  long stride;
  bool adds;  // to what is there
};

constexpr int TILE_VECTORS = LANES == 16 ? 4 : 2;
// As many sums as there are registers for; of a single vector enough that none waits for the one before.
constexpr int tile_rows(int wide) { return wide == 1 ? 12 : 6; }
constexpr int TILE_ROWS = tile_rows(TILE_VECTORS);

// Each number is one sum, added up step by step: so it is the same, bit for bit, in tiles of any size. Not inlined, or
// the sums would share their registers with what surrounds them.
template <int TALL, int WIDE, class Left, class Right>
__attribute__((noinline)) void multiply_tile(const Left& left, const Right& right, long column, long steps,
                                             const Target& target) {
  Vec sums[TALL][WIDE];
#pragma GCC unroll 16
  for (int row = 0; row < TALL; row++)
#pragma GCC unroll 16
    for (int i = 0; i < WIDE; i++)
      sums[row][i] = target.adds ? load(target.first + row * target.stride + column + i * LANES) : Vec{};
  for (long step = 0; step < steps; step++) {
    const float* factors = left.first + step * left.step_stride;
    Vec values[WIDE];
#pragma GCC unroll 16
    for (int i = 0; i < WIDE; i++) values[i] = right.part(step, column + i * LANES);
#pragma GCC unroll 16
    for (int row = 0; row < TALL; row++) {
      const Vec factor = splat(factors[row * left.row_stride]);
#pragma GCC unroll 16
      for (int i = 0; i < WIDE; i++) sums[row][i] = multiply_add(factor, values[i], sums[row][i]);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < TALL; row++)
#pragma GCC unroll 16
    for (int i = 0; i < WIDE; i++) store(target.first + row * target.stride + column + i * LANES, sums[row][i]);
}

// In tiles of TALL rows, and the rest in a lower one.
template <int TALL, int WIDE, class Left, class Right>
inline void multiply_panel(Left left, const Right& right, long rows, long column, long steps, Target target) {
  for (; rows >= TALL; rows -= TALL, left.first += TALL * left.row_stride, target.first += TALL * target.stride)
    multiply_tile<TALL, WIDE>(left, right, column, steps, target);
  if constexpr (TALL > 1)
    if (rows) multiply_panel<TALL - 1, WIDE>(left, right, rows, column, steps, target);
}

// target[rows, columns] = left[rows, steps] right[steps, columns], from a column on; whole vectors of columns.
template <int WIDE = TILE_VECTORS, class Right>
inline void multiply(const Left& left, const Right& right, long rows, long columns, long steps, const Target& target,
                     long column = 0) {
  for (; column + WIDE * LANES <= columns; column += WIDE * LANES)
    multiply_panel<tile_rows(WIDE), WIDE>(left, right, rows, column, steps, target);
  if constexpr (WIDE > 1)
    if (column < columns) multiply<WIDE - 1>(left, right, rows, columns, steps, target, column);
}

}  // namespace
