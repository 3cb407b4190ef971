// Sixteen rows at a time by matrix tiles, on x86 CPUs with AMX: the same whole numbers as by VNNI, scaled and added up in
// the same order, so a row's result does not depend on which of the two has computed it.

#pragma once

#include "rounded.h"

#if defined(__AMX_INT8__) && defined(__AMX_TILE__)
#include "avx512.h"

#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr long LEAST_ROWS = 7;  // for which a strip is worth it

// Linux wants to be asked before a process uses tiles; the answer holds for all of its threads.
inline bool tiles_are_allowed() {
  constexpr int ASK_PERMISSION = 0x1023, TILE_DATA = 18;
  static const bool allowed = syscall(SYS_arch_prctl, ASK_PERMISSION, TILE_DATA) == 0;
  return allowed;
}

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};

  // The first `tiles` have so many rows only.
  static TileShapes lower(long rows, int tiles) {
    TileShapes shapes;
    std::fill(shapes.rows, shapes.rows + tiles, uint8_t(rows));
    return shapes;
  }
};

// A thread's tiles have these shapes while this lives; those of `multiply_strips`, if they are not given.
class MatrixTiles {
 public:
  explicit MatrixTiles(const TileShapes& shapes = TileShapes()) {
    asm volatile("" ::: "memory");  // they are read behind the compiler's back
    if (tiles_are_allowed()) _tile_loadconfig(&shapes);
  }
  ~MatrixTiles() {
    if (tiles_are_allowed()) _tile_release();
  }
  MatrixTiles(const MatrixTiles&) = delete;
  MatrixTiles& operator=(const MatrixTiles&) = delete;
};

// One or two sixteens of rows, times 32 outputs. Tiles 0 to 3 are the sums, 4 and 5 the rows, 6 and 7 the weights; those
// of the next scale are multiplied between the scaling of this one's sums, a few rows at a time, since they have units of
// their own. A scale is of one block or of two.
template <int SIXTEENS, class Scale>
class Strip {
 public:
  Strip(const TileProduct<Scale>& right, const RoundedRows& left)
      : right_(right), sixteens_{left, left.at(SIXTEEN * (SIXTEENS - 1), 0)} {
    for (auto& row : sums_) _mm512_store_ps(row, _mm512_setzero_ps()), _mm512_store_ps(row + 16, _mm512_setzero_ps());
    const long count = num_scales(right.blocks, right.scaled);
    multiply_first_half(0), multiply_second_half(0);
    if (has_other(0)) add_first_half(1), add_second_half(1);
    store_first_half(0), store_second_half(0);
    for (long number = 0; number + 1 < count; number++) {
      const Factors factors(right, number);
      const long next = number + 1, other = next * right.scaled + 1;
      multiply_first_half(next), scale<0, 6>(number, factors);
      multiply_second_half(next), scale<6, 12>(number, factors);
      if (has_other(next)) add_first_half(other);
      scale<12, 18>(number, factors);
      if (has_other(next)) add_second_half(other);
      scale<18, 22>(number, factors);
      store_first_half(next), scale<22, 27>(number, factors);
      store_second_half(next), scale<27, 32>(number, factors);
    }
    scale<0, 32>(count - 1, Factors(right, count - 1));
  }

  // The first `rows` of them to where the product goes.
  void store(long rows, float* out, long out_stride) const {
    for (long row = 0; row < std::min(rows, long(ROWS)); row++)
      for (int half = 0; half < 2; half++)
        store_sums(load(sums_[row] + 16 * half), right_, 16 * half, out + row * out_stride);
  }

 private:
  struct Factors {
    __m512 halves[2];
    Factors(const TileProduct<Scale>& right, long number)
        : halves{scales_of(right.scales + number * TILE_OUTPUTS), scales_of(right.scales + number * TILE_OUTPUTS + 16)} {}
  };

  static constexpr int ROWS = SIXTEENS * SIXTEEN;
  static constexpr long WEIGHT_BYTES = TILE_OUTPUTS * GROUP, SUM_BYTES = TILE_OUTPUTS * sizeof(int32_t);

  const int8_t* rows(int sixteen, long block) const { return sixteens_[sixteen].values + block * SIXTEEN * BLOCK; }

