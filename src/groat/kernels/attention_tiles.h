// Attention to keys and values in int8 by matrix tiles, on x86 CPUs with AMX, for heads of whole 64 numbers.
//
// Queries, and the weights of the values, are rounded to fixed point of 15 and 16 bits, which is two digits of 8 bits each.
// Their products with keys and values are then sums of whole numbers, and exact: a row has the same, bit for bit, whichever
// rows share its tile.

#pragma once

#include "key_blocks.h"

#if defined(__AMX_INT8__) && defined(__AMX_TILE__) && defined(__AVX512BW__)
#define GROAT_ATTENDS_BY_TILES 1
#include "amx.h"

namespace {

constexpr long MOST_TILE_QUERIES = 8;  // two rows of a tile each
constexpr int SIXTEENS = KEYS / SIXTEEN, TILE_BYTES = 1024;

inline bool tiles_attend(const Shape& shape) { return shape.size % BLOCK == 0 && tiles_are_allowed(); }

// Sixteen rows of 64 bytes: the fours of a row become the rows of a tile, a column for each row.
inline void turn_fours(Vec* rows, int8_t* tile) {
  turn<1>(rows);
  for (int i = 0; i < SIXTEEN; i++) _mm512_store_si512(tile + i * BLOCK, (__m512i)rows[i]);
}

// Keys and values as tiles: a key's numbers go down its column by fours, a value's across by fours of keys.
struct TileBlock : KeyBlock<int8_t> {
  const long size, pieces;  // of 64 numbers
  int8_t *key_tiles, *value_tiles;  // [pieces][4 tiles]

  TileBlock(const Shape& shape, Room& room)
      : size(shape.size), pieces(size / BLOCK), key_tiles(reinterpret_cast<int8_t*>(room.take(KEYS * size / 4))),
        value_tiles(reinterpret_cast<int8_t*>(room.take(KEYS * size / 4))) {}
  static long lines(const Shape& shape) { return 2 * Room::lines_of(KEYS * shape.size / 4); }

  void pack() {
    const int whole = fill(SIXTEEN);
    for (long piece = 0; piece < pieces; piece++)
      for (int first = 0; first < whole; first += SIXTEEN) {
        pack_keys(first, piece);
        for (int key = first; key < first + SIXTEEN; key += GROUP) pack_values(key, piece);
      }
  }

 private:
  void pack_keys(int first, long piece) {
    Vec rows[SIXTEEN];
    for (int i = 0; i < SIXTEEN; i++) rows[i] = (Vec)_mm512_loadu_si512(keys.numbers[first + i] + piece * BLOCK);
    ahead.fetch(2);
    turn_fours(rows, key_tiles + (piece * SIXTEENS + first / SIXTEEN) * TILE_BYTES);
  }

  // Four values, byte beside byte. Tile i has numbers 4 i to 4 i + 3 of every sixteen.
  void pack_values(int first, long piece) {
    __m512i rows[GROUP];
    for (int i = 0; i < GROUP; i++) rows[i] = _mm512_loadu_si512(values.numbers[first + i] + piece * BLOCK);
    if (first % SIXTEEN == 0) ahead.fetch(1);
    const __m512i low = _mm512_unpacklo_epi8(rows[0], rows[1]), high = _mm512_unpackhi_epi8(rows[0], rows[1]);
    const __m512i low_others = _mm512_unpacklo_epi8(rows[2], rows[3]);
    const __m512i high_others = _mm512_unpackhi_epi8(rows[2], rows[3]);
    int8_t* to = value_tiles + piece * SIXTEENS * TILE_BYTES + first / GROUP * BLOCK;
    _mm512_store_si512(to, _mm512_unpacklo_epi16(low, low_others));
    _mm512_store_si512(to + TILE_BYTES, _mm512_unpackhi_epi16(low, low_others));
    _mm512_store_si512(to + 2 * TILE_BYTES, _mm512_unpacklo_epi16(high, high_others));
    _mm512_store_si512(to + 3 * TILE_BYTES, _mm512_unpackhi_epi16(high, high_others));
  }
};

// The queries of a task over ever more keys, a few at a time: the rows of a tile are their upper digits, then their lower
// ones.
class TileRunning {
 public:
  using Block = TileBlock;
  using Number = int8_t;

  // What a thread sets up first, for tasks of at most so many queries.
  class Setup {
   public:
    explicit Setup(long most_queries) : tiles(TileShapes::lower(2 * tile_queries(most_queries), 5)) {}

   private:
    MatrixTiles tiles;
  };

