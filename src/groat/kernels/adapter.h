// What a LoRA adapter adds to a product, a tile of outputs at a time, while the tile is in the cache.

#pragma once

#include "int8.h"

#include <algorithm>

namespace {

constexpr int DEPTH_AT_ONCE = 16, ADAPTED_ROWS = 6, ADAPTED_OUTPUTS = 2 * LANES;  // whose sums are held in registers

// B' of 32 outputs from `first` on, [depth][TILE_OUTPUTS]; those outside of the part, which begins at `begin`, are zeros.
inline void pack_b(const float* b, long rank, long begin, long size, long first, long from, int depth, float* to) {
  for (int start = 0; start < depth; start += LANES)
    for (int place = 0; place < TILE_OUTPUTS; place += LANES) {
      Vec v[LANES];
      for (int i = 0; i < LANES; i++) {
        const long output = first + place + i - begin;  // in the part
        const bool present = output >= 0 && output < size;
        v[i] = present ? load_part(b + output * rank + from + start, depth - start) : Vec{};
      }
      turn<1>(v);
      for (int i = 0; i < std::min(LANES, depth - start); i++) store(to + (start + i) * TILE_OUTPUTS + place, v[i]);
    }
}

// out[ROWS][width] += alpha * down[ROWS][depth] * b[depth][TILE_OUTPUTS].
template <int ROWS>
void add_rows(const float* b, const float* down, long down_stride, int depth, float alpha, int width, float* out,
              long out_stride) {
  for (int place = 0; place < width; place += ADAPTED_OUTPUTS) {
    Vec sums[ROWS][2] = {};
    for (int i = 0; i < depth; i++) {
      const Vec first = load(b + i * TILE_OUTPUTS + place), second = load(b + i * TILE_OUTPUTS + place + LANES);
#pragma GCC unroll 8
      for (int row = 0; row < ROWS; row++) {
        const Vec factor = splat(down[row * down_stride + i]);
        sums[row][0] = multiply_add(factor, first, sums[row][0]);
        sums[row][1] = multiply_add(factor, second, sums[row][1]);
      }
    }
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++)
      for (int half = 0; half < 2; half++) {
        const long left = width - place - half * LANES;
        float* to = out + row * out_stride + place + half * LANES;
        store_part(to, left, multiply_add(sums[row][half], splat(alpha), load_part(to, left)));
      }
  }
}

// Asks for the numbers of the B's that outputs [first, first + width) will need.
__attribute__((always_inline)) inline void fetch_adapter(const Adapter& adapter, long first, int width) {
  for (long part = 0, begin = 0; part < adapter.parts; begin += adapter.sizes[part++]) {
    const long from = std::max(first, begin) - begin, to = std::min(first + width - begin, long(adapter.sizes[part]));
    for (long i = from * adapter.rank; i < to * adapter.rank; i += 16) __builtin_prefetch(adapter.bs[part] + i, 0, 2);
  }
}

// To `rows` rows of outputs [first, first + width), which lie in one tile; `out` is the first of them.
inline void add_to_tile(const Adapter& adapter, long first, int width, long row, long rows, float* out, long out_stride) {
  alignas(64) float b[DEPTH_AT_ONCE * TILE_OUTPUTS];
  const long stride = adapter.parts * adapter.rank;
  for (long part = 0, begin = 0; part < adapter.parts; begin += adapter.sizes[part++]) {
    if (begin >= first + width || begin + adapter.sizes[part] <= first) continue;
    for (long from = 0; from < adapter.rank; from += DEPTH_AT_ONCE) {
      const int depth = int(std::min(long(DEPTH_AT_ONCE), adapter.rank - from));
      pack_b(adapter.bs[part], adapter.rank, begin, adapter.sizes[part], first, from, depth, b);
      const float* down = adapter.down + row * stride + part * adapter.rank + from;
      long i = 0;
      for (; i + ADAPTED_ROWS <= rows; i += ADAPTED_ROWS)
        add_rows<ADAPTED_ROWS>(b, down + i * stride, stride, depth, adapter.alpha, width, out + i * out_stride,
                               out_stride);
      for (; i < rows; i++)
        add_rows<1>(b, down + i * stride, stride, depth, adapter.alpha, width, out + i * out_stride, out_stride);
    }
  }
}

// The same of outputs that lie in one tile or more, the first of which begins with them.
inline void add_adapter(const Adapter& adapter, long first, int width, long row, long rows, float* out,
                        long out_stride) {
  for (int begun = 0; begun < width; begun += TILE_OUTPUTS)
    add_to_tile(adapter, first + begun, std::min(TILE_OUTPUTS, width - begun), row, rows, out + begun, out_stride);
}

}  // namespace
