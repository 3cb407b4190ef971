// Products in int8 on x86 CPUs with AVX512-VNNI: one instruction multiplies 64 bytes and adds them up by fours.
//
// It takes one side unsigned and one signed. Weights are stored as value + 128; the 128 times the sum of a row's block
// that this adds is taken off before the block begins.

#include "int8.h"

#include <algorithm>
#include <memory>

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#include <immintrin.h>

namespace {

constexpr int ROWS_AT_ONCE = 6;  // their sums, in int32 and in fp32, fill the 32 registers

// A block of a row as the product reads it: 64 rounded values, their scale, and what the 128 adds.
struct Rounded {
  int8_t values[BLOCK];
  float scale;
  int32_t excess;
};

inline void add_and_subtract(__m512& a, __m512& b) {
  const __m512 sum = _mm512_add_ps(a, b);
  b = _mm512_sub_ps(a, b);
  a = sum;
}

inline void hadamard(__m512 v[4]) {
  add_and_subtract(v[0], v[1]), add_and_subtract(v[2], v[3]);
  add_and_subtract(v[0], v[2]), add_and_subtract(v[1], v[3]);
  const __m512 minus = _mm512_set1_ps(-0.0f);
  for (int i = 0; i < 4; i++) {  // lane l with lane l ^ 8, 4, 2, 1: the sum in the lower one, the difference in the other
    v[i] = _mm512_add_ps(_mm512_mask_xor_ps(v[i], 0xFF00, v[i], minus), _mm512_shuffle_f32x4(v[i], v[i], 0x4E));
    v[i] = _mm512_add_ps(_mm512_mask_xor_ps(v[i], 0xF0F0, v[i], minus), _mm512_shuffle_f32x4(v[i], v[i], 0xB1));
    v[i] = _mm512_add_ps(_mm512_mask_xor_ps(v[i], 0xCCCC, v[i], minus), _mm512_permute_ps(v[i], 0x4E));
    v[i] = _mm512_add_ps(_mm512_mask_xor_ps(v[i], 0xAAAA, v[i], minus), _mm512_permute_ps(v[i], 0xB1));
  }
}

inline void load_block(const float* from, int count, __m512 v[4]) {
  for (int i = 0; i < 4; i++) {
    const int left = std::clamp(count - 16 * i, 0, 16);
    v[i] = _mm512_maskz_loadu_ps(__mmask16((1u << left) - 1), from + 16 * i);
  }
}

// Turned, then rounded to 127 steps either side of zero.
inline void round_block(const float* from, int count, Rounded& to) {
  __m512 v[4];
  load_block(from, count, v);
  hadamard(v);
  __m512 largest = _mm512_setzero_ps();
  for (int i = 0; i < 4; i++) largest = _mm512_max_ps(largest, _mm512_abs_ps(v[i]));
  const float most = _mm512_reduce_max_ps(largest), steps = most > 0 ? 127.0f / most : 0.0f;
  __m512i total = _mm512_setzero_si512();
  for (int i = 0; i < 4; i++) {
    const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(v[i], _mm512_set1_ps(steps)));
    total = _mm512_add_epi32(total, whole);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to.values + 16 * i), _mm512_cvtsepi32_epi8(whole));
  }
  to.scale = most / (127.0f * 8.0f);
  to.excess = -128 * _mm512_reduce_add_epi32(total);
}

inline __m512 scales_of(const uint16_t* from) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

inline __m512i four_of(const int8_t* from) {
  int32_t four;
  std::memcpy(&four, from, sizeof four);
  return _mm512_set1_epi32(four);
}

