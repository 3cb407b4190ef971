// Sixteen rows at a time by matrix tiles, on x86 CPUs with AMX: the same whole numbers as by VNNI, scaled and added up in
// the same order, so a row's result does not depend on which of the two has computed it.

#pragma once

#include "rounded.h"

#if defined(__AMX_INT8__) && defined(__AMX_TILE__)
#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr int SIXTEEN = 16;

// Linux wants to be asked before a process uses tiles; the answer holds for all of its threads.
inline bool tiles_are_allowed() {
  constexpr int ASK_PERMISSION = 0x1023, TILE_DATA = 18;
  static const bool allowed = syscall(SYS_arch_prctl, ASK_PERMISSION, TILE_DATA) == 0;
  return allowed;
}

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64};
  uint8_t rows[16] = {SIXTEEN, SIXTEEN, SIXTEEN, SIXTEEN, SIXTEEN};
};

// 16 rows of activations times a tile of 32 outputs, block by block.
template <class Scale>
inline void multiply_strip(const TileProduct<Scale>& right, const Rounded* left, long left_stride, float* out,
                           long out_stride) {
  alignas(64) int32_t wholes[2][2][SIXTEEN][SIXTEEN];  // by turns, so that a block need not wait for the one before
  __m512 sums[SIXTEEN][2];
  for (int row = 0; row < SIXTEEN; row++) sums[row][0] = sums[row][1] = _mm512_setzero_ps();
  for (long block = 0; block < right.blocks; block++) {
    const Rounded* here = left + block;
    const uint8_t* values = right.values + block * BLOCK_BYTES;
    auto& whole = wholes[block % 2];
    _tile_zero(0);
    _tile_zero(1);
    _tile_loadd(2, here->values, left_stride * long(sizeof(Rounded)));
    _tile_loadd(3, values, TILE_OUTPUTS * GROUP);
    _tile_dpbsud(0, 2, 3);
    _tile_loadd(4, values + 64, TILE_OUTPUTS * GROUP);
    _tile_dpbsud(1, 2, 4);
    _tile_stored(0, whole[0], sizeof whole[0][0]);
    _tile_stored(1, whole[1], sizeof whole[1][0]);
    const Scale* scales = right.scales + block * TILE_OUTPUTS;
    const __m512 factors[2] = {scales_of(scales), scales_of(scales + SIXTEEN)};
#pragma GCC unroll 16
    for (int row = 0; row < SIXTEEN; row++) {
      const Rounded& rounded = here[row * left_stride];
      const __m512i excess = _mm512_set1_epi32(rounded.excess);
      const __m512 scale = _mm512_set1_ps(rounded.scale);
      for (int half = 0; half < 2; half++) {
        const __m512i exact = _mm512_add_epi32(_mm512_load_si512(whole[half][row]), excess);
        sums[row][half] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact), _mm512_mul_ps(factors[half], scale), sums[row][half]);
      }
    }
  }
  for (int row = 0; row < SIXTEEN; row++)
    for (int half = 0; half < 2; half++) store_sums(sums[row][half], right, half, out + row * out_stride);
}

// As many rows as come in sixteens; returns how many these are.
template <class Scale>
long multiply_sixteens(const TileProduct<Scale>& right, const Rounded* left, long left_stride, long rows, float* out,
                       long out_stride) {
  const long sixteens = rows / SIXTEEN;
  if (!sixteens || !tiles_are_allowed()) return 0;
  const TileShapes shapes;
  asm volatile("" ::: "memory");  // tiles are loaded behind the compiler's back: all stores before must have happened
  _tile_loadconfig(&shapes);
  for (long row = 0; row < sixteens * SIXTEEN; row += SIXTEEN)
    multiply_strip(right, left + row * left_stride, left_stride, out + row * out_stride, out_stride);
  _tile_release();
  return sixteens * SIXTEEN;
}

}  // namespace

#else

namespace {

template <class Scale>
long multiply_sixteens(const TileProduct<Scale>&, const Rounded*, long, long, float*, long) {
  return 0;
}

}  // namespace

#endif
