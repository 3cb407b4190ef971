// The kinds in which frozen weights are stored, and how they become tiles of fp32 for a product, a few at a time.

#pragma once

#include "int8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr int TILE_COLS = 2 * LANES;  // of the output, per tile
constexpr int DEPTH = 192;            // summed in one go: sums of short sums lose fewer bits than one long sum

// ---- Storage kinds: how a row of weights becomes fp32 ----

struct Float32 {
  const float* values;
  long columns;
  const float* segment(long row, long column, int, float*) const { return values + row * columns + column; }
};

struct BFloat16 {
  const uint16_t* values;
  long columns;
  const float* segment(long row, long column, int count, float* buffer) const {
    const uint16_t* from = values + row * columns + column;
    for (int i = 0; i < count; i++) {
      const uint32_t bits = uint32_t(from[i]) << 16;
      std::memcpy(buffer + i, &bits, sizeof bits);
    }
    return buffer;
  }
};

// Pairs of NF4 values by byte, the first element in the high half (QLoRA, arXiv:2305.14314, appendix E).
struct NF4Pairs {
  const float* code;
  float pair[256][2];
  explicit NF4Pairs(const float* values) : code(values) {
    for (int byte = 0; byte < 256; byte++) pair[byte][0] = code[byte >> 4], pair[byte][1] = code[byte & 15];
  }
};

struct NF4 {  // blocks run over the flattened weights and may straddle rows
  const uint8_t* values;
  const float* scales;  // one per block; null where they are quantized themselves, into the next four
  const uint8_t* scale_codes;
  const float* scale_map;
  const float* scale_scales;   // one per 256 blocks
  const float* scale_offsets;  // one per 256 blocks
  long columns;
  int block;
  const NF4Pairs* pairs;
  float scale(long number) const {
    if (scales) return scales[number];
    return scale_map[scale_codes[number]] * scale_scales[number >> 8] + scale_offsets[number >> 8];
  }
  const float* segment(long row, long column, int count, float* buffer) const {
    long place = row * columns + column;
    const long end = place + count;
    float* to = buffer;
    while (place < end) {
      const long number = place / block, stop = std::min(end, (number + 1) * block);
      const float factor = scale(number);
      if (place & 1) *to++ = pairs->pair[values[place >> 1]][1] * factor, place++;
#if defined(__AVX2__)
      const __m256 low = _mm256_loadu_ps(pairs->code), high = _mm256_loadu_ps(pairs->code + 8);
      const __m256i shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
      for (; place + 8 <= stop; place += 8, to += 8) {
        int32_t four;
        std::memcpy(&four, values + (place >> 1), 4);
        const __m256i codes = _mm256_srlv_epi32(_mm256_set1_epi32(four), shifts);  // the low 4 bits of each lane
        const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28));    // bit 3 as the sign
        const __m256 value = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, codes),
                                              _mm256_permutevar8x32_ps(high, codes), upper);
        _mm256_storeu_ps(to, _mm256_mul_ps(value, _mm256_set1_ps(factor)));
      }
#endif
      for (; place + 1 < stop; place += 2, to += 2) {
        const float* pair = pairs->pair[values[place >> 1]];
        to[0] = pair[0] * factor, to[1] = pair[1] * factor;
      }
      if (place < stop) *to++ = pairs->pair[values[place >> 1]][0] * factor, place++;
    }
    return buffer;
  }
};

struct RowInt8 {  // one scale per row
  const int8_t* values;
  const float* scales;
  long columns;
  const float* segment(long row, long column, int count, float* buffer) const {
    const int8_t* from = values + row * columns + column;
    const float scale = scales[row];
    for (int i = 0; i < count; i++) buffer[i] = scale * float(from[i]);
    return buffer;
  }
};

// ---- Packing: a tile of weights as [depth][TILE_COLS] ----

#if defined(__AVX2__)
inline void transpose8(const float* from, long stride, float* to, long to_stride) {
  __m256 rows[8], pairs[8], fours[8];
  for (int i = 0; i < 8; i++) rows[i] = _mm256_loadu_ps(from + i * stride);
  for (int i = 0; i < 4; i++) {
    pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
    pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
  }
  for (int half = 0; half < 8; half += 4) {
    fours[half] = _mm256_shuffle_ps(pairs[half], pairs[half + 2], 0x44);
    fours[half + 1] = _mm256_shuffle_ps(pairs[half], pairs[half + 2], 0xEE);
    fours[half + 2] = _mm256_shuffle_ps(pairs[half + 1], pairs[half + 3], 0x44);
    fours[half + 3] = _mm256_shuffle_ps(pairs[half + 1], pairs[half + 3], 0xEE);
  }
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps(to + i * to_stride, _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * to_stride, _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31));
  }
}
#endif

