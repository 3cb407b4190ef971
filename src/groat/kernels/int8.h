// Frozen weights in 8 bits: how they lie, how they become fp32 again, and products in int8 where the CPU is fast at them.
//
// A block is 64 inputs of one output: it is turned by a Hadamard matrix (its own inverse), so that a few large values
// spread over all 64. Two blocks have one scale, in bf16; the last one may be alone. Whoever multiplies turns the other
// side's blocks likewise, and rounds two of them to one scale.
// Tiles of 32 outputs lie one behind the other, [blocks][16 groups][32 outputs][4 inputs]; a byte is the value + 128.

#pragma once

#include "vectors.h"

#include <cstring>

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#define MULTIPLIES_BY_VNNI
#elif defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)  // whose fp32 is as fast
#define MULTIPLIES_BY_MADD
#endif
#if defined(MULTIPLIES_BY_VNNI) || defined(MULTIPLIES_BY_MADD)
#define MULTIPLIES_IN_INT8
#endif

constexpr int BLOCK = 64, TILE_OUTPUTS = 32, GROUP = 4;
constexpr int BLOCK_BYTES = TILE_OUTPUTS * BLOCK;  // of one tile

constexpr long PAIR = 2;  // blocks that share a scale

inline long blocks_of(long inputs) { return (inputs + BLOCK - 1) / BLOCK; }
inline long pairs_of(long blocks) { return (blocks + PAIR - 1) / PAIR; }

constexpr long SIXTEEN = 16;  // rows that are rounded side by side
inline long sixteens_of(long rows) { return (rows + SIXTEEN - 1) / SIXTEEN; }