  // The first block of a scale, with the first sixteen of rows, then with the second; the other block, if there is one, is
  // added likewise.
  void multiply_first_half(long number) {
    _tile_zero(0);
    _tile_zero(1);
    add_first_half(number * right_.scaled);
  }
  void multiply_second_half(long number) {
    if constexpr (SIXTEENS == 2) {
      _tile_zero(2);
      _tile_zero(3);
    }
    add_second_half(number * right_.scaled);
  }
  bool has_other(long number) const { return right_.scaled == PAIR && number * PAIR + 1 < right_.blocks; }

  void store_first_half(long number) {
    auto& wholes = wholes_[number % 2];
    _tile_stored(0, wholes[0], SUM_BYTES);
    _tile_stored(1, wholes[0] + 16, SUM_BYTES);
  }
  void store_second_half(long number) {
    if constexpr (SIXTEENS == 2) {
      auto& wholes = wholes_[number % 2];
      _tile_stored(2, wholes[SIXTEEN], SUM_BYTES);
      _tile_stored(3, wholes[SIXTEEN] + 16, SUM_BYTES);
    }
  }

  void add_first_half(long block) {
    right_.prefetch(block, 0), right_.prefetch(block, 1);
    _tile_loadd(6, right_.values + block * BLOCK_BYTES, WEIGHT_BYTES);
    _tile_loadd(4, rows(0, block), BLOCK);
    _tile_dpbsud(0, 4, 6);
    _tile_loadd(7, right_.values + block * BLOCK_BYTES + 64, WEIGHT_BYTES);
    _tile_dpbsud(1, 4, 7);
  }
  void add_second_half(long block) {
    right_.prefetch(block, 2), right_.prefetch(block, 3);
    if constexpr (SIXTEENS == 2) {
      _tile_loadd(5, rows(1, block), BLOCK);
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
    }
  }

  template <int FROM, int TO>
  void scale(long number, const Factors& factors) {
    constexpr int END = TO < ROWS ? TO : ROWS;
#pragma GCC unroll 8
    for (int row = FROM; row < END; row++) {
      const RoundedRows& rows = sixteens_[row / SIXTEEN];
      const long place = number * SIXTEEN + row % SIXTEEN;
      const __m512i excess = _mm512_set1_epi32(rows.excess[place]);
      const __m512 scale = _mm512_set1_ps(rows.scales[place]);
#pragma GCC unroll 2
      for (int half = 0; half < 2; half++) {
        float* sum = sums_[row] + 16 * half;
        const __m512i exact = _mm512_add_epi32(_mm512_load_si512(wholes_[number % 2][row] + 16 * half), excess);
        _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact), _mm512_mul_ps(factors.halves[half], scale),
                                             _mm512_load_ps(sum)));
      }
    }
  }

  const TileProduct<Scale>& right_;
  const RoundedRows sixteens_[2];
  alignas(64) int32_t wholes_[2][ROWS][TILE_OUTPUTS];  // by turns
  alignas(64) float sums_[ROWS][TILE_OUTPUTS];
};

// As many rows as are worth it; returns how many these are.
template <class Scale>
long multiply_strips(const TileProduct<Scale>& right, const RoundedRows& left, long rows, float* out, long out_stride) {
  if (!tiles_are_allowed()) return 0;
  TileProduct<Scale> here = right;
  long done = 0;
  for (; rows - done >= LEAST_ROWS; here.next = nullptr) {
    const long rest = rows - done, strip = rest > SIXTEEN ? 2 * SIXTEEN : SIXTEEN;
    if (rest > SIXTEEN)
      Strip<2, Scale>(here, left.at(done, 0)).store(rest, out + done * out_stride, out_stride);
    else
      Strip<1, Scale>(here, left.at(done, 0)).store(rest, out + done * out_stride, out_stride);
    done = std::min(rows, done + strip);
  }
  return done;
}

}  // namespace

#else

namespace {

struct MatrixTiles {};

template <class Scale>
long multiply_strips(const TileProduct<Scale>&, const RoundedRows&, long, float*, long) {
  return 0;
}

}  // namespace

#endif
