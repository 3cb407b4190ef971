// Causal attention of rows of tokens to what came before them, wherever it lies: a run of keys after the other.
//
// A row goes through the keys of its path in blocks that begin at multiples of 64 positions, and the numbers of a row
// are added in the same order whatever runs the keys lie in and whichever rows come with it. So a token that is decoded
// has the attention, bit for bit, that it has in the learner's trees. Products in int8 need that: rounding turns the
// smallest difference into a step.

#include "attention.h"
#include "workers.h"

#include <cstring>

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
  static constexpr long LINE = 16, MOST = 1 << 15;  // floats: 128 KiB of keys and of values wait in the second cache
  const float* places[4] = {};
  long lines_left = 0;  // in each place

  Ahead() = default;
  Ahead(const Run& run, long kv_head, long size) {
    if (run.token_stride != size) return;
    lines_left = std::min(run.count * size, MOST) / LINE / 2;
    const float *keys = run.keys + kv_head * run.head_stride, *values = run.values + kv_head * run.head_stride;
    places[0] = keys, places[1] = values, places[2] = keys + lines_left * LINE, places[3] = values + lines_left * LINE;
  }
  void fetch(long lines) {
    lines = std::min(lines, lines_left);
    for (const float*& place : places)
      for (long line = 0; line < lines; line++, place += LINE) __builtin_prefetch(place, 0, 2);
    lines_left -= lines;
  }
};

// Up to KEYS keys, and their values as rows of whole vectors. In `packed` the keys lie as they are multiplied: for
// every TOGETHER of them vectors with four numbers of each.
struct Block {
  const float *keys[KEYS], *values[KEYS];
  int count;
  long size, padded;
  float *packed, *padded_values;
  Ahead ahead;

  Block(const Shape& shape, Room& room)
      : size(shape.size), padded(shape.padded()), packed(room.take(KEYS * padded)),
        padded_values(room.take(KEYS * padded)) {}
  static long lines(const Shape& shape) { return 2 * Room::lines_of(KEYS * shape.padded()); }

  void pack() {
    const int whole = (count + LANES - 1) / LANES * LANES;
    for (int key = count; key < whole; key++) keys[key] = keys[0];
    float* to = packed;
    for (int key = 0; key < whole; key += TOGETHER)
      for (long column = 0; column < size; column += LANES) {
        Vec rows[TOGETHER];
        for (int i = 0; i < TOGETHER; i++) rows[i] = load_part(keys[key + i] + column, size - column);
        ahead.fetch(1);
        turn<FOUR>(rows);
        for (int i = 0; i < TOGETHER; i++, to += LANES) store(to, rows[i]);
      }
    if (size < padded) pad_values();
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
  void pad_values() {
    for (int key = 0; key < count; key++) {
      float* row = padded_values + key * padded;
      for (long i = 0; i < padded; i += LANES) store(row + i, load_part(values[key] + i, size - i));
      values[key] = row;
    }
  }

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
struct Walk {
  const Run* run;
  long kv_head, inside = 0;

  void next(int count, Block& block) {
    block.count = count;
    for (int key = 0; key < count;) {
      const long some = std::min(long(count - key), run->count - inside);
      const long first = inside * run->token_stride + kv_head * run->head_stride;
      for (long i = 0; i < some; i++) {
        block.keys[key + i] = run->keys + first + i * run->token_stride;
        block.values[key + i] = run->values + first + i * run->token_stride;
      }
      key += some, inside += some;
      if (inside == run->count) run++, inside = 0;
    }
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
  void attend(Block& block, long start) {
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
  void add(const Block& block, long start, long first, long some, const float* weights) {
    const int common = seen(first, start);
    float* to = outputs + first * padded;
    multiply({weights, KEYS, 1}, block.values, some, padded, common, {to, padded, true});
    for (long i = 1; i < some; i++)
      if (const int more = seen(first + i, start) - common)
        multiply({weights + i * KEYS + common, KEYS, 1}, block.values + common, 1, padded, more,
                 {to + i * padded, padded, true});
  }
};

}  // namespace

extern "C" {

// queries[T, A, D] -> out[T, A, D] and, unless null, lse[A, T]; every row lies in one span.
void groat_attend(const float* queries, float* out, float* lse, const Span* spans, long num_spans, const Run* runs,
                  long rows, long heads, long kv_heads, long size, int threads) {
  const Shape shape{rows, heads, kv_heads, size};
  std::vector<Task> tasks = tasks_of(spans, num_spans, shape);
  std::reverse(tasks.begin(), tasks.end());  // the longest first
  long most = 0;
  for (const Task& task : tasks) most = std::max(most, task.num_queries());
  const bool decodes = most == shape.group();
  const long num_tasks = tasks.size();
  // While decoding, a thread takes several tasks that follow one another, and so knows its next one.
  const long at_once = decodes ? std::max(1L, num_tasks / (4 * threads)) : 1;
  const auto attend = [&](long number, Room& room) {
    const Task& task = tasks[number];
    room.clear();
    Running running(task, queries, room);
    Block block(shape, room);
    if ((number + 1) % at_once && number + 1 < num_tasks) {
      const Task& next = tasks[number + 1];
      block.ahead = Ahead(runs[next.span->first_run + next.span->runs - 1], next.kv_head, size);
    }
    Walk walk{runs + task.span->first_run, task.kv_head};
    for (long start = 0; start < task.num_keys(); start += KEYS) {
      walk.next(int(std::min(long(KEYS), task.num_keys() - start)), block);
      block.pack();
      running.attend(block, start);
    }
    running.finish(out, lse);
  };
  const long lines = Running::lines(most, shape) + Block::lines(shape);
  if (member()) {
    by_workers(threads, [&](const Worker& worker) {
      Room room(lines);
      worker.each(num_tasks, [&](long number) { attend(number, room); });
    });
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    Room room(lines);
#pragma omp for schedule(dynamic, at_once)
    for (long number = 0; number < num_tasks; number++) attend(number, room);
  }
}

// One new token per row: keys and values [S, kv heads, D] into slots of an arena [slots, kv heads, length, D].
void groat_remember(const float* keys, const float* values, float* arena_keys, float* arena_values,
                    const int64_t* slots, const int64_t* lengths, long rows, long kv_heads, long length, long size) {
  in_parallel(rows, 1, [&](long row) {
    for (long head = 0; head < kv_heads; head++) {
      const long from = (row * kv_heads + head) * size;
      const long to = ((slots[row] * kv_heads + head) * length + lengths[row]) * size;
      std::memcpy(arena_keys + to, keys + from, size * sizeof(float));
      std::memcpy(arena_values + to, values + from, size * sizeof(float));
    }
  });
}

}  // extern "C"
