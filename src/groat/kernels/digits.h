// Products of numbers of two digits, 8 bits each, with keys or values in int8: whole numbers, and exact.
//
// The right side is 64 columns, as matrix tiles and VNNI read them: for every 16 columns their first four bytes, then the
// next four. The left side's rows are the upper digits of some numbers, then their lower ones.

#pragma once

#include "key_blocks.h"

#include "amx.h"
#if defined(MULTIPLIES_BY_VNNI)
#define GROAT_ATTENDS_IN_DIGITS 1
#include "vnni.h"

namespace {

constexpr int SIXTEENS = KEYS / SIXTEEN, SIXTEEN_BYTES = 1024;  // of columns
constexpr int KEY_BITS = 7, WEIGHT_BITS = 8;                   // of a lower digit: of queries, and of what weighs values
static_assert(BLOCK == KEYS);

// Rows of a task's queries or of their weights, `together` of each digit, and what they are multiplied with.
struct Digits {
  const void* rows;  // [pieces][2 together][64 bytes]
  long together;
  const int8_t* columns;  // [pieces][SIXTEENS][SIXTEEN_BYTES]
  long pieces;
};

inline __m512i joined(__m512i upper, __m512i lower, int bits) { return _mm512_add_epi32(_mm512_slli_epi32(upper, bits), lower); }

// By VNNI, three rows of each digit at a time. It wants one side unsigned, so keys come as value + 128.
class VnniDigits {
 public:
  static constexpr long MOST_QUERIES = 12;
  static constexpr char KEY_OFFSET = char(128);
  struct Setup {
    explicit Setup(long) {}
  };

  explicit VnniDigits(long together, Room& room) : wholes(reinterpret_cast<int32_t*>(room.take(together * KEYS))) {}
  static long lines(long together) { return Room::lines_of(together * KEYS); }

  // Products of `some` queries with keys; `excess` is what each one's begins with, to take the offset off.
  void score(const Digits& digits, long some, const int32_t* excess, Ahead& ahead) {
    multiply<true>(digits, some, SIXTEEN, excess, ahead);
  }

  // Weighed values of so many keys.
  void add(const Digits& digits, long some, long keys, Ahead& ahead) {
    multiply<false>(digits, some, (keys + GROUP - 1) / GROUP, nullptr, ahead);
  }

  // Sixteen of query i's products.
  template <int BITS>
  Vec products(long i, int sixteen) const {
    return (Vec)_mm512_cvtepi32_ps(_mm512_load_si512(wholes + i * KEYS + sixteen * SIXTEEN));
  }

 private:
  static constexpr long AT_ONCE = 3;
  int32_t* wholes;  // [together][KEYS]

  template <bool SCORES>
  void multiply(const Digits& digits, long some, long groups, const int32_t* excess, Ahead& ahead) {
    for (long first = 0; first < some;) {
      const long left = some - first, here = left == 4 ? 2 : std::min(AT_ONCE, left);
      const auto few = here == 3 ? multiply_few<3, SCORES> : here == 2 ? multiply_few<2, SCORES> : multiply_few<1, SCORES>;
      few(digits, first, groups, excess, wholes + first * KEYS);
      ahead.fetch(3);
      first += here;
    }
  }

  // Not inlined, or the sums would share their registers with what surrounds them.
  template <int QUERIES, bool SCORES>
  __attribute__((noinline)) static void multiply_few(const Digits& digits, long first, long groups, const int32_t* excess,
                                                     int32_t* to) {
    constexpr int BITS = SCORES ? KEY_BITS : WEIGHT_BITS;
    __m512i upper[QUERIES][SIXTEENS], lower[QUERIES][SIXTEENS];
#pragma GCC unroll 4
    for (int query = 0; query < QUERIES; query++)
#pragma GCC unroll 4
      for (int i = 0; i < SIXTEENS; i++) {
        upper[query][i] = _mm512_setzero_si512();
        lower[query][i] = SCORES ? _mm512_set1_epi32(excess[first + query]) : _mm512_setzero_si512();
      }
    const int8_t* rows = static_cast<const int8_t*>(digits.rows) + first * BLOCK;
    const int8_t* columns = digits.columns;
    const long to_lower = digits.together * BLOCK;
    for (long piece = 0; piece < digits.pieces; piece++) {
      for (long group = 0; group < groups; group++) {
        __m512i numbers[SIXTEENS];
#pragma GCC unroll 4
        for (int i = 0; i < SIXTEENS; i++)
          numbers[i] = _mm512_load_si512(columns + i * SIXTEEN_BYTES + group * BLOCK);
#pragma GCC unroll 4
        for (int query = 0; query < QUERIES; query++) {
          const int8_t* row = rows + query * BLOCK + group * GROUP;
          const __m512i upper_four = four_of(row), lower_four = four_of(row + to_lower);
#pragma GCC unroll 4
          for (int i = 0; i < SIXTEENS; i++) add_four<SCORES>(upper[query][i], numbers[i], upper_four);
#pragma GCC unroll 4
          for (int i = 0; i < SIXTEENS; i++) add_four<SCORES>(lower[query][i], numbers[i], lower_four);
        }
      }
      rows += 2 * to_lower, columns += SIXTEENS * SIXTEEN_BYTES;
    }
#pragma GCC unroll 4
    for (int query = 0; query < QUERIES; query++)
#pragma GCC unroll 4
      for (int i = 0; i < SIXTEENS; i++)
        _mm512_store_si512(to + query * KEYS + i * SIXTEEN, joined(upper[query][i], lower[query][i], BITS));
  }

