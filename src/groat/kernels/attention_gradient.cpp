// Gradients of attention over trees; its weights are computed again from the log-sum-exp (FlashAttention-2,
// arXiv:2307.08691).
//
// Scores lie turned, a row for each key and a lane for each query: so keys and values are read where they are, and a
// query's log-sum-exp is a lane of a vector.

#include "attention_gradient_tiles.h"

namespace {

constexpr int KEYS = 4 * TILE_ROWS;  // of a block

// The queries of a task, and the gradients that are added up for them and for the keys and values they see.
class Backward : public PathGradients {
 public:
  struct Setup {};

  Backward(const Task& task, const Given& given, Room& room)
      : PathGradients(task, given, task.shape->padded(), 0, room), width(whole(count)) {
    for (float** matrix : {&queries, &turned_queries, &grads, &turned_grads, &grad_queries})
      *matrix = room.take(width * padded);
    lse = room.take(width), along = room.take(width);
    weights = room.take(KEYS * width), grad_scores = room.take(KEYS * width), padded_keys = room.take(KEYS * padded);
    for (long query = 0; query < width; query++) begin(query, queries, grads, lse, along);
    std::fill(grad_queries, grad_queries + width * padded, 0.0f);
    turn_all(queries, turned_queries), turn_all(grads, turned_grads);
  }
  static long lines(long most_queries, long most_keys, const Shape& shape) {
    const long width = whole(most_queries), padded = shape.padded();
    return 5 * Room::lines_of(width * padded) + 2 * Room::lines_of(width) + 2 * Room::lines_of(KEYS * width) +
           Room::lines_of(KEYS * padded) + PathGradients::lines(most_keys, padded);
  }

  void compute(float* to) {
    for_each_block(KEYS, [&](const Rows& keys, const Rows& values, long num_keys, long before) {
      attend_back(keys, values, num_keys, ahead(before), before * padded);
    });
    const float scale = task.shape->scale();
    for (long query = 0; query < count; query++) {
      float* row = to + task.place(query) * size;
      for (long i = 0; i < size; i++) row[i] = scale * grad_queries[query * padded + i];
    }
  }

 private:
  const long width;
  float *queries, *turned_queries, *grads, *turned_grads, *grad_queries, *lse, *along;
  float *weights, *grad_scores, *padded_keys;

  static long whole(long lanes) { return (lanes + LANES - 1) / LANES * LANES; }

  void turn_all(const float* from, float* to) const {
    for (long query = 0; query < width; query += LANES)
      for (long column = 0; column < padded; column += LANES) {
        Vec rows[LANES];
        for (int i = 0; i < LANES; i++) rows[i] = load(from + (query + i) * padded + column);
        turn<1>(rows);
        for (int i = 0; i < LANES; i++) store(to + (column + i) * width + query, rows[i]);
      }
  }

  // A block of keys; the first comes `ahead` rows after the first query.
  void attend_back(const Rows& keys, const Rows& values, long num_keys, long ahead, long place) {
    const long first = std::max(0L, ahead * group) / LANES * LANES, lanes = width - first, seeing = count - first;
    float *w = weights + first, *s = grad_scores + first;
    const Rows lanes_of_queries{turned_queries + first, width}, lanes_of_grads{turned_grads + first, width};
    multiply({keys.first, keys.stride, 1}, lanes_of_queries, num_keys, lanes, size, {w, width, false});
    multiply({values.first, values.stride, 1}, lanes_of_grads, num_keys, lanes, size, {s, width, false});
    for (long key = 0; key < num_keys; key++) weigh(key, first, (ahead + key) * group);
    const Rows seeing_queries{queries + first * padded, padded}, seeing_grads{grads + first * padded, padded};
    multiply({w, width, 1}, seeing_grads, num_keys, padded, seeing, {grad_values + place, padded, false});
    multiply({s, width, 1}, seeing_queries, num_keys, padded, seeing, {grad_keys + place, padded, false});
    multiply({s, 1, width}, in_whole_vectors(keys, num_keys), seeing, padded, num_keys,
             {grad_queries + first * padded, padded, true});
  }

  // Scores of a key become weights, gradients of weights those of scores; `hidden` queries do not see it.
  void weigh(long key, long first, long hidden) {
    for (long lane = first; lane < width; lane += LANES) {
      float *weight = weights + key * width + lane, *grad = grad_scores + key * width + lane;
      const IntVec is_hidden = lane_numbers() < int(hidden - lane);
      const Vec here = is_hidden ? Vec{} : exponential(load(weight) - load(lse + lane));
      store(weight, here);
      store(grad, here * (load(grad) - load(along + lane)));
    }
  }

  Rows in_whole_vectors(const Rows& keys, long num_keys) const {
    if (size == padded) return keys;
    for (long key = 0; key < num_keys; key++)
      for (long i = 0; i < padded; i += LANES)
        store(padded_keys + key * padded + i, load_part(keys[key] + i, size - i));
    return {padded_keys, padded};
  }
};

template <class Backward>
void attend_backward(const Shape& shape, const Given& given, const std::vector<Task>& tasks, float* grad_queries,
                     float* grad_keys, float* grad_values, int threads) {
  const long num_tasks = tasks.size();
  long most_queries = 0, most_keys = 0;
  for (const Task& task : tasks)
    most_queries = std::max(most_queries, task.num_queries()), most_keys = std::max(most_keys, task.num_keys());
#pragma omp parallel num_threads(threads)
  {
    Room room(Backward::lines(most_queries, most_keys, shape));
    [[maybe_unused]] const typename Backward::Setup setup;
#pragma omp for ordered schedule(dynamic)
    for (long number = 0; number < num_tasks; number++) {
      room.clear();
      Backward backward(tasks[number], given, room);
      backward.compute(grad_queries);
#pragma omp ordered
      backward.add(grad_keys, grad_values);
    }
  }
}

}  // namespace

extern "C" {

// Gradients [T, A, D] of the queries and [T, kv heads, D] of keys and values, given what groat_attend was given and has
// found; those of keys and values before the roots are added to. In bf16, if that is wanted and there are matrix tiles for
// it. What tasks find for a key is added in their order, so the number of threads changes nothing.
void groat_attend_backward(const float* grad, const float* queries, const float* output, const float* lse,
                           const float* keys, const Span* spans, long num_spans, const Run* runs, const Prefix* before,
                           float* grad_queries, float* grad_keys, float* grad_values, long rows, long heads,
                           long kv_heads, long size, int in_halves, int threads) {
  const Shape shape{rows, heads, kv_heads, size};
  const Given given{grad, queries, output, lse, keys, runs, before};
  const std::vector<Task> tasks = tasks_of(spans, num_spans, shape);
  std::fill(grad_keys, grad_keys + rows * kv_heads * size, 0.0f);
  std::fill(grad_values, grad_values + rows * kv_heads * size, 0.0f);
#if defined(MULTIPLIES_IN_BFLOAT16)
  if (in_halves && size >= STEP && multiplies_in_bfloat16())
    return attend_backward<TileBackward>(shape, given, tasks, grad_queries, grad_keys, grad_values, threads);
#endif
  attend_backward<Backward>(shape, given, tasks, grad_queries, grad_keys, grad_values, threads);
}

}  // extern "C"
