// What the gradient of attention is given, and what it adds up for the keys and values along a path.

#pragma once

#include "attention.h"

namespace {

struct Given {
  const float *grad, *queries, *output;  // [T, A, D]
  const float* lse;                      // [A, T]
  const float* keys;                     // where those of the first row are
  const Run* runs;
  const Prefix* before;  // in fp32, or null: its keys are then a run of their own
};

inline const float* floats(const void* numbers) { return static_cast<const float*>(numbers); }

// The gradients of the keys and values that a task's queries see, one behind the other along its path.
class PathGradients {
 public:
  // Of so many numbers a key, in room for `spare` keys more.
  PathGradients(const Task& task, const Given& given, long padded, long spare, Room& room)
      : task(task), given(given), size(task.shape->size), group(task.shape->group()), count(task.num_queries()),
        padded(padded) {
    const long numbers = (task.num_keys() + spare) * padded;
    grad_keys = room.take(numbers), grad_values = room.take(numbers);
  }
  static long lines(long most_keys, long padded) { return 2 * Room::lines_of(most_keys * padded); }

  void add(float* to_keys, float* to_values) const {
    for_each_run([&](const Run& run, long seen, long before) {
      const bool is_before = given.before && run.keys == given.before->keys;
      const long place = (is_before ? 0 : floats(run.keys) - given.keys) + task.kv_head * run.head_stride;
      float* keys = (is_before ? given.before->grad_keys : to_keys) + place;
      float* values = (is_before ? given.before->grad_values : to_values) + place;
      for (long key = 0; key < seen; key++) {
        const long to = key * run.token_stride, from = (before + key) * padded;
        for (long i = 0; i < size; i++) keys[to + i] += grad_keys[from + i];
        for (long i = 0; i < size; i++) values[to + i] += grad_values[from + i];
      }
    });
  }

 protected:
  const Task& task;
  const Given& given;
  const long size, group, count, padded;
  float *grad_keys, *grad_values;

  // Rows of a query, scaled, and of its output's gradient; those behind the last query have no weights.
  void begin(long query, float* scaled, float* grads, float* lse, float* along) const {
    const bool is_there = query < count;
    const long place = is_there ? task.place(query) * size : 0;
    const float scale = task.shape->scale();
    Vec products = {};
    for (long i = 0, to = query * padded; i < padded; i += LANES, to += LANES) {
      const long left = is_there ? size - i : 0;
      const Vec grad = load_part(given.grad + place + i, left);
      products += grad * load_part(given.output + place + i, left);
      store(scaled + to, scale * load_part(given.queries + place + i, left));
      store(grads + to, grad);
    }
    along[query] = sum(products);
    lse[query] = is_there ? given.lse[task.lse_place(query)] : std::numeric_limits<float>::infinity();
  }

  // Calls with each block of at most so many keys of a run: keys, values, how many, and how many come before them.
  template <class Act>
  void for_each_block(long most, const Act& act) const {
    for_each_run([&](const Run& run, long seen, long before) {
      for (long key = 0; key < seen; key += most) {
        const long skipped = key * run.token_stride + task.kv_head * run.head_stride;
        act(Rows{floats(run.keys) + skipped, run.token_stride}, Rows{floats(run.values) + skipped, run.token_stride},
            std::min(most, seen - key), before + key);
      }
    });
  }

  // How many rows come between the first query and what follows so many keys.
  long ahead(long before) const { return before - task.span->position - task.from; }

 private:
  // Calls with each run of the path, how many of its keys are seen, and how many come before it.
  template <class Act>
  void for_each_run(const Act& act) const {
    const Run *run = given.runs + task.span->first_run, *own = run + task.span->runs - 1;
    long before = 0;
    for (; run < own; before += run->count, run++) act(*run, run->count, before);
    act(*own, task.to, before);
  }
};

}  // namespace