  // Keys are unsigned and queries signed, weights unsigned and values signed.
  template <bool SCORES>
  static void add_four(__m512i& sums, __m512i numbers, __m512i four) {
    if constexpr (SCORES) add_products(sums, numbers, four);
    else add_products(sums, four, numbers);
  }
};

#if defined(__AMX_INT8__) && defined(__AMX_TILE__)
#define GROAT_ATTENDS_BY_TILES 1

// By matrix tiles.
class TileDigits {
 public:
  static constexpr long MOST_QUERIES = 8;  // two rows of a tile each
  static constexpr char KEY_OFFSET = 0;

  // What a thread sets up first, for so many queries together.
  class Setup {
   public:
    explicit Setup(long together) : tiles(TileShapes::lower(2 * together, 5)) {}

   private:
    MatrixTiles tiles;
  };

  TileDigits(long together, Room& room)
      : together(together), wholes(reinterpret_cast<int32_t*>(room.take(2 * together * KEYS))) {}
  static long lines(long together) { return Room::lines_of(2 * together * KEYS); }

  void score(const Digits& digits, long, const int32_t*, Ahead& ahead) {
    begin_sums();
    for (long piece = 0; piece < digits.pieces; piece++) {
      const int8_t* keys = digits.columns + piece * SIXTEENS * SIXTEEN_BYTES;
      _tile_loadd(4, static_cast<const int8_t*>(digits.rows) + piece * 2 * together * BLOCK, BLOCK);
      _tile_loadd(5, keys, BLOCK);
      _tile_dpbssd(0, 4, 5);
      ahead.fetch(1);
      _tile_loadd(6, keys + SIXTEEN_BYTES, BLOCK);
      _tile_dpbssd(1, 4, 6);
      ahead.fetch(1);
      _tile_loadd(7, keys + 2 * SIXTEEN_BYTES, BLOCK);
      _tile_dpbssd(2, 4, 7);
      ahead.fetch(1);
      _tile_loadd(5, keys + 3 * SIXTEEN_BYTES, BLOCK);
      _tile_dpbssd(3, 4, 5);
      ahead.fetch(1);
    }
    store_wholes();
  }

  void add(const Digits& digits, long, long, Ahead& ahead) {
    const int8_t* values = digits.columns;
    begin_sums();
    _tile_loadd(4, digits.rows, BLOCK);
    _tile_loadd(5, values, BLOCK);
    _tile_dpbusd(0, 4, 5);
    ahead.fetch(1);
    _tile_loadd(6, values + SIXTEEN_BYTES, BLOCK);
    _tile_dpbusd(1, 4, 6);
    _tile_loadd(7, values + 2 * SIXTEEN_BYTES, BLOCK);
    _tile_dpbusd(2, 4, 7);
    ahead.fetch(1);
    _tile_loadd(5, values + 3 * SIXTEEN_BYTES, BLOCK);
    _tile_dpbusd(3, 4, 5);
    store_wholes();
  }

  template <int BITS>
  Vec products(long i, int sixteen) const {
    const __m512i upper = _mm512_load_si512(wholes + i * KEYS + sixteen * SIXTEEN);
    const __m512i lower = _mm512_load_si512(wholes + (together + i) * KEYS + sixteen * SIXTEEN);
    return (Vec)_mm512_cvtepi32_ps(joined(upper, lower, BITS));
  }

 private:
  const long together;
  int32_t* wholes;  // [2 together][KEYS]

  static void begin_sums() {
    asm volatile("" ::: "memory");  // tiles are loaded behind the compiler's back
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }

  void store_wholes() {
    constexpr int STRIDE = KEYS * sizeof(int32_t);
    _tile_stored(0, wholes, STRIDE);
    _tile_stored(1, wholes + SIXTEEN, STRIDE);
    _tile_stored(2, wholes + 2 * SIXTEEN, STRIDE);
    _tile_stored(3, wholes + 3 * SIXTEEN, STRIDE);
  }
};

#endif

}  // namespace

#endif
