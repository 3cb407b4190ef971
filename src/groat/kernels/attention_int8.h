// Attention to keys and values in int8 by products in int8, for heads of whole 64 numbers: on x86 CPUs with matrix tiles or VNNI.
//
// Queries, and the weights of the values, are rounded to fixed point of 15 and 16 bits, which is two digits of 8 bits each.
// Their products with keys and values are then sums of whole numbers, and exact: a row has the same, bit for bit, whichever
// rows come with it and whatever multiplies them.

#pragma once

#include "digits.h"

#if GROAT_ATTENDS_IN_DIGITS

namespace {

inline bool attends_in_digits(const Shape& shape) { return shape.size % BLOCK == 0; }

// Sixteen rows of 64 bytes: the fours of a row become a column.
inline void turn_fours(Vec* rows, int8_t* columns) {
  turn<1>(rows);
  for (int i = 0; i < SIXTEEN; i++) _mm512_store_si512(columns + i * BLOCK, (__m512i)rows[i]);
}

// Keys and values as columns: a key's numbers go down its own by fours, a value's across by fours of keys.
template <class Products>
struct ColumnBlock : KeyBlock<int8_t> {
  const long size, pieces;  // of 64 numbers
  int8_t *key_columns, *value_columns;  // [pieces][SIXTEENS][SIXTEEN_BYTES]

  ColumnBlock(const Shape& shape, Room& room)
      : size(shape.size), pieces(size / BLOCK), key_columns(reinterpret_cast<int8_t*>(room.take(KEYS * size / 4))),
        value_columns(reinterpret_cast<int8_t*>(room.take(KEYS * size / 4))) {}
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
    for (int i = 0; i < SIXTEEN; i++) rows[i] = (Vec)key_bytes(first + i, piece);
    ahead.fetch(2);
    turn_fours(rows, key_columns + (piece * SIXTEENS + first / SIXTEEN) * SIXTEEN_BYTES);
  }

  __m512i key_bytes(int key, long piece) const {
    const __m512i bytes = _mm512_loadu_si512(keys.numbers[key] + piece * BLOCK);
    return _mm512_xor_si512(bytes, _mm512_set1_epi8(Products::KEY_OFFSET));
  }

  // Four values, byte beside byte. The sixteen i has numbers 4 i to 4 i + 3 of every sixteen.
  void pack_values(int first, long piece) {
    __m512i rows[GROUP];
    for (int i = 0; i < GROUP; i++) rows[i] = _mm512_loadu_si512(values.numbers[first + i] + piece * BLOCK);
    if (first % SIXTEEN == 0) ahead.fetch(1);
    const __m512i low = _mm512_unpacklo_epi8(rows[0], rows[1]), high = _mm512_unpackhi_epi8(rows[0], rows[1]);
    const __m512i low_others = _mm512_unpacklo_epi8(rows[2], rows[3]);
    const __m512i high_others = _mm512_unpackhi_epi8(rows[2], rows[3]);
    int8_t* to = value_columns + piece * SIXTEENS * SIXTEEN_BYTES + first / GROUP * BLOCK;
    _mm512_store_si512(to, _mm512_unpacklo_epi16(low, low_others));
    _mm512_store_si512(to + SIXTEEN_BYTES, _mm512_unpackhi_epi16(low, low_others));
    _mm512_store_si512(to + 2 * SIXTEEN_BYTES, _mm512_unpacklo_epi16(high, high_others));
    _mm512_store_si512(to + 3 * SIXTEEN_BYTES, _mm512_unpackhi_epi16(high, high_others));
  }
};

// The queries of a task over ever more keys, a few at a time.
template <class Products>
class DigitRunning {
 public:
  using Block = ColumnBlock<Products>;
  using Number = int8_t;

  // What a thread sets up first, for tasks of at most so many queries.
  struct Setup : Products::Setup {
    explicit Setup(long most_queries) : Products::Setup(queries_together(most_queries)) {}
  };

