// Causal attention of rows of tokens to what came before them, wherever it lies: a run of keys after the other.
//
// A row goes through the keys of its path in blocks that begin at multiples of 64 positions, and the numbers of a row
// are added in the same order whatever runs the keys lie in and whichever rows come with it. So a token that is decoded
// has the attention, bit for bit, that it has in the learner's trees. Products in int8 need that: rounding turns the
// smallest difference into a step.

#include "attention.h"
#include "workers.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace {

constexpr int KEYS = 64;                // of a block
constexpr int WEIGHED_QUERIES = 24;     // at a time
constexpr int FOUR = 4;                 // numbers of a key that lie side by side
constexpr int TOGETHER = LANES / FOUR;  // keys that share a vector

// The same four numbers for each key in a vector.
inline Vec repeated(const float* four) {
#if defined(__AVX512F__)
  return (Vec)_mm512_broadcast_f32x4(_mm_loadu_ps(four));
#elif defined(__AVX__)
  return (Vec)_mm256_broadcast_ps(reinterpret_cast<const __m128*>(four));
#else
  return load(four);
#endif
}

// The sum of every four numbers, a lane each.
__attribute__((always_inline)) inline Vec sums_of_fours(const Vec* vectors) {
  const IntVec lanes = lane_numbers();
  const IntVec group = (lanes & ~3) + (lanes & 2) / 2 * LANES;  // begins there in one vector, then in the other
  const IntVec pairs = group + (lanes & 1), evens = group + (lanes & 1) * 2;
  Vec halves[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++) {
    const Vec a = vectors[2 * i], b = vectors[2 * i + 1];
    halves[i] = __builtin_shuffle(a, b, pairs) + __builtin_shuffle(a, b, pairs + 2);
  }
  const Vec sums = __builtin_shuffle(halves[0], halves[1], evens) + __builtin_shuffle(halves[0], halves[1], evens + 1);
  return __builtin_shuffle(sums, lanes % TOGETHER * FOUR + lanes / TOGETHER);
}

inline float largest_lane(Vec value) {
  const IntVec lanes = lane_numbers();
#pragma GCC unroll 4
  for (int step = LANES / 2; step; step /= 2) {
    const Vec other = __builtin_shuffle(value, lanes ^ step);
    value = value > other ? value : other;
  }
  return value[0];
}

// What the next task will read of its own tokens, asked for little by little while this one computes. In four places at
// once, because the CPU goes on reading from each of them by itself.
struct Ahead {
  static constexpr long LINE = 64, MOST = 1 << 17;  // so many bytes of keys and of values wait in the second cache
  const char* places[4] = {};
  long lines_left = 0;  // in each place

  Ahead() = default;
  Ahead(const Run& run, long kv_head, long size, long number_bytes) {
    if (run.token_stride != size) return;
    lines_left = std::min(run.count * size * number_bytes, MOST) / LINE / 2;
    const long skipped = kv_head * run.head_stride * number_bytes;
    places[0] = static_cast<const char*>(run.keys) + skipped, places[1] = static_cast<const char*>(run.values) + skipped;
    places[2] = places[0] + lines_left * LINE, places[3] = places[1] + lines_left * LINE;
  }
  void fetch(long lines) {
    if (!lines_left) return;
    lines = std::min(lines, lines_left);
    for (const char*& place : places)
      for (long line = 0; line < lines; line++, place += LINE) __builtin_prefetch(place, 0, 2);
    lines_left -= lines;
  }
};

// Of one kv head, a token's numbers.
template <class Number>
struct Head {
  const Number* numbers;
  float scale;  // of int8

  Vec part(long column, long size) const { return exact(load_part(numbers + column, size - column), scale); }
};

// Values as rows of a product.
template <class Number>
struct ValueRows {
  const Head<Number>* heads;
  long size;

  Vec part(long row, long column) const { return heads[row].part(column, size); }
  ValueRows from(long row) const { return {heads + row, size}; }
};

// Up to KEYS keys and their values. In `packed` the keys lie as they are multiplied: for every TOGETHER of them vectors with
// four numbers of each.
template <class Number>
struct Block {
  Head<Number> keys[KEYS], values[KEYS];
  int count;
  long size, padded;
  float* packed;
  Ahead ahead;

