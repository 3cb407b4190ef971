// Causal attention of rows of tokens to what came before them, wherever it lies: a run of keys after the other.
//
// A row goes through the keys of its path in blocks that begin at multiples of 64 positions, and the numbers of a row are
// added in the same order whatever runs the keys lie in and whichever rows come with it. So a token that is decoded has the
// attention, bit for bit, that it has in the learner's trees. Products in int8 need that: rounding turns the smallest
// difference into a step.

#include "vectors.h"

#include <cstring>
#include <vector>

namespace {

constexpr int KEYS = 64;        // of a block
constexpr int CHUNK_ROWS = 16;  // per task
constexpr int AT_ONCE = 4;      // vectors of an output that are summed side by side

// Where the keys and values of a block lie, in the order of their positions.
struct Block {
  const float *keys[KEYS], *values[KEYS];
};

// One query over ever more keys: maximum, sum and output of the softmax so far (arXiv:2205.14135).
struct Running {
  float *query, *output;  // padded to whole vectors
  float maximum, sum;

  void attend(const Block& block, int count, int size) {
    alignas(64) float weights[KEYS];
    for (int key = 0; key < count; key += LANES) store(weights + key, scores(block.keys + key, std::min(LANES, count - key), size));
    weigh(weights, count, size);
    for (int column = 0; column < size; column += AT_ONCE * LANES) add(block, weights, count, column, size);
  }

  // The products with up to LANES keys, a lane each.
  Vec scores(const float* const* keys, int count, int size) const {
    const int whole = size / LANES * LANES;
    Vec sums[LANES] = {};
    for (int key = 0; key < count; key++) {
      Vec total = {};
      for (int i = 0; i < whole; i += LANES) total += load(query + i) * load(keys[key] + i);
      for (int i = whole; i < size; i++) total[0] += query[i] * keys[key][i];
      sums[key] = total;
    }
    return sums_of(sums);
  }

  // Scores become weights relative to the running maximum; what was summed before is scaled to a new maximum.
  void weigh(float* scores, int count, int size) {
    const float highest = std::max(maximum, largest(scores, count));
    const int whole = (count + LANES - 1) / LANES * LANES;
    for (int key = count; key < whole; key++) scores[key] = -std::numeric_limits<float>::infinity();
    Vec total = {};
    for (int key = 0; key < whole; key += LANES) {
      const Vec weight = exponential(load(scores + key) - highest);
      store(scores + key, weight);
      total += weight;
    }
    if (highest > maximum) {
      const float factor = std::exp(maximum - highest);
      sum *= factor;
      for (int i = 0; i < size; i++) output[i] *= factor;
      maximum = highest;
    }
    sum += ::sum(total);
  }

  void add(const Block& block, const float* weights, int count, int column, int size) {
    const int whole = std::min(AT_ONCE, (size - column) / LANES);
    if (whole == AT_ONCE) return add_vectors<AT_ONCE>(block, weights, count, column);
    for (int i = 0; i < whole; i++) add_vectors<1>(block, weights, count, column + i * LANES);
    for (int i = column + whole * LANES; i < size; i++)
      for (int key = 0; key < count; key++) output[i] += weights[key] * block.values[key][i];
  }

  template <int VECTORS>
  void add_vectors(const Block& block, const float* weights, int count, int column) {
    Vec even[VECTORS], odd[VECTORS] = {};  // two sums, so that additions need not wait for each other
    for (int i = 0; i < VECTORS; i++) even[i] = load(output + column + i * LANES);
    int key = 0;
    for (; key + 2 <= count; key += 2)
      for (int i = 0; i < VECTORS; i++) {
        even[i] += weights[key] * load(block.values[key] + column + i * LANES);
        odd[i] += weights[key + 1] * load(block.values[key + 1] + column + i * LANES);
      }
    if (key < count)
      for (int i = 0; i < VECTORS; i++) even[i] += weights[key] * load(block.values[key] + column + i * LANES);
    for (int i = 0; i < VECTORS; i++) store(output + column + i * LANES, even[i] + odd[i]);
  }
};

}  // namespace

extern "C" {

// Keys and values one behind the other: [count, kv heads, head size] with a token's stride, a head's stride, in floats.
struct Run {
  int64_t count, token_stride, head_stride;
  const float *keys, *values;
};

// Rows of tokens that follow one another; the runs of their path, in order, end with the last of them.
struct Span {
  int64_t first_row, rows, position;  // of the first row in its path
  int64_t first_run, runs;
};
}

