// Products in int8 with weights in NF4: their codes become int8 tiles as they are needed.

#include "int8.h"

#if defined(MULTIPLIES_IN_INT8)
#include "adapter.h"
#include "tile_products.h"

#include <memory>

#if defined(MULTIPLIES_BY_VNNI)
#include "bfloat16.h"
#include "transposed.h"
#else
#include "madd_gradient.h"
#endif

namespace {

// The 16 values of the code as bytes, value + 128.
struct CodeBytes {
  alignas(16) uint8_t bytes[16];

  explicit CodeBytes(const float* code) {
    for (int i = 0; i < 16; i++) bytes[i] = uint8_t(std::lround(code[i] * 127.0f) + 128);
  }
  __m128i values() const { return _mm_load_si128(reinterpret_cast<const __m128i*>(bytes)); }
};

#if defined(MULTIPLIES_BY_VNNI)
constexpr int SIDE = 16;  // rows whose bytes are read together

// columns[i] = the i-th four bytes of all 16 rows.
inline void gather(const uint8_t* const rows[16], __m512i columns[8]) {
  __m512i fours[8];
  for (int i = 0; i < 8; i += 4) {  // rows 2 i to 2 i + 7: four of them in the lower halves, four in the upper ones
    __m512i pairs[4], halves[4];
    for (int k = 0; k < 4; k++) {
      const __m256i lower = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[2 * i + k]));
      const __m256i upper = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[2 * i + k + 4]));
      pairs[k] = _mm512_inserti64x4(_mm512_castsi256_si512(lower), upper, 1);
    }
    for (int k = 0; k < 4; k += 2) {
      halves[k] = _mm512_unpacklo_epi32(pairs[k], pairs[k + 1]);
      halves[k + 1] = _mm512_unpackhi_epi32(pairs[k], pairs[k + 1]);
    }
    for (int k = 0; k < 2; k++) {
      fours[i + 2 * k] = _mm512_unpacklo_epi64(halves[k], halves[k + 2]);
      fours[i + 2 * k + 1] = _mm512_unpackhi_epi64(halves[k], halves[k + 2]);
    }
  }
  for (int k = 0; k < 4; k++) {  // lanes of fours[k]: columns k and 4 + k, of the first four rows and of the next four
    columns[k] = _mm512_shuffle_i32x4(fours[k], fours[4 + k], 0x88);
    columns[4 + k] = _mm512_shuffle_i32x4(fours[k], fours[4 + k], 0xDD);
  }
}

// Blocks of as many rows as codes, [16 groups][TILE_OUTPUTS][GROUP].
inline void put_codes(const uint8_t* const rows[SIDE], const CodeBytes& code, uint8_t* to) {
  __m512i columns[8];
  gather(rows, columns);
  const __m512i bytes = _mm512_broadcast_i32x4(code.values()), low = _mm512_set1_epi8(15);
  for (int i = 0; i < 8; i++) {  // four bytes of each row: eight inputs, the even ones in the high halves
    const __m512i even = _mm512_and_si512(_mm512_srli_epi16(columns[i], 4), low), odd = _mm512_and_si512(columns[i], low);
    _mm512_store_si512(to + 2 * i * TILE_OUTPUTS * GROUP, _mm512_shuffle_epi8(bytes, even));
    _mm512_store_si512(to + (2 * i + 1) * TILE_OUTPUTS * GROUP, _mm512_shuffle_epi8(bytes, odd));
  }
}
#else
constexpr int SIDE = 8;  // rows whose bytes are read together

// Blocks of as many rows as codes, [16 groups][TILE_OUTPUTS][GROUP].
inline void put_codes(const uint8_t* const rows[SIDE], const CodeBytes& code, uint8_t* to) {
  Vec columns[SIDE];
  for (int i = 0; i < SIDE; i++) columns[i] = load(reinterpret_cast<const float*>(rows[i]));
  turn<1>(columns);
  const __m256i bytes = _mm256_broadcastsi128_si256(code.values()), low = _mm256_set1_epi8(15);
  for (int i = 0; i < SIDE; i++) {  // four bytes of each row: eight inputs, the even ones in the high halves
    const __m256i even = _mm256_and_si256(_mm256_srli_epi16((__m256i)columns[i], 4), low);
    const __m256i odd = _mm256_and_si256((__m256i)columns[i], low);
    const auto at = [&](int group) { return reinterpret_cast<__m256i*>(to + group * TILE_OUTPUTS * GROUP); };
    _mm256_store_si256(at(2 * i), _mm256_shuffle_epi8(bytes, even));
    _mm256_store_si256(at(2 * i + 1), _mm256_shuffle_epi8(bytes, odd));
  }
}
#endif