  Block(const Shape& shape, Room& room) : size(shape.size), padded(shape.padded()), packed(room.take(KEYS * padded)) {}
  static long lines(const Shape& shape) { return Room::lines_of(KEYS * shape.padded()); }

  ValueRows<Number> value_rows() const { return {values, size}; }

  void pack() {
    const int whole = (count + LANES - 1) / LANES * LANES;
    for (int key = count; key < whole; key++) keys[key] = keys[0];
    float* to = packed;
    for (int key = 0; key < whole; key += TOGETHER) {
      ahead.fetch(4);
      to = pack_some(keys + key, to);
    }
  }

  // Products [queries, KEYS] with the first keys, a whole vector of them at a time. Each is four sums over every fourth
  // number, however many queries there are.
  template <int TALL = TILE_ROWS>
  void score(const float* queries, long num_queries, int num_keys, float* scores) const {
    for (; num_queries >= TALL; num_queries -= TALL, queries += TALL * padded, scores += TALL * KEYS)
      score_strip<TALL>(queries, num_keys, scores);
    if constexpr (TALL > 1)
      if (num_queries) score<TALL - 1>(queries, num_queries, num_keys, scores);
  }

 private:
  // TOGETHER keys; returns where the next ones go.
  float* pack_some(const Head<Number>* some, float* to) const {
#if defined(__AVX512F__)
    if constexpr (sizeof(Number) == 1)
      if (size % 64 == 0) return pack_bytes(some, to);
#endif
    for (long column = 0; column < size; column += LANES) {
      Vec rows[TOGETHER];
      for (int i = 0; i < TOGETHER; i++) rows[i] = some[i].part(column, size);
      turn<FOUR>(rows);
      for (int i = 0; i < TOGETHER; i++, to += LANES) store(to, rows[i]);
    }
    return to;
  }

#if defined(__AVX512F__)
  // The same, put in order before the bytes become fp32: a quarter of the shuffles.
  float* pack_bytes(const Head<Number>* some, float* to) const {
    const Vec scales = (Vec)_mm512_setr_ps(
        some[0].scale, some[0].scale, some[0].scale, some[0].scale, some[1].scale, some[1].scale, some[1].scale,
        some[1].scale, some[2].scale, some[2].scale, some[2].scale, some[2].scale, some[3].scale, some[3].scale,
        some[3].scale, some[3].scale);
    alignas(64) int8_t fours[4][64];  // of every fourth four numbers of the keys
    for (long column = 0; column < size; column += 64) {
      __m512i rows[TOGETHER], pairs[TOGETHER];
      for (int i = 0; i < TOGETHER; i++) rows[i] = _mm512_loadu_si512(some[i].numbers + column);
      for (int i = 0; i < TOGETHER; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
      }
      for (int i = 0; i < 2; i++) {
        _mm512_store_si512(fours[2 * i], _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]));
        _mm512_store_si512(fours[2 * i + 1], _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]));
      }
      for (int lane = 0; lane < 4; lane++)
        for (int i = 0; i < 4; i++, to += LANES) store(to, __builtin_convertvector(widened(fours[i] + lane * LANES), Vec) * scales);
    }
    return to;
  }
#endif

  // Not inlined, or the sums would share their registers with what surrounds them.
  template <int TALL>
  __attribute__((noinline)) void score_strip(const float* queries, int num_keys, float* scores) const {
    const long depth = padded;
    for (int key = 0; key < num_keys; key += LANES) {
      const float* keys = packed + key * depth;
      Vec sums[TALL][FOUR] = {};
      for (long i = 0; i < depth; i += FOUR) {
        Vec some[FOUR];
#pragma GCC unroll 8
        for (int j = 0; j < FOUR; j++) some[j] = load(keys + (j * depth + i) * TOGETHER);
#pragma GCC unroll 8
        for (int query = 0; query < TALL; query++) {
          const Vec four = repeated(queries + query * depth + i);
#pragma GCC unroll 8
          for (int j = 0; j < FOUR; j++) sums[query][j] += four * some[j];
        }
      }
#pragma GCC unroll 8
      for (int query = 0; query < TALL; query++) store(scores + query * KEYS + key, sums_of_fours(sums[query]));
    }
  }
};