// tile[k][i] = from[i][k] for `rows` <= TILE_COLS rows; the rest are zeros.
void pack_transposed(const float* from, long stride, int rows, int depth, float* tile) {
  int k = 0;
#if defined(__AVX2__)
  if (rows == TILE_COLS)
    for (; k + 8 <= depth; k += 8)
      for (int i = 0; i < TILE_COLS; i += 8) transpose8(from + i * stride + k, stride, tile + k * TILE_COLS + i, TILE_COLS);
#endif
  for (; k < depth; k++)
    for (int i = 0; i < TILE_COLS; i++) tile[k * TILE_COLS + i] = i < rows ? from[i * stride + k] : 0.0f;
}

// tile[k][i] = from[k][i] for `columns` <= TILE_COLS columns; the rest are zeros.
void pack_row(const float* from, int columns, float* to) {
  if (columns == TILE_COLS) {
    store(to, load(from));
    store(to + LANES, load(from + LANES));
    return;
  }
  for (int i = 0; i < TILE_COLS; i++) to[i] = i < columns ? from[i] : 0.0f;
}

// W as the right side of a product: the tile [depth][TILE_COLS] from place (start, first), made in `room` if need be;
// and where the tile of the next columns lies, if it is in memory as it will be read.
template <class Weights>
struct Transposed {  // x W': columns are outputs, that is rows of W
  const Weights& weights;
  const float* tile(long first, int width, long start, int depth, float* room) const {
    alignas(64) float buffer[TILE_COLS * DEPTH];
    const float* from = weights.segment(first, start, depth, buffer);
    if (from != buffer) {
      pack_transposed(from, weights.columns, width, depth, room);
      return room;
    }
    for (int i = 1; i < width; i++) weights.segment(first + i, start, depth, buffer + i * DEPTH);
    pack_transposed(buffer, DEPTH, width, depth, room);
    return room;
  }
  const char* after(const float*) const { return nullptr; }
};
template <class Weights>
struct Straight {  // g W: columns are inputs, that is columns of W, and the depth runs over its rows
  const Weights& weights;
  const float* tile(long first, int width, long start, int depth, float* room) const {
    alignas(64) float buffer[TILE_COLS];
    for (int k = 0; k < depth; k++)
      pack_row(weights.segment(start + k, first, width, buffer), width, room + k * TILE_COLS);
    return room;
  }
  const char* after(const float*) const { return nullptr; }
};

// fp32 weights stored as the tiles of x W' lie one behind the other: [N / TILE_COLS][K][TILE_COLS].
struct TiledTransposed {
  const float* values;
  long inputs;
  const float* tile(long first, int, long start, int, float*) const {
    return values + first * inputs + start * TILE_COLS;
  }
  const char* after(const float* tile) const { return reinterpret_cast<const char*>(tile + inputs * TILE_COLS); }
};
struct TiledStraight {
  const float* values;
  long inputs;
  const float* tile(long first, int width, long start, int depth, float* room) const {
    for (int k = 0; k < depth; k += TILE_COLS)
      pack_transposed(values + (start + k) * inputs + first * TILE_COLS, TILE_COLS, width,
                      std::min(TILE_COLS, depth - k), room + k * TILE_COLS);
    return room;
  }
  const char* after(const float*) const { return nullptr; }
};

// int8 weights (int8.h), of inputs that are turned already; tiles of ours lie within one of theirs.
struct Int8Transposed {
  const Int8Tiles& weights;
  static_assert(TILE_OUTPUTS % TILE_COLS == 0 && DEPTH % BLOCK == 0);
  const float* tile(long first, int, long start, int depth, float* room) const {
    weights.widen(first, TILE_COLS, start, depth, room, TILE_COLS);
    return room;
  }
  const char* after(const float*) const { return nullptr; }
};
struct Int8Straight {
  const Int8Tiles& weights;
  const float* tile(long first, int, long start, int depth, float* room) const {
    alignas(64) float turned[TILE_COLS * TILE_COLS];
    for (int k = 0; k < depth; k += TILE_COLS) {
      weights.widen(start + k, TILE_COLS, first, TILE_COLS, turned, TILE_COLS);
      pack_transposed(turned, TILE_COLS, TILE_COLS, std::min(TILE_COLS, depth - k), room + k * TILE_COLS);
    }
    return room;
  }
  const char* after(const float*) const { return nullptr; }
};

}  // namespace