struct CodedTiles : MadeTiles<float> {
  // Tile `number`: 32 outputs from `output`, blocks from `first`.
  void fill(int number, const NF4Rows& weights, const CodeBytes& code, long output, long first, long blocks) {
    for (long block = 0; block < blocks; block++)
      for (int place = 0; place < TILE_OUTPUTS; place += SIDE)
        fill_side(number, weights, code, output + place, first + block, block, place);
  }

  void fill_side(int number, const NF4Rows& weights, const CodeBytes& code, long output, long from, long block, int place) {
    const long row_blocks = weights.inputs / BLOCK, first = output * row_blocks + from;
    const int present = int(std::clamp(weights.outputs - output, 0L, long(SIDE)));
    float* factors = scales[number] + block * TILE_OUTPUTS + place;
    for (int i = 0; i < SIDE; i++)
      factors[i] = i < present ? weights.scale(first + i * row_blocks) * (1 / 127.0f) : 0.0f;
    const uint8_t* rows[SIDE];  // those that are not there get the scale 0: the first row's bytes will do
    for (int i = 0; i < SIDE; i++) rows[i] = weights.values + (i < present ? first + i * row_blocks : 0) * (BLOCK / 2);
    put_codes(rows, code, values[number] + block * BLOCK_BYTES + place * GROUP);
  }
};

}  // namespace

void nf4_product(const NF4Rows& weights, const float* x, long x_stride, float* out, long out_stride, long rows,
                 const float* bias, const Adapter* adapter, void* scratch, int threads) {
  const long blocks = weights.inputs / BLOCK, tiles = (weights.outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
  const RoundedRows left(scratch, rows, blocks, 1);
  round_rows(x, x_stride, rows, weights.inputs, Order::PAIRED, left, threads);
  const CodeBytes code(weights.code);
  by_workers(threads, [&](const Worker& worker) {
    const std::unique_ptr<CodedTiles> made(new CodedTiles);
    [[maybe_unused]] const MatrixTiles matrix_tiles;
    each_two_tiles(worker, 1, tiles, [&](long, long tile, long count) {
      const long first = tile * TILE_OUTPUTS;
      const int width = int(std::min(count * TILE_OUTPUTS, weights.outputs - first));
      for (long block = 0; block < blocks; block += CodedTiles::BLOCKS) {
        const long depth = std::min(CodedTiles::BLOCKS, blocks - block);
        for (int i = 0; i < count; i++) made->fill(i, weights, code, first + i * TILE_OUTPUTS, block, depth);
        const TileProduct<float> right{made->values[0], made->scales[0], depth, 1, CodedTiles::BLOCKS,
                                       bias && !block ? bias + first : nullptr, width, block > 0, nullptr};
        multiply(right, left.at(0, block), rows, out + first, out_stride,
                 [&](long row, long some, float* to, long stride) {
                   if (adapter && block + depth == blocks) add_adapter(*adapter, first, width, row, some, to, stride);
                 });
      }
    });
  });
}

#if defined(MULTIPLIES_BY_VNNI)
namespace {

// The weights as `multiply_transposed` takes them.
struct Columns {
  const NF4Rows& rows;
  const long outputs = rows.outputs;
  const __m512 code = _mm512_loadu_ps(rows.code);

  template <class Take>
  void read(long output, long input, const Take& take) const {
    for (long first = 0; first < BLOCK; first += 8) {
      __m512 eight[8];
      for (int i = 0; i < 8; i++)
        eight[i] = output + first + i < outputs ? sixteen(output + first + i, input) : _mm512_setzero_ps();
      take(first, eight);
    }
  }

  // Asks for an eighth of what 32 outputs have for 32 inputs, if that begins a line; `line` is even, up to 14.
  __attribute__((always_inline)) void fetch(long output, long input, long line) const {
    if (line >= 16 || input % 128) return;
    for (long row = output + 2 * line; row < std::min(outputs, output + 2 * line + 4); row++)
      __builtin_prefetch(rows.values + (row * rows.inputs + input) / 2, 0, 2);
  }

  // Inputs of an output.
  __m512 sixteen(long output, long input) const {
    const long place = output * rows.inputs + input;
    const __m128i pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(rows.values + place / 2));
    const __m128i low = _mm_set1_epi8(15), first = _mm_and_si128(_mm_srli_epi16(pairs, 4), low);
    const __m512i codes = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(first, _mm_and_si128(pairs, low)));
    const __m512 scale = _mm512_set1_ps(rows.scale(place / BLOCK));
    return _mm512_mul_ps(_mm512_permutexvar_ps(codes, code), scale);
  }
};

}  // namespace