// Goes along the runs of a span and gives out their keys a block at a time.
template <class Number>
struct Walk {
  const Run* run;
  long kv_head, size, inside = 0;

  void next(int count, Block<Number>& block) {
    block.count = count;
    for (int key = 0; key < count;) {
      const long some = std::min(long(count - key), run->count - inside);
      heads(run->keys, run->key_scales, some, block.keys + key);
      heads(run->values, run->value_scales, some, block.values + key);
      key += some, inside += some;
      if (inside == run->count) run++, inside = 0;
    }
  }

 private:
  // Those of the next tokens of the run.
  void heads(const void* numbers, const float* scales, long count, Head<Number>* to) const {
    const long first = inside * run->token_stride + kv_head * run->head_stride;
    const Number* from = static_cast<const Number*>(numbers) + first;
    for (long i = 0; i < count; i++) to[i] = {from + i * run->token_stride, 1.0f};
    if (!scales) return;
    const float* scale = scales + first / size;
    for (long i = 0, stride = run->token_stride / size; i < count; i++) to[i].scale = scale[i * stride];
  }
};

// The queries of a task over ever more keys: maximum, sum by lanes and output of the softmax so far (arXiv:2205.14135).
struct Running {
  const Task& task;
  long padded;
  float *queries, *outputs, *maxima, *sums, *scores;

  Running(const Task& task, const float* from, Room& room) : task(task), padded(task.shape->padded()) {
    const long count = task.num_queries(), size = task.shape->size;
    queries = room.take(count * padded), outputs = room.take(count * padded);
    maxima = room.take(count), sums = room.take(count * LANES), scores = room.take(WEIGHED_QUERIES * KEYS);
    std::fill(maxima, maxima + count, -std::numeric_limits<float>::infinity());
    std::fill(sums, sums + count * LANES, 0.0f);
    const float scale = task.shape->scale();
    for (long query = 0; query < count; query++) {
      const float* unscaled = from + task.place(query) * size;
      for (long i = 0; i < padded; i += LANES) {
        store(queries + query * padded + i, scale * load_part(unscaled + i, size - i));
        store(outputs + query * padded + i, Vec{});
      }
    }
  }
  static long lines(long count, const Shape& shape) {
    return 2 * Room::lines_of(count * shape.padded()) + Room::lines_of(count) + Room::lines_of(count * LANES) +
           Room::lines_of(WEIGHED_QUERIES * KEYS);
  }

  // The keys from position `start` on.
  template <class Number>
  void attend(Block<Number>& block, long start) {
    const long hidden = std::max(0L, start - task.span->position - task.from) * task.shape->group();
    for (long first = hidden, count = task.num_queries(); first < count; first += WEIGHED_QUERIES) {
      const long some = std::min(long(WEIGHED_QUERIES), count - first);
      block.ahead.fetch(4);
      block.score(queries + first * padded, some, seen(first + some - 1, start), scores);
      for (long i = 0; i < some; i++) {
        block.ahead.fetch(4);
        weigh(scores + i * KEYS, seen(first + i, start), first + i);
      }
      block.ahead.fetch(4);
      for (long i = 0; i < some; i += TILE_ROWS)
        add(block, start, first + i, std::min(long(TILE_ROWS), some - i), scores + i * KEYS);
    }
  }

  void finish(float* out, float* lse) const {
    const long size = task.shape->size;
    for (long query = 0; query < task.num_queries(); query++) {
      const float total = sum(load(sums + query * LANES)), inverse = 1.0f / total;
      float* to = out + task.place(query) * size;
      for (long i = 0; i < size; i++) to[i] = outputs[query * padded + i] * inverse;
      if (lse) lse[task.lse_place(query)] = maxima[query] + std::log(total);
    }
  }

 private:
  // How many keys of the block that begins at `start`.
  int seen(long query, long start) const {
    return int(std::min(long(KEYS), task.span->position + task.from + query / task.shape->group() + 1 - start));
  }