  TileRunning(const Task& task, const float* from, long most_queries, Room& room)
      : task(task), size(task.shape->size), pieces(size / BLOCK), count(task.num_queries()),
        together(tile_queries(most_queries)) {
    digits = reinterpret_cast<int8_t*>(room.take(num_tiles(count, together) * together * 2 * size / 4));
    outputs = room.take(count * size), scales = room.take(count), maxima = room.take(count);
    sums = room.take(count * LANES), scores = room.take(KEYS);
    weights = reinterpret_cast<uint8_t*>(room.take(2 * MOST_TILE_QUERIES * KEYS / 4));
    weight_scales = room.take(MOST_TILE_QUERIES);
    wholes = reinterpret_cast<int32_t*>(room.take(2 * MOST_TILE_QUERIES * KEYS));
    std::fill(maxima, maxima + count, -std::numeric_limits<float>::infinity());
    std::fill(sums, sums + count * LANES, 0.0f);
    std::fill(outputs, outputs + count * size, 0.0f);
    for (long query = 0; query < count; query++) round_query(from + task.place(query) * size, query);
  }
  static long lines(long most, const Shape& shape) {
    const long together = tile_queries(most);
    return Room::lines_of(num_tiles(most, together) * together * 2 * shape.size / 4) + Room::lines_of(most * shape.size) +
           2 * Room::lines_of(most) + Room::lines_of(most * LANES) + Room::lines_of(KEYS) +
           Room::lines_of(2 * MOST_TILE_QUERIES * KEYS / 4) + Room::lines_of(MOST_TILE_QUERIES) +
           Room::lines_of(2 * MOST_TILE_QUERIES * KEYS);
  }

  // The keys from position `start` on.
  void attend(TileBlock& block, long start) {
    const long hidden = std::max(0L, start - task.span->position - task.from) * task.shape->group();
    for (long tile = hidden / together; tile < num_tiles(count, together); tile++) {
      const long first = tile * together, some = std::min(together, count - first);
      score(block, tile);
      for (long i = 0; i < some; i++) {
        block.ahead.fetch(1);
        weigh(block, first + i, i, first + i < hidden ? 0 : task.seen(first + i, start, KEYS));
      }
      for (long piece = 0; piece < pieces; piece++) add(block, piece, first, some);
    }
  }

  void finish(float* out, float* lse) const {
    for (long query = 0; query < count; query++) {
      const float total = softmax(query).total(), inverse = 1.0f / total;
      float* to = out + task.place(query) * size;
      for (long i = 0; i < size; i += BLOCK) {
        Vec vectors[SIXTEENS];
        for (int j = 0; j < SIXTEENS; j++) vectors[j] = load(outputs + query * size + i + j * LANES) * inverse;
        turn<4>(vectors);
        for (int j = 0; j < SIXTEENS; j++) store(to + i + j * LANES, vectors[j]);
      }
      if (lse) lse[task.lse_place(query)] = maxima[query] + std::log(total);
    }
  }

 private:
  const Task& task;
  const long size, pieces, count, together;
  int8_t* digits;  // [tiles][pieces][2 together][64]
  // An output's numbers lie in the order of the tiles: 4 i to 4 i + 3 of every sixteen, for each i.
  float *outputs, *scales, *maxima, *sums, *scores, *weight_scales;
  uint8_t* weights;  // [2 together][KEYS]
  int32_t* wholes;   // [2 together][64]

  static long tile_queries(long most) { return std::min(MOST_TILE_QUERIES, most); }
  static long num_tiles(long count, long together) { return (count + together - 1) / together; }
  Softmax softmax(long query) const { return {maxima + query, sums + query * LANES, outputs + query * size, size}; }
  int8_t* digits_of(long tile, long piece) const { return digits + (tile * pieces + piece) * 2 * together * BLOCK; }