inline float from_bfloat16(uint16_t half) {
  const uint32_t bits = uint32_t(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline Vec from_bfloat16s(const uint16_t* halves) {
  typedef uint16_t HalfVec __attribute__((vector_size(LANES * 2)));
  HalfVec here;
  std::memcpy(&here, halves, sizeof here);
  return (Vec)(__builtin_convertvector(here, IntVec) << 16);
}

constexpr uint16_t NOT_A_NUMBER = 0x7FC0;

// The next bf16 number that is not smaller; NaN for NaN and infinities.
inline uint16_t bfloat16_above(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits >= 0x7F800000 ? NOT_A_NUMBER : uint16_t((bits + 0xFFFF) >> 16);
}

// 64 numbers times a Hadamard matrix, in place; eight times as large as the orthogonal one makes them.
inline void hadamard(float* values) {
  for (int step = 1; step < BLOCK; step *= 2)
    for (int first = 0; first < BLOCK; first += 2 * step)
      for (int i = first; i < first + step; i++) {
        const float a = values[i], b = values[i + step];
        values[i] = a + b, values[i + step] = a - b;
      }
}

inline void hadamard_orthogonal(float* values) {
  hadamard(values);
  for (int i = 0; i < BLOCK; i++) values[i] *= 0.125f;
}

struct Int8Tiles {
  const uint8_t* values;   // [tiles][blocks][BLOCK_BYTES]
  const uint16_t* scales;  // bf16, [tiles][pairs of blocks][TILE_OUTPUTS]
  long outputs, blocks;

  const uint8_t* block(long tile, long number) const { return values + (tile * blocks + number) * BLOCK_BYTES; }
  const uint16_t* block_scales(long tile, long number) const {
    return scales + (tile * pairs_of(blocks) + number / PAIR) * TILE_OUTPUTS;
  }
  // A block of an output's weights, turned back.
  void row_block(long output, long number, float* to) const {
    const uint8_t* from = block(output / TILE_OUTPUTS, number) + output % TILE_OUTPUTS * GROUP;
    const float scale = from_bfloat16(block_scales(output / TILE_OUTPUTS, number)[output % TILE_OUTPUTS]);
    for (int i = 0; i < BLOCK; i++) to[i] = scale * float(int(from[i / GROUP * TILE_OUTPUTS * GROUP + i % GROUP]) - 128);
    hadamard_orthogonal(to);
  }
  // to[i][j] = the turned weight of input `input` + i and output `output` + j. Whole groups of inputs; the outputs lie
  // in one tile and are whole vectors.
  void widen(long output, int width, long input, int depth, float* to, long stride) const {
    const long tile = output / TILE_OUTPUTS, first = output % TILE_OUTPUTS;
    for (int i = 0; i < depth; i += GROUP) {
      const long number = (input + i) / BLOCK, group = (input + i) % BLOCK / GROUP;
      const uint16_t* factors = block_scales(tile, number) + first;
      const uint8_t* values = block(tile, number) + (group * TILE_OUTPUTS + first) * GROUP;
      for (int j = 0; j < width; j += LANES) {
        IntVec fours;
        std::memcpy(&fours, values + j * GROUP, sizeof fours);
        const Vec factor = from_bfloat16s(factors + j);
#pragma GCC unroll 4
        for (int byte = 0; byte < GROUP; byte++)
          store(to + (i + byte) * stride + j,
                factor * __builtin_convertvector((fours >> (8 * byte) & 255) - 128, Vec));
      }
    }
  }
};

#if defined(MULTIPLIES_BY_MADD)
typedef int16_t Rounded;  // activations in 8 bits, as wide as they are multiplied
#else
typedef int8_t Rounded;
#endif
constexpr int ROUNDED_BYTES = BLOCK * sizeof(Rounded) + 8;  // of a block of activations (rounded.h)

// alpha * down_p B_p' for each part p of a layer's outputs (LoRA); down is [rows, parts * rank], B_p [sizes_p, rank].
struct Adapter {
  const float* down;
  const float* const* bs;
  const int64_t* sizes;
  long parts, rank;
  float alpha;
};

// The way back through it: grad_down = alpha g B_p for each part, and grad_down A is added to the input's gradient.
struct AdapterBackward {
  const float* a;  // [parts * rank, inputs]
  const float* const* bs;
  const int64_t* sizes;
  long parts, rank, inputs;
  float alpha;
  float* grad_down;  // [rows, parts * rank]
};

// out[rows, outputs] = x W' (+ bias) (+ adapter), in int8: each row's blocks are turned and rounded by a scale of their
// own. A row does not depend on the others. `scratch`, aligned to 64 bytes: ROUNDED_BYTES for each block of whole
// sixteens of rows.
void int8_product(const Int8Tiles& weights, const float* x, long x_stride, long inputs, float* out, long out_stride,
                  long rows, const float* bias, const Adapter* adapter, void* scratch, int threads);

// Whether gradients are computed in bf16 rather than in int8; an adapter's are only then.
bool has_bfloat16_tiles();

// out[rows, inputs] = g W (+ the adapter's part): in bf16 where there are tiles for it, or else in int8, both sides rounded
// along the outputs. W is turned into that a few tiles at a time. A row does not depend on the others. `scratch`: as for the
// other product, for each block of outputs, or 256 numbers; the turned result in fp32; and for each part of an adapter its
// rank in whole 32s.
void int8_straight_product(const Int8Tiles& weights, const float* grad, long grad_stride, long inputs, float* out,
                           long out_stride, long rows, const AdapterBackward* adapter, void* scratch, int threads);

// Weights in NF4, as bitsandbytes stores them; each row has whole blocks.
struct NF4Rows {
  const uint8_t* values;
  const float* scales;  // one per block; null where they are quantized themselves, into the next four
  const uint8_t* scale_codes;
  const float* scale_map;
  const float* scale_scales;
  const float* scale_offsets;
  const float* code;
  long outputs, inputs;

  float scale(long number) const {
    if (scales) return scales[number];
    return scale_map[scale_codes[number]] * scale_scales[number >> 8] + scale_offsets[number >> 8];
  }
};

// The same two products with weights in NF4, whose codes become int8: 127 times their value, rounded. Rows are rounded as
// they are, since the weights of a block are not turned.
void nf4_product(const NF4Rows& weights, const float* x, long x_stride, float* out, long out_stride, long rows,
                 const float* bias, const Adapter* adapter, void* scratch, int threads);
void nf4_straight_product(const NF4Rows& weights, const float* grad, long grad_stride, float* out, long out_stride,
                          long rows, const AdapterBackward* adapter, void* scratch, int threads);