  // Scores become weights relative to the running maximum; what was summed before is scaled to a new maximum. Not
  // inlined: compiled once, it rounds in one way.
  __attribute__((noinline)) void weigh(float* scores, int count, long query) {
    const int whole = (count + LANES - 1) / LANES * LANES;
    if (whole > count) {
      float* last = scores + whole - LANES;
      store(last, lane_numbers() < count % LANES ? load(last) : splat(-std::numeric_limits<float>::infinity()));
    }
    const float before = maxima[query];
    Vec highest = splat(before), total = load(sums + query * LANES);
    for (int key = 0; key < whole; key += LANES) {
      const Vec here = load(scores + key);
      highest = here > highest ? here : highest;
    }
    const float maximum = largest_lane(highest);
    if (maximum > before) {
      const Vec factor = exponential(splat(before - maximum));
      total *= factor;
      for (long i = 0; i < padded; i += LANES) {
        float* to = outputs + query * padded + i;
        store(to, load(to) * factor);
      }
      maxima[query] = maximum;
    }
    for (int key = 0; key < whole; key += LANES) {
      const Vec weight = exponential(load(scores + key) - maximum);
      store(scores + key, weight);
      total += weight;
    }
    store(sums + query * LANES, total);
  }

  // Weighed values of some queries: first of the keys that all of them see.
  template <class Number>
  void add(const Block<Number>& block, long start, long first, long some, const float* weights) {
    const int common = seen(first, start);
    float* to = outputs + first * padded;
    multiply({weights, KEYS, 1}, block.value_rows(), some, padded, common, {to, padded, true});
    for (long i = 1; i < some; i++)
      if (const int more = seen(first + i, start) - common)
        multiply({weights + i * KEYS + common, KEYS, 1}, block.value_rows().from(common), 1, padded, more,
                 {to + i * padded, padded, true});
  }
};

template <class Number>
void attend(const Shape& shape, const float* queries, float* out, float* lse, const Span* spans, long num_spans,
            const Run* runs, int threads) {
  std::vector<Task> tasks = tasks_of(spans, num_spans, shape);
  std::reverse(tasks.begin(), tasks.end());  // the longest first
  long most = 0;
  for (const Task& task : tasks) most = std::max(most, task.num_queries());
  const bool decodes = most == shape.group();
  const long num_tasks = tasks.size();
  // While decoding, a thread takes several tasks that follow one another, and so knows its next one.
  const long at_once = decodes ? std::max(1L, num_tasks / (4 * threads)) : 1;
  const auto do_task = [&](long number, Room& room) {
    const Task& task = tasks[number];
    room.clear();
    Running running(task, queries, room);
    Block<Number> block(shape, room);
    if ((number + 1) % at_once && number + 1 < num_tasks) {
      const Task& next = tasks[number + 1];
      block.ahead = Ahead(runs[next.span->first_run + next.span->runs - 1], next.kv_head, shape.size, sizeof(Number));
    }
    Walk<Number> walk{runs + task.span->first_run, task.kv_head, shape.size};
    for (long start = 0; start < task.num_keys(); start += KEYS) {
      walk.next(int(std::min(long(KEYS), task.num_keys() - start)), block);
      block.pack();
      running.attend(block, start);
    }
    running.finish(out, lse);
  };
  const long lines = Running::lines(most, shape) + Block<Number>::lines(shape);
  if (member()) {
    by_workers(threads, [&](const Worker& worker) {
      Room room(lines);
      worker.each(num_tasks, [&](long number) { do_task(number, room); });
    });
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    Room room(lines);
#pragma omp for schedule(dynamic, at_once)
    for (long number = 0; number < num_tasks; number++) do_task(number, room);
  }
}

}  // namespace

extern "C" {

// queries[T, A, D] -> out[T, A, D] and, unless null, lse[A, T]; every row lies in one span.
void groat_attend(const float* queries, float* out, float* lse, const Span* spans, long num_spans, const Run* runs,
                  long rows, long heads, long kv_heads, long size, int threads) {
  const Shape shape{rows, heads, kv_heads, size};
  (runs->key_scales ? attend<int8_t> : attend<float>)(shape, queries, out, lse, spans, num_spans, runs, threads);
}

}  // extern "C"
