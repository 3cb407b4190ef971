// Gradients of attention in bf16 by matrix tiles, on x86 CPUs with AMX-BF16, as those of products are (bfloat16.h).
//
// Scores and the gradients of weights are nearly as good as in fp32, since weights depend exponentially on the ones, and
// most of the others may cancel out: numbers are cut into an upper half, in bf16, and the rest, and of their four products
// only that of the rests is left out.

#pragma once

#include "attention_gradient.h"
#include "int8.h"

#if defined(MULTIPLIES_BY_VNNI)
#include "bfloat16.h"
#endif

#if defined(MULTIPLIES_IN_BFLOAT16)

namespace {

// 32 numbers in bf16, and what that leaves of them.
struct Halves {
  __m512 upper, rest;

  Halves(__m512 low, __m512 high)
      : upper((__m512)_mm512_cvtne2ps_pbh(high, low)), rest((__m512)_mm512_cvtne2ps_pbh(rest_of(high), rest_of(low))) {}

 private:
  static __m512 rest_of(__m512 numbers) {
    const __m512i upper = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(numbers));
    return _mm512_sub_ps(numbers, _mm512_castsi512_ps(_mm512_slli_epi32(upper, 16)));
  }
};

// The queries of a task, and the gradients that are added up for them and for the keys and values they see. Scores lie
// turned, a row for each key and a lane for each query. "Across" is the right side of a product along the numbers of a
// head, "along" that of a product along the queries or the keys.
class TileBackward : public PathGradients {
 public:
  using Setup = MatrixTiles;

  TileBackward(const Task& task, const Given& given, Room& room)
      : PathGradients(task, given, depth_of(*task.shape), KEYS, room), depth_steps(padded / STEP),
        query_steps(steps_of(count)) {
    const long matrix = query_steps * STEP * padded;
    for (uint16_t** right : {&queries_across, &grads_across}) *right = take_halves(CUT * matrix, room);
    for (uint16_t** right : {&queries_along, &grads_along}) *right = take_halves(matrix, room);
    for (HalfRows* left : {&keys, &values}) *left = {take_halves(CUT * KEYS * padded, room), CUT * depth_steps};
    turned_keys = {take_halves(KEYS * padded, room), KEY_STEPS};
    for (HalfRows* left : {&weights, &grad_scores}) *left = {take_halves(KEYS * query_steps * STEP, room), query_steps};
    scores_along = take_halves(KEYS * query_steps * STEP, room);
    scores = room.take(KEYS * STEP), grad_weights = room.take(KEYS * STEP);
    lse = room.take(query_steps * STEP), along = room.take(query_steps * STEP);
    grad_queries = room.take(matrix);
    float *plain_queries = room.take(matrix), *plain_grads = room.take(matrix);
    for (long query = 0; query < query_steps * STEP; query++) begin(query, plain_queries, plain_grads, lse, along);
    std::fill(grad_queries, grad_queries + matrix, 0.0f);
    put_across(plain_queries, queries_across), put_across(plain_grads, grads_across);
    put_along(plain_queries, queries_along), put_along(plain_grads, grads_along);
  }
  static long lines(long most_queries, long most_keys, const Shape& shape) {
    const long depth = depth_of(shape), width = steps_of(most_queries) * STEP;
    const auto halves = [](long numbers) { return Room::lines_of(numbers / 2); };
    const long rights = 2 * halves(CUT * width * depth) + 2 * halves(width * depth);
    const long lefts = 2 * halves(CUT * KEYS * depth) + halves(KEYS * depth) + 3 * halves(KEYS * width);
    const long others = 2 * Room::lines_of(KEYS * STEP) + 2 * Room::lines_of(width) + 3 * Room::lines_of(width * depth);
    return PathGradients::lines(most_keys + KEYS, depth) + rights + lefts + others;
  }