namespace {

// Goes along the runs of a span and gives out their keys a block at a time.
struct Walk {
  const Run* run;
  long inside = 0, head;

  void next(long count, Block& block) {
    for (long key = 0; key < count; key++, inside++) {
      while (inside == run->count) run++, inside = 0;
      block.keys[key] = run->keys + inside * run->token_stride + head * run->head_stride;
      block.values[key] = run->values + inside * run->token_stride + head * run->head_stride;
      __builtin_prefetch(block.values[key]);  // needed when the keys have been read
    }
  }
};

struct Shape {
  long rows, heads, kv_heads, size;
};

// Rows [from, to) of a span, the query heads of one kv head.
void attend_rows(const Span& span, const Run* runs, const Shape& shape, long from, long to, long kv_head,
                 const float* queries, float* out, float* lse) {
  const long group = shape.heads / shape.kv_heads, padded = (shape.size + LANES - 1) / LANES * LANES;
  const float scale = 1.0f / std::sqrt(float(shape.size));
  std::vector<float> room(2 * (to - from) * group * padded, 0.0f);
  std::vector<Running> states;
  const auto place = [&](long row, long g) { return (span.first_row + row) * shape.heads + kv_head * group + g; };
  for (long row = from; row < to; row++)
    for (long g = 0; g < group; g++) {
      float* query = room.data() + 2 * states.size() * padded;
      const float* given = queries + place(row, g) * shape.size;
      for (long i = 0; i < shape.size; i++) query[i] = scale * given[i];
      states.push_back({query, query + padded, -std::numeric_limits<float>::infinity(), 0.0f});
    }
  Walk walk{runs + span.first_run, 0, kv_head};
  const long keys = span.position + to;  // that the last row sees
  for (long start = 0; start < keys; start += KEYS) {
    Block block;
    walk.next(std::min(long(KEYS), keys - start), block);
    for (long row = std::max(from, start - span.position); row < to; row++)
      for (long g = 0; g < group; g++)
        states[(row - from) * group + g].attend(block, int(std::min(long(KEYS), span.position + row + 1 - start)),
                                                int(shape.size));
  }
  for (long row = from; row < to; row++)
    for (long g = 0; g < group; g++) {
      const Running& state = states[(row - from) * group + g];
      const float inverse = 1.0f / state.sum;
      for (long i = 0; i < shape.size; i++) out[place(row, g) * shape.size + i] = state.output[i] * inverse;
      if (lse) lse[(kv_head * group + g) * shape.rows + span.first_row + row] = state.maximum + std::log(state.sum);
    }
}

}  // namespace

extern "C" {

// queries[T, A, D] -> out[T, A, D] and, unless null, lse[A, T]; every row lies in one span.
void groat_attend(const float* queries, float* out, float* lse, const Span* spans, long num_spans, const Run* runs,
                  long rows, long heads, long kv_heads, long size, int threads) {
  struct Task {
    const Span* span;
    long from, to, kv_head;
  };
  std::vector<Task> tasks;
  for (long number = num_spans - 1; number >= 0; number--)
    for (long end = spans[number].rows; end > 0; end -= CHUNK_ROWS)  // the longest first
      for (long head = 0; head < kv_heads; head++)
        tasks.push_back({spans + number, std::max(0L, end - CHUNK_ROWS), end, head});
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (size_t i = 0; i < tasks.size(); i++)
    attend_rows(*tasks[i].span, runs, Shape{rows, heads, kv_heads, size}, tasks[i].from, tasks[i].to, tasks[i].kv_head,
                queries, out, lse);
}

// One new token per row: keys and values [S, kv heads, D] into slots of an arena [slots, kv heads, length, D].
void groat_remember(const float* keys, const float* values, float* arena_keys, float* arena_values,
                    const int64_t* slots, const int64_t* lengths, long rows, long kv_heads, long length, long size) {
  for (long row = 0; row < rows; row++)
    for (long head = 0; head < kv_heads; head++) {
      const long from = (row * kv_heads + head) * size;
      const long to = ((slots[row] * kv_heads + head) * length + lengths[row]) * size;
      std::memcpy(arena_keys + to, keys + from, size * sizeof(float));
      std::memcpy(arena_values + to, values + from, size * sizeof(float));
    }
}

}  // extern "C"