  // To whole numbers of at most 127 * 128; what is not finite has the scale NaN.
  void round_query(const float* query, long number) {
    const long tile = number / together, row = number % together;
    const RoundedHead rounded(query, size, 127.0f * 128.0f);
    scales[number] = rounded.scale * task.shape->scale();
    for (long i = 0; i < size; i += LANES) {
      const __m512i whole = (__m512i)rounded.part(i);
      const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(64)), 7);
      const __m512i lower = _mm512_sub_epi32(whole, _mm512_slli_epi32(upper, 7));
      int8_t* to = digits_of(tile, i / BLOCK) + row * BLOCK + i % BLOCK;
      store_part(to, LANES, (IntVec)upper), store_part(to + together * BLOCK, LANES, (IntVec)lower);
    }
  }

  // Products of the digits with all keys.
  void score(TileBlock& block, long tile) {
    begin_sums();
    for (long piece = 0; piece < pieces; piece++) {
      const int8_t* keys = block.key_tiles + piece * SIXTEENS * TILE_BYTES;
      _tile_loadd(4, digits_of(tile, piece), BLOCK);
      _tile_loadd(5, keys, BLOCK);
      _tile_dpbssd(0, 4, 5);
      block.ahead.fetch(1);
      _tile_loadd(6, keys + TILE_BYTES, BLOCK);
      _tile_dpbssd(1, 4, 6);
      block.ahead.fetch(1);
      _tile_loadd(7, keys + 2 * TILE_BYTES, BLOCK);
      _tile_dpbssd(2, 4, 7);
      block.ahead.fetch(1);
      _tile_loadd(5, keys + 3 * TILE_BYTES, BLOCK);
      _tile_dpbssd(3, 4, 5);
      block.ahead.fetch(1);
    }
    store_wholes();
  }

  void add(TileBlock& block, long piece, long first, long some) {
    const int8_t* values = block.value_tiles + piece * SIXTEENS * TILE_BYTES;
    begin_sums();
    _tile_loadd(4, weights, KEYS);
    _tile_loadd(5, values, BLOCK);
    _tile_dpbusd(0, 4, 5);
    block.ahead.fetch(1);
    _tile_loadd(6, values + TILE_BYTES, BLOCK);
    _tile_dpbusd(1, 4, 6);
    _tile_loadd(7, values + 2 * TILE_BYTES, BLOCK);
    _tile_dpbusd(2, 4, 7);
    block.ahead.fetch(1);
    _tile_loadd(5, values + 3 * TILE_BYTES, BLOCK);
    _tile_dpbusd(3, 4, 5);
    store_wholes();
    for (long i = 0; i < some; i++) {
      const Vec scale = splat(weight_scales[i]);
      block.ahead.fetch(1);
      float* to = outputs + (first + i) * size + piece * BLOCK;
      for (int j = 0; j < SIXTEENS; j++)
        store(to + j * LANES, load(to + j * LANES) + both_digits(i, j, 8) * scale);
    }
  }

  void begin_sums() {
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

  // Sixteen sums of row i: of its upper digit, which is worth 2^bits lower ones, and of its lower one.
  Vec both_digits(long i, int vector, int bits) const {
    const __m512i upper = _mm512_load_si512(wholes + i * KEYS + vector * SIXTEEN);
    const __m512i lower = _mm512_load_si512(wholes + (together + i) * KEYS + vector * SIXTEEN);
    return (Vec)_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(upper, bits), lower));
  }

  // Products of query i of the tile become weights of the values, in whole steps of their largest: 65535 of them.
  void weigh(TileBlock& block, long query, long i, int seen) {
    uint8_t *upper = weights + i * KEYS, *lower = upper + together * KEYS;
    std::memset(upper, 0, KEYS), std::memset(lower, 0, KEYS);
    weight_scales[i] = 0;
    if (!seen) return;
    const int vectors = (seen + LANES - 1) / LANES;
    for (int j = 0; j < vectors; j++)
      store(scores + j * LANES, both_digits(i, j, 7) * (load(block.keys.scales + j * LANES) * scales[query]));
    block.ahead.fetch(1);
    softmax(query).weigh(scores, seen);
    block.ahead.fetch(1);
    Vec scaled[SIXTEENS];
    for (int j = 0; j < vectors; j++) {
      const Vec product = load(scores + j * LANES) * load(block.values.scales + j * LANES);
      scaled[j] = lane_numbers() + j * LANES < seen ? product : Vec{};
    }
    const float largest = largest_magnitude(vectors, [&](long j) { return scaled[j]; });
    block.ahead.fetch(1);
    const float steps = largest > 0 ? 65535.0f / largest : 0.0f;
    for (int j = 0; j < vectors; j++) {
      const __m512i whole = _mm512_cvtps_epi32((__m512)(scaled[j] * steps));
      _mm_store_si128(reinterpret_cast<__m128i*>(upper + j * LANES), _mm512_cvtepi32_epi8(_mm512_srli_epi32(whole, 8)));
      _mm_store_si128(reinterpret_cast<__m128i*>(lower + j * LANES), _mm512_cvtepi32_epi8(whole));
    }
    weight_scales[i] = largest / 65535.0f;
  }
};

}  // namespace

#endif