  void compute(float* to) {
    for_each_block(KEYS, [&](const Rows& keys, const Rows& values, long num_keys, long before) {
      put_keys(keys, values, num_keys);
      attend_back(num_keys, ahead(before) * group, before * padded);
    });
    finish(to);
  }

 private:
  static constexpr long KEYS = 64, KEY_STEPS = KEYS / STEP;  // of a block
  static constexpr long CUT = 3;  // products of halves: upper by upper, rest by upper, upper by rest
  const long depth_steps, query_steps;
  uint16_t *queries_across, *grads_across;  // [query steps][depth steps][CUT], each 32 queries' 32 numbers
  uint16_t *queries_along, *grads_along;    // [depth steps][query steps]
  uint16_t* scores_along;                   // of gradients, [query steps][key steps]
  HalfRows keys{}, values{}, turned_keys{}, weights{}, grad_scores{};
  float *scores, *grad_weights;  // [KEYS][STEP]
  float *lse, *along;
  float* grad_queries;  // [query steps][padded][STEP]

  static long depth_of(const Shape& shape) { return steps_of(shape.size) * STEP; }
  static uint16_t* take_halves(long numbers, Room& room) { return reinterpret_cast<uint16_t*>(room.take(numbers / 2)); }

  // Pairs of a row's numbers are the words of a matrix that is turned, sixteen rows at a time.
  void put_across(const float* plain, uint16_t* to) const {
    for (long query = 0; query < query_steps * STEP; query += SIXTEEN)
      for (long step = 0; step < depth_steps; step++) {
        Vec uppers[SIXTEEN], rests[SIXTEEN];
        for (long i = 0; i < SIXTEEN; i++) {
          const float* from = plain + (query + i) * padded + step * STEP;
          const Halves halves(_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16));
          uppers[i] = (Vec)halves.upper, rests[i] = (Vec)halves.rest;
        }
        turn<1>(uppers), turn<1>(rests);
        uint16_t* right = to + (query / STEP * depth_steps + step) * CUT * TILE_HALVES + query % STEP * 2;
        for (const Vec* words : {uppers, uppers, rests}) {
          for (long i = 0; i < SIXTEEN; i++) _mm512_storeu_ps(right + i * 2 * TILE_OUTPUTS, (__m512)words[i]);
          right += TILE_HALVES;
        }
      }
  }

  // As the left side for that.
  void cut(const HalfRows& to, long row, const float* from, long columns) const {
    for (long step = 0; step < depth_steps; step++) {
      const auto part = [&](long i) { return _mm512_maskz_loadu_ps(first_lanes(columns - i), from + i); };
      const Halves halves(part(step * STEP), part(step * STEP + 16));
      const __m512 parts[CUT] = {halves.upper, halves.rest, halves.upper};
      for (long i = 0; i < CUT; i++) _mm512_store_ps(to.at(row, step * CUT + i), parts[i]);
    }
  }

  void put_along(const float* plain, uint16_t* to) const {
    for (long step = 0; step < depth_steps; step++)
      put_rows(to + step * query_steps * TILE_HALVES, plain + step * STEP, padded, query_steps * STEP, STEP);
  }

  // A block; keys that are not there are zeros.
  void put_keys(const Rows& from_keys, const Rows& from_values, long num_keys) const {
    for (long key = 0; key < KEYS; key++) {
      const long row = std::min(key, num_keys - 1), columns = key < num_keys ? size : 0;
      cut(keys, key, from_keys[row], columns), cut(values, key, from_values[row], columns);
    }
    const auto part = [&](long key, long column) {
      const __mmask16 lanes = key < num_keys ? first_lanes(size - column) : 0;
      return (Vec)_mm512_maskz_loadu_ps(lanes, from_keys[std::min(key, num_keys - 1)] + column);
    };
    for (long column = 0; column < padded; column += SIXTEEN)
      for (long step = 0; step < KEY_STEPS; step++) {
        Vec low[SIXTEEN], high[SIXTEEN];
        for (long i = 0; i < SIXTEEN; i++)
          low[i] = part(step * STEP + i, column), high[i] = part(step * STEP + SIXTEEN + i, column);
        turn<1>(low), turn<1>(high);
        for (long i = 0; i < SIXTEEN; i++) {
          const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)high[i], (__m512)low[i]);
          _mm512_store_si512(turned_keys.at(column + i, step), halves);
        }
      }
  }

  // The block that was put; its first key is hidden from so many queries, and its gradients go to `place`.
  void attend_back(long num_keys, long hidden, long place) const {
    const long first = std::max(0L, hidden) / STEP, seeing = query_steps - first;
    for (long step = first; step < query_steps; step++) {
      const long right = step * depth_steps * CUT * TILE_HALVES;
      multiply_all_halves(queries_across + right, keys, KEYS, keys.steps, false, scores, STEP);
      multiply_all_halves(grads_across + right, values, KEYS, values.steps, false, grad_weights, STEP);
      for (long key = 0; key < KEYS; key += 2) weigh(step, key, num_keys, hidden);
    }
    for (long step = 0; step < depth_steps; step++) {
      const long right = (step * query_steps + first) * TILE_HALVES, to = place + step * STEP;
      multiply_all_halves(grads_along + right, {weights.at(0, first), query_steps}, KEYS, seeing, false, grad_values + to,
                          padded);
      multiply_all_halves(queries_along + right, {grad_scores.at(0, first), query_steps}, KEYS, seeing, false,
                          grad_keys + to, padded);
    }
    for (long step = first; step < query_steps; step++)
      multiply_all_halves(scores_along + step * KEY_STEPS * TILE_HALVES, turned_keys, padded, KEY_STEPS, true,
                          grad_queries + step * padded * STEP, STEP);
  }

  // Scores of a key and the next become weights, gradients of weights those of scores.
  void weigh(long step, long key, long num_keys, long hidden) const {
    __m512 weight[2][2], grad[2][2];
    for (long i = 0; i < 2; i++)
      for (long half = 0; half < 2; half++) {
        const long lane = step * STEP + half * 16, from = (key + i) * STEP + half * 16;
        const __mmask16 seen = key + i < num_keys ? ~first_lanes(hidden + (key + i) * group - lane) : 0;
        weight[i][half] = grad[i][half] = _mm512_setzero_ps();
        if (!seen) continue;
        const Vec score = load(scores + from) - load(lse + lane);
        weight[i][half] = _mm512_maskz_mov_ps(seen, (__m512)exponential(score));
        grad[i][half] = _mm512_maskz_mul_ps(seen, weight[i][half], (__m512)(load(grad_weights + from) - load(along + lane)));
      }
    for (long i = 0; i < 2; i++) {
      _mm512_store_si512(weights.at(key + i, step), (__m512i)_mm512_cvtne2ps_pbh(weight[i][1], weight[i][0]));
      _mm512_store_si512(grad_scores.at(key + i, step), (__m512i)_mm512_cvtne2ps_pbh(grad[i][1], grad[i][0]));
    }
    uint16_t* right = scores_along + step * KEY_STEPS * TILE_HALVES;
    for (int half = 0; half < 2; half++) put_pair(right, key / 2, half * 16, grad[0][half], grad[1][half]);
  }

  void finish(float* to) const {
    const Vec scale = splat(task.shape->scale());
    for (long query = 0; query < count; query += SIXTEEN)
      for (long column = 0; column < size; column += SIXTEEN) {
        Vec rows[SIXTEEN];
        const float* from = grad_queries + (query / STEP * padded + column) * STEP + query % STEP;
        for (long i = 0; i < SIXTEEN; i++) rows[i] = load(from + i * STEP);
        turn<1>(rows);
        for (long i = 0; i < std::min(SIXTEEN, count - query); i++)
          store_part(to + task.place(query + i) * size + column, size - column, scale * rows[i]);
      }
  }
};

}  // namespace

#endif
