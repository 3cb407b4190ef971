// Causal attention of rows of tokens to what came before them, wherever it lies: a run of keys after the other.
//
// A row goes through the keys of its path in blocks that begin at multiples of 64 positions, and the numbers of a row
// are added in the same order whatever runs the keys lie in and whichever rows come with it. So a token that is decoded
// has the attention, bit for bit, that it has in the learner's trees. Products in int8 need that: rounding turns the
// smallest difference into a step.

#include "attention_int8.h"
#include "workers.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace {

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

// Values as rows of a product.
template <class Number>
struct ValueRows {
  const Heads<Number>* heads;
  long first, size;

  Vec part(long row, long column) const { return heads->part(first + row, column, size); }
};

// Up to KEYS keys and their values. In `packed` the keys lie as they are multiplied: for every TOGETHER of them vectors with
// four numbers of each.
template <class Number>
struct Block : KeyBlock<Number> {
  using KeyBlock<Number>::keys, KeyBlock<Number>::ahead;
  long size, padded;
  float* packed;

  Block(const Shape& shape, Room& room) : size(shape.size), padded(shape.padded()), packed(room.take(KEYS * padded)) {}
  static long lines(const Shape& shape) { return Room::lines_of(KEYS * shape.padded()); }

  ValueRows<Number> values_from(long first) const { return {&this->values, first, size}; }

  void pack() {
    const int whole = this->fill(LANES);
    float* to = packed;
    for (int key = 0; key < whole; key += TOGETHER) {
      for (long column = 0; column < size; column += LANES) {
        Vec rows[TOGETHER];
        for (int i = 0; i < TOGETHER; i++) rows[i] = keys.part(key + i, column, size);
        ahead.fetch(1);
        turn<FOUR>(rows);
        for (int i = 0; i < TOGETHER; i++, to += LANES) store(to, rows[i]);
      }
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
          for (int j = 0; j < FOUR; j++) sums[query][j] = multiply_add(four, some[j], sums[query][j]);
        }
      }
#pragma GCC unroll 8
      for (int query = 0; query < TALL; query++) store(scores + query * KEYS + key, sums_of_fours(sums[query]));
    }
  }
};

// The queries of a task over ever more keys.
template <class Of>
struct Running {
  using Number = Of;
  using Block = ::Block<Number>;
  struct Setup {
    explicit Setup(long) {}
  };
  const Task& task;
  long padded;
  float *queries, *outputs, *maxima, *sums, *scores;

  Running(const Task& task, const float* from, long, Room& room) : task(task), padded(task.shape->padded()) {
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
        softmax(first + i).weigh(scores + i * KEYS, seen(first + i, start));
      }
      block.ahead.fetch(4);
      for (long i = 0; i < some; i += TILE_ROWS)
        add(block, start, first + i, std::min(long(TILE_ROWS), some - i), scores + i * KEYS);
    }
  }

  void finish(float* out, float* lse) const {
    const long size = task.shape->size;
    for (long query = 0; query < task.num_queries(); query++) {
      const float total = softmax(query).total(), inverse = 1.0f / total;
      float* to = out + task.place(query) * size;
      for (long i = 0; i < size; i++) to[i] = outputs[query * padded + i] * inverse;
      if (lse) lse[task.lse_place(query)] = maxima[query] + std::log(total);
    }
  }

 private:
  Softmax softmax(long query) const { return {maxima + query, sums + query * LANES, outputs + query * padded, padded}; }

  int seen(long query, long start) const { return task.seen(query, start, KEYS); }

  // Weighed values of some queries: first of the keys that all of them see.
  void add(const Block& block, long start, long first, long some, const float* weights) {
    const int common = seen(first, start);
    float* to = outputs + first * padded;
    multiply({weights, KEYS, 1}, block.values_from(0), some, padded, common, {to, padded, true});
    for (long i = 1; i < some; i++)
      if (const int more = seen(first + i, start) - common)
        multiply({weights + i * KEYS + common, KEYS, 1}, block.values_from(common), 1, padded, more,
                 {to + i * padded, padded, true});
  }
};

template <class Running>
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
    Running running(task, queries, most, room);
    typename Running::Block block(shape, room);
    if ((number + 1) % at_once && number + 1 < num_tasks) {
      const Task& next = tasks[number + 1];
      block.ahead = Ahead(runs[next.span->first_run + next.span->runs - 1], next.kv_head, shape.size, sizeof(typename Running::Number));
    }
    Walk<typename Running::Number> walk{runs + task.span->first_run, task.kv_head, shape.size};
    for (long start = 0; start < task.num_keys(); start += KEYS) {
      walk.next(int(std::min(long(KEYS), task.num_keys() - start)), block);
      block.pack();
      running.attend(block, start);
    }
    running.finish(out, lse);
  };
  const long lines = Running::lines(most, shape) + Running::Block::lines(shape);
  if (member()) {
    by_workers(threads, [&](const Worker& worker) {
      Room room(lines);
      const typename Running::Setup setup(most);
      worker.each(num_tasks, [&](long number) { do_task(number, room); });
    });
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    Room room(lines);
    const typename Running::Setup setup(most);
#pragma omp for schedule(dynamic, at_once)
    for (long number = 0; number < num_tasks; number++) do_task(number, room);
  }
}

}  // namespace

extern "C" {

// queries[T, A, D] -> out[T, A, D] and, unless null, lse[A, T]; every row lies in one span.
void groat_attend(const float* queries, float* out, float* lse, const Span* spans, long num_spans, const Run* runs,
                  long rows, long heads, long kv_heads, long size, int threads) {
  if (!num_spans) return;
  const Shape shape{rows, heads, kv_heads, size};
  const auto attend_in_any_way = [&](auto attend) { attend(shape, queries, out, lse, spans, num_spans, runs, threads); };
  if (!runs->key_scales) return attend_in_any_way(attend<Running<float>>);
#if GROAT_ATTENDS_BY_TILES
  if (attends_in_digits(shape) && tiles_are_allowed()) return attend_in_any_way(attend<DigitRunning<TileDigits>>);
#endif
#if GROAT_ATTENDS_IN_DIGITS
  if (attends_in_digits(shape)) return attend_in_any_way(attend<DigitRunning<VnniDigits>>);
#endif
  attend_in_any_way(attend<Running<int8_t>>);
}

}  // extern "C"