void nf4_straight_product(const NF4Rows& weights, const float* grad, long grad_stride, float* out, long out_stride,
                          long rows, const AdapterBackward* adapter, void* scratch, int threads) {
#if defined(MULTIPLIES_IN_BFLOAT16)
  if (multiplies_in_bfloat16()) {
    const ColumnTiles tiles{static_cast<float*>(scratch), rows, weights.inputs / TILE_OUTPUTS};
    adapted_product_in_halves(Columns{weights}, grad, grad_stride, tiles, adapter, false, tiles.end(), threads);
    return in_parallel(rows, threads, [&](long row) {
      for (long column = 0; column < weights.inputs; column += 16)
        _mm512_storeu_ps(out + row * out_stride + column, tiles.sixteen(row, column));
    });
  }
#endif
  const RoundedRows left(scratch, rows, blocks_of(weights.outputs), 1);
  round_rows(grad, grad_stride, rows, weights.outputs, Order::TURNED, left, threads);
  multiply_transposed(Columns{weights}, left, out, out_stride, rows, weights.inputs, [](long, float*, long) {}, threads);
}

#else
namespace {

// The weights as `multiply_straight` takes them.
struct Pairs {
  static constexpr long WIDTH = BLOCK;  // inputs that have one scale
  const NF4Rows& rows;
  const CodeBytes code{rows.code};
  const long outputs = rows.outputs, inputs = rows.inputs;

  void read_scales(long output, long count, long input, float* to) const {
    for (long i = 0; i < count; i++) to[i] = rows.scale(((output + i) * inputs + input) / BLOCK) * (1 / 127.0f);
  }

  // Outputs that are not there have gradients of 0: the last one's numbers will do.
  void read_pairs(long output, long input, Rounded* to) const {
    for (long i = 0; i < EIGHT; i += 2, to += 2 * STRIP) {
      const __m128i first = sixteen(output + i, input), second = sixteen(output + i + 1, input);
      const __m128i lower = _mm_unpacklo_epi8(first, second), upper = _mm_unpackhi_epi8(first, second);
      _mm256_store_si256(reinterpret_cast<__m256i*>(to), _mm256_cvtepi8_epi16(lower));
      _mm256_store_si256(reinterpret_cast<__m256i*>(to + STRIP), _mm256_cvtepi8_epi16(upper));
    }
  }

  // Inputs of an output.
  __m128i sixteen(long output, long input) const {
    const long place = std::min(output, outputs - 1) * inputs + input;
    const __m128i pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(rows.values + place / 2));
    const __m128i low = _mm_set1_epi8(15), first = _mm_and_si128(_mm_srli_epi16(pairs, 4), low);
    const __m128i codes = _mm_unpacklo_epi8(first, _mm_and_si128(pairs, low));
    return _mm_xor_si128(_mm_shuffle_epi8(code.values(), codes), _mm_set1_epi8(-128));
  }
};

}  // namespace

void nf4_straight_product(const NF4Rows& weights, const float* grad, long grad_stride, float* out, long out_stride,
                          long rows, const AdapterBackward*, void* scratch, int threads) {
  multiply_straight(Pairs{weights}, grad, grad_stride, out, out_stride, rows, static_cast<float*>(scratch), threads);
}
#endif

#else

void nf4_product(const NF4Rows&, const float*, long, float*, long, long, const float*, const Adapter*, void*, int) {}
void nf4_straight_product(const NF4Rows&, const float*, long, float*, long, long, const AdapterBackward*, void*, int) {}

#endif