// ROWS rows times one tile; `width` outputs of it are stored.
template <int ROWS>
void multiply_rows(const Rounded* left, const uint8_t* tile, const uint16_t* scales, long blocks, const float* bias,
                   float* out, long out_stride, int width) {
  __m512 sums[ROWS][2];
  for (int row = 0; row < ROWS; row++) sums[row][0] = sums[row][1] = _mm512_setzero_ps();
  for (long block = 0; block < blocks; block++, tile += BLOCK_BYTES, scales += TILE_OUTPUTS) {
    const Rounded* here[ROWS];
    __m512i wholes[ROWS][2];
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++) {
      here[row] = left + row * blocks + block;
      wholes[row][0] = wholes[row][1] = _mm512_set1_epi32(here[row]->excess);
    }
#pragma GCC unroll 4
    for (int group = 0; group < BLOCK / GROUP; group++) {
      const __m512i first = _mm512_loadu_si512(tile + group * TILE_OUTPUTS * GROUP);
      const __m512i second = _mm512_loadu_si512(tile + group * TILE_OUTPUTS * GROUP + 64);
#pragma GCC unroll 8
      for (int row = 0; row < ROWS; row++) {
        const __m512i four = four_of(here[row]->values + group * GROUP);
        wholes[row][0] = _mm512_dpbusd_epi32(wholes[row][0], first, four);
        wholes[row][1] = _mm512_dpbusd_epi32(wholes[row][1], second, four);
      }
    }
    const __m512 factors[2] = {scales_of(scales), scales_of(scales + 16)};
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++) {
      const __m512 scale = _mm512_set1_ps(here[row]->scale);
      for (int half = 0; half < 2; half++)
        sums[row][half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(wholes[row][half]), _mm512_mul_ps(factors[half], scale),
                                          sums[row][half]);
    }
  }
  const uint32_t present = width >= TILE_OUTPUTS ? ~0u : (1u << width) - 1;
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; row++)
    for (int half = 0; half < 2; half++) {
      const __mmask16 mask = __mmask16(present >> (16 * half));
      __m512 value = sums[row][half];
      if (bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, bias + 16 * half));
      _mm512_mask_storeu_ps(out + row * out_stride + 16 * half, mask, value);
    }
}

typedef void (*RowsProduct)(const Rounded*, const uint8_t*, const uint16_t*, long, const float*, float*, long, int);
constexpr RowsProduct rows_product[] = {nullptr,          multiply_rows<1>, multiply_rows<2>, multiply_rows<3>,
                                        multiply_rows<4>, multiply_rows<5>, multiply_rows<6>};

// Rows cut into `parts` equal ones.
inline long cut(long rows, long part, long parts) { return rows * part / parts; }

void multiply_tile(const Int8Tiles& weights, long tile, const Rounded* left, long from, long to, const float* bias,
                   float* out, long out_stride) {
  const long first = tile * TILE_OUTPUTS, rows = to - from, parts = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
  const int width = int(std::min(long(TILE_OUTPUTS), weights.outputs - first));
  for (long part = 0; part < parts; part++) {
    const long row = from + cut(rows, part, parts), size = from + cut(rows, part + 1, parts) - row;
    rows_product[size](left + row * weights.blocks, weights.block(tile, 0), weights.block_scales(tile, 0),
                       weights.blocks, bias ? bias + first : nullptr, out + row * out_stride + first, out_stride,
                       width);
  }
}

}  // namespace

void int8_product(const Int8Tiles& weights, const float* x, long x_stride, long inputs, float* out, long out_stride,
                  long rows, const float* bias, int threads) {
  const long blocks = weights.blocks, tiles = (weights.outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
  const std::unique_ptr<Rounded[]> left(new Rounded[rows * blocks]);
  const long row_parts = tiles < 4 * threads ? std::min(long(threads), rows) : 1;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (long place = 0; place < rows * blocks; place++) {
      const long row = place / blocks, block = place % blocks;
      round_block(x + row * x_stride + block * BLOCK, int(std::min(long(BLOCK), inputs - block * BLOCK)), left[place]);
    }
#pragma omp for schedule(static)
    for (long task = 0; task < row_parts * tiles; task++) {
      const long part = task / tiles;
      multiply_tile(weights, task % tiles, left.get(), cut(rows, part, row_parts), cut(rows, part + 1, row_parts), bias,
                    out, out_stride);
    }
  }
}

extern "C" int groat_multiplies_in_int8() { return 1; }

#else

void int8_product(const Int8Tiles&, const float*, long, long, float*, long, long, const float*, int) {}

extern "C" int groat_multiplies_in_int8() { return 0; }

#endif
