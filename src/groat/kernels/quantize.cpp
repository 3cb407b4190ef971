// Rounding frozen weights to 8 and 4 bits as they are loaded: NF4 to the same bytes as nf4.py does with torch, int8
// but for the last bit of a turned number, which may decide a rounding.
//
// Plain loops that the compiler makes wide. Largest magnitudes are found on the bits, where they are whole numbers:
// infinities and NaN come out above every number, and the caller refuses them.

#include "int8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr int NF4_VALUES = 16, NF4_BLOCK = 64;
constexpr uint8_t NF4_ZERO = 7;
constexpr float SMALLEST = 1e-38f;          // what a block of zeros is divided by, as in bitsandbytes

float largest_magnitude(const float* from, long count) {
  int32_t largest = 0;
  for (long i = 0; i < count; i++) {
    int32_t bits;
    std::memcpy(&bits, from + i, sizeof bits);
    largest = std::max(largest, bits & 0x7FFFFFFF);
  }
  float magnitude;
  std::memcpy(&magnitude, &largest, sizeof magnitude);
  return magnitude;
}

// Values relative to their largest magnitude. Whole blocks times the reciprocal, an unfinished one divided: the last bit
// decides some bytes.
void make_relative(const float* from, int count, int block, float scale, float* relative) {
  const float divisor = std::max(scale, SMALLEST), reciprocal = 1.0f / divisor;
  if (count == block)
    for (int i = 0; i < block; i++) relative[i] = from[i] * reciprocal;
  else
    for (int i = 0; i < count; i++) relative[i] = from[i] / divisor;
}

typedef float Floats __attribute__((vector_size(64), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4)));

// The number of the nearest of 16 values: how many of the middles between them lie below.
void nearest_of_16(const float* relative, const float* middles, int32_t* codes) {
  for (int i = 0; i < NF4_BLOCK; i += 16) {
    const Floats here = *reinterpret_cast<const Floats*>(relative + i);
    Ints code = {};
#pragma GCC unroll 15
    for (int value = 0; value < NF4_VALUES - 1; value++) code -= here > middles[value];
    *reinterpret_cast<Ints*>(codes + i) = code;
  }
}

inline float widened(float value) { return value; }
inline float widened(uint16_t bf16) { return from_bfloat16(bf16); }

template <class Number>
void to_nf4(const Number* values, long count, const float* middles, uint8_t* packed, float* scales, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long start = 0; start < count; start += NF4_BLOCK) {
    const int size = int(std::min(long(NF4_BLOCK), count - start));
    float here[NF4_BLOCK], relative[NF4_BLOCK] = {};
    int32_t codes[NF4_BLOCK];
    for (int i = 0; i < size; i++) here[i] = widened(values[start + i]);
    const float scale = largest_magnitude(here, size);
    make_relative(here, size, NF4_BLOCK, scale, relative);
    nearest_of_16(relative, middles, codes);
    if (size % 2) codes[size] = NF4_ZERO;
    uint8_t* to = packed + start / 2;
    for (int i = 0; i < (size + 1) / 2; i++) to[i] = uint8_t(codes[2 * i] << 4 | codes[2 * i + 1]);
    scales[start / NF4_BLOCK] = size == NF4_BLOCK ? scale : std::max(scale, SMALLEST);
  }
}

// Two blocks of one output, or one: turned, and rounded to 127 steps either side of zero. `to` is the place of the first
// in its tile.
template <class Number>
uint16_t to_int8(const Number* values, int count, int blocks, uint8_t* to) {
  float turned[PAIR * BLOCK] = {};
  for (int i = 0; i < count; i++) turned[i] = widened(values[i]);
  for (int block = 0; block < blocks; block++) hadamard_orthogonal(turned + block * BLOCK);
  const uint16_t scale = bfloat16_above(largest_magnitude(turned, PAIR * BLOCK) / 127.0f);
  if (scale == NOT_A_NUMBER) return scale;  // refused by whoever asked
  const float divisor = std::max(from_bfloat16(scale), SMALLEST);
  for (int i = 0; i < blocks * BLOCK; i++)
    to[i / GROUP * TILE_OUTPUTS * GROUP + i % GROUP] = uint8_t(int(std::nearbyint(turned[i] / divisor)) + 128);
  return scale;
}

template <class Number>
void to_int8_tiles(const Number* values, long rows, long columns, uint8_t* tiles, uint16_t* scales, int threads) {
  const long blocks = blocks_of(columns), padded = (rows + TILE_OUTPUTS - 1) / TILE_OUTPUTS * TILE_OUTPUTS;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long row = 0; row < padded; row++)
    for (long block = 0; block < blocks; block += PAIR) {
      const long tile = row / TILE_OUTPUTS, output = row % TILE_OUTPUTS, first = block * BLOCK;
      const int count = row < rows ? int(std::min(PAIR * BLOCK, columns - first)) : 0;
      scales[(tile * pairs_of(blocks) + block / PAIR) * TILE_OUTPUTS + output] =
          to_int8(values + row * columns + first, count, int(std::min(PAIR, blocks - block)),
                  tiles + (tile * blocks + block) * BLOCK_BYTES + output * GROUP);
    }
}

}  // namespace

extern "C" {

// fp32 or bf16 rows to int8 in tiles, as int8.h says they lie; rows that fill up the last tile become zeros.
void groat_to_int8(const void* values, int is_bf16, long rows, long columns, uint8_t* tiles, uint16_t* scales,
                   int threads) {
  if (is_bf16)
    to_int8_tiles(static_cast<const uint16_t*>(values), rows, columns, tiles, scales, threads);
  else
    to_int8_tiles(static_cast<const float*>(values), rows, columns, tiles, scales, threads);
}

// fp32 or bf16 to blocks of 64, two codes a byte; the unused half of an odd count's last byte is a zero's code.
void groat_to_nf4(const void* values, int is_bf16, long count, const float* middles, uint8_t* packed, float* scales,
                  int threads) {
  if (is_bf16)
    to_nf4(static_cast<const uint16_t*>(values), count, middles, packed, scales, threads);
  else
    to_nf4(static_cast<const float*>(values), count, middles, packed, scales, threads);
}

// The same for 256 values in blocks of up to 256, a byte for each: how NF4's scales are stored.
void groat_to_bytes(const float* values, long count, long block, const float* middles, uint8_t* codes, float* scales,
                    int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long start = 0; start < count; start += block) {
    const int size = int(std::min(block, count - start));
    float relative[256];
    const float scale = largest_magnitude(values + start, size);
    make_relative(values + start, size, int(block), scale, relative);
    for (int i = 0; i < size; i++) codes[start + i] = uint8_t(std::lower_bound(middles, middles + 255, relative[i]) - middles);
    scales[start / block] = scale;
  }
}

}  // extern "C"