  DigitRunning(const Task& task, const float* from, long most_queries, Room& room)
      : task(task), size(task.shape->size), pieces(size / BLOCK), count(task.num_queries()),
        together(queries_together(most_queries)), products(together, room) {
    digits = reinterpret_cast<int8_t*>(room.take(num_parts(count, together) * together * 2 * size / 4));
    outputs = room.take(count * size), scales = room.take(count), maxima = room.take(count);
    excess = reinterpret_cast<int32_t*>(room.take(count)), limits = reinterpret_cast<int32_t*>(room.take(count));
    sums = room.take(count * LANES), scores = room.take(KEYS);
    weights = reinterpret_cast<uint8_t*>(room.take(2 * together * KEYS / 4));
    weight_scales = room.take(together);
    std::fill(maxima, maxima + count, -std::numeric_limits<float>::infinity());
    std::fill(sums, sums + count * LANES, 0.0f);
    std::fill(outputs, outputs + count * size, 0.0f);
    for (long query = 0; query < count; query++) round_query(from + task.place(query) * size, query);
  }
  static long lines(long most, const Shape& shape) {
    const long together = queries_together(most);
    return Products::lines(together) + Room::lines_of(num_parts(most, together) * together * 2 * shape.size / 4) +
           Room::lines_of(most * shape.size) + 4 * Room::lines_of(most) + Room::lines_of(most * LANES) +
           Room::lines_of(KEYS) + Room::lines_of(2 * together * KEYS / 4) + Room::lines_of(together);
  }

  // The keys from position `start` on.
  void attend(Block& block, long start) {
    const long hidden = std::max(0L, start - task.span->position - task.from) * task.shape->group();
    for (long part = hidden / together; part < num_parts(count, together); part++) {
      const long first = part * together, some = std::min(together, count - first);
      products.score({digits_of(part, 0), together, block.key_columns, pieces}, some, excess + first, block.ahead);
      for (long i = 0; i < some; i++) {
        block.ahead.fetch(1);
        weigh(block, first + i, i, int(std::clamp(limits[first + i] - start, 0L, long(KEYS))));
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
  Products products;
  int8_t* digits;  // [parts][pieces][2 together][64]: upper ones, then lower ones
  // An output's numbers lie in the order of the values' columns: 4 i to 4 i + 3 of every sixteen, for each i.
  float *outputs, *scales, *maxima, *sums, *scores, *weight_scales;
  int32_t* excess;   // what the keys' offset would add to a query's products, negative
  int32_t* limits;   // positions from there on are hidden from a query
  uint8_t* weights;  // [2 together][KEYS]

  static long queries_together(long most) { return std::min(Products::MOST_QUERIES, most); }
  static long num_parts(long count, long together) { return (count + together - 1) / together; }
  Softmax softmax(long query) const { return {maxima + query, sums + query * LANES, outputs + query * size, size}; }
  int8_t* digits_of(long part, long piece) const { return digits + (part * pieces + piece) * 2 * together * BLOCK; }

  // To whole numbers of at most 127 * 128; what is not finite has the scale NaN.
  void round_query(const float* query, long number) {
    const long part = number / together, row = number % together;
    const RoundedHead rounded(query, size, 127.0f * 128.0f);
    scales[number] = rounded.scale * task.shape->scale();
    __m512i total = _mm512_setzero_si512();
    for (long i = 0; i < size; i += LANES) {
      const __m512i whole = (__m512i)rounded.part(i);
      total = _mm512_add_epi32(total, whole);
      const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(1 << (KEY_BITS - 1))), KEY_BITS);
      const __m512i lower = _mm512_sub_epi32(whole, _mm512_slli_epi32(upper, KEY_BITS));
      int8_t* to = digits_of(part, i / BLOCK) + row * BLOCK + i % BLOCK;
      store_part(to, LANES, (IntVec)upper), store_part(to + together * BLOCK, LANES, (IntVec)lower);
    }
    limits[number] = int32_t(task.span->position + task.from + number / task.shape->group() + 1);
    excess[number] = -128 * _mm512_reduce_add_epi32(total);
  }

  void add(Block& block, long piece, long first, long some) {
    products.add({weights, together, block.value_columns + piece * SIXTEENS * SIXTEEN_BYTES, 1}, some, block.count,
                 block.ahead);
    for (long i = 0; i < some; i++) {
      const Vec scale = splat(weight_scales[i]);
      block.ahead.fetch(1);
      float* to = outputs + (first + i) * size + piece * BLOCK;
      for (int j = 0; j < SIXTEENS; j++)
        store(to + j * LANES, load(to + j * LANES) + products.template products<WEIGHT_BITS>(i, j) * scale);
    }
  }

  // Products of query i of some become weights of the values, in whole steps of their largest: 65535 of them.
  void weigh(Block& block, long query, long i, int seen) {
    uint8_t *upper = weights + i * KEYS, *lower = upper + together * KEYS;
    std::memset(upper, 0, KEYS), std::memset(lower, 0, KEYS);
    weight_scales[i] = 0;
    if (!seen) return;
    const int vectors = (seen + LANES - 1) / LANES;
    for (int j = 0; j < vectors; j++)
      store(scores + j * LANES, products.template products<KEY_BITS>(i, j) * (load(block.keys.scales + j * LANES) * scales[query]));
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
