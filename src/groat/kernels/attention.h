// What attention and its gradient share: where keys and values lie, how the work is cut into tasks, and products of
// matrices that fit the caches.

#pragma once

#include "kernels.h"
#include "vectors.h"

#include <vector>

namespace {

struct Shape {
  long rows, heads, kv_heads, size;
  long group() const { return heads / kv_heads; }
  long padded() const { return (size + LANES - 1) / LANES * LANES; }
  float scale() const { return 1.0f / std::sqrt(float(size)); }
};

// Rows [from, to) of a span, the query heads of one kv head. Its queries are numbered row by row.
struct Task {
  const Span* span;
  const Shape* shape;
  long from, to, kv_head;
  long num_queries() const { return (to - from) * shape->group(); }
  long num_keys() const { return span->position + to; }  // that the last row sees
  long row(long query) const { return span->first_row + from + query / shape->group(); }
  long head(long query) const { return kv_head * shape->group() + query % shape->group(); }
  long place(long query) const { return row(query) * shape->heads + head(query); }     // in [T, A]
  long lse_place(long query) const { return head(query) * shape->rows + row(query); }  // in [A, T]
};

constexpr long TASK_QUERIES = 192;

// The rows of a span in equal parts, each for all kv heads.
inline std::vector<Task> tasks_of(const Span* spans, long num_spans, const Shape& shape) {
  const long most = std::max(1L, TASK_QUERIES / shape.group());
  std::vector<Task> tasks;
  for (const Span* span = spans; span < spans + num_spans; span++) {
    const long parts = (span->rows + most - 1) / most;
    for (long part = 0; part < parts; part++)
      for (long head = 0; head < shape.kv_heads; head++)
        tasks.push_back({span, &shape, part * span->rows / parts, (part + 1) * span->rows / parts, head});
  }
  return tasks;
}

// Floats for one task after the other, each piece at the beginning of a line of the cache.
class Room {
 public:
  explicit Room(long lines) : lines(lines) {}
  static long lines_of(long floats) { return (floats + LINE - 1) / LINE; }
  void clear() { used = 0; }
  float* take(long floats) {
    float* taken = lines.data()[used].floats;
    used += lines_of(floats);
    return taken;
  }

 private:
  static constexpr long LINE = 16;
  struct alignas(64) Line {
    float floats[LINE];
  };
  std::vector<Line> lines;
  long used = 0;
};

// The first `count` numbers, and zeros behind them.
inline Vec load_part(const float* from, long count) {
  if (count >= LANES) return load(from);
  Vec part = {};
  for (int lane = 0; lane < count; lane++) part[lane] = from[lane];
  return part;
}

// LANES / WIDTH rows of as many pieces, of WIDTH numbers each: rows become columns.
template <int WIDTH>
inline void turn(Vec* rows) {
  const IntVec lanes = lane_numbers();
#pragma GCC unroll 4
  for (int step = LANES / WIDTH / 2; step; step /= 2) {
    const IntVec is_upper = (lanes & WIDTH * step) != 0, across = lanes ^ WIDTH * step;
    const IntVec first = is_upper ? across + LANES : lanes, second = is_upper ? lanes + LANES : across;
#pragma GCC unroll 16
    for (int i = 0; i < LANES / WIDTH; i++)
      if (!(i & step)) {
        const Vec turned = __builtin_shuffle(rows[i], rows[i + step], second);
        rows[i] = __builtin_shuffle(rows[i], rows[i + step], first);
        rows[i + step] = turned;
      }
  }
}

// The left side of a product: a matrix by rows, or one that lies turned.
struct Left {
  const float* first;
  long row_stride, step_stride;
};

struct Rows {
  const float* first;
  long stride;
  const float* operator[](long row) const { return first + row * stride; }
};

struct Target {
  float* first;
  long stride;
  bool adds;  // to what is there
};

constexpr int TILE_ROWS = 6, TILE_VECTORS = LANES == 16 ? 4 : 2;  // as many sums as there are registers for

// Each number is one sum, added up step by step: so it is the same, bit for bit, in tiles of any size. Not inlined, or
// the sums would share their registers with what surrounds them.
template <int TALL, int WIDE, class Right>
__attribute__((noinline)) void multiply_tile(const Left& left, const Right& right, long column, long steps,
                                             const Target& target) {
  Vec sums[TALL][WIDE];
#pragma GCC unroll 8
  for (int row = 0; row < TALL; row++)
#pragma GCC unroll 8
    for (int i = 0; i < WIDE; i++)
      sums[row][i] = target.adds ? load(target.first + row * target.stride + column + i * LANES) : Vec{};
  for (long step = 0; step < steps; step++) {
    const float *from = right[step] + column, *factors = left.first + step * left.step_stride;
    Vec values[WIDE];
#pragma GCC unroll 8
    for (int i = 0; i < WIDE; i++) values[i] = load(from + i * LANES);
#pragma GCC unroll 8
    for (int row = 0; row < TALL; row++)
#pragma GCC unroll 8
      for (int i = 0; i < WIDE; i++) sums[row][i] += factors[row * left.row_stride] * values[i];
  }
#pragma GCC unroll 8
  for (int row = 0; row < TALL; row++)
#pragma GCC unroll 8
    for (int i = 0; i < WIDE; i++) store(target.first + row * target.stride + column + i * LANES, sums[row][i]);
}

// In tiles of TALL rows, and the rest in a lower one.
template <int TALL, int WIDE, class Right>
inline void multiply_panel(Left left, const Right& right, long rows, long column, long steps, Target target) {
  for (; rows >= TALL; rows -= TALL, left.first += TALL * left.row_stride, target.first += TALL * target.stride)
    multiply_tile<TALL, WIDE>(left, right, column, steps, target);
  if constexpr (TALL > 1)
    if (rows) multiply_panel<TALL - 1, WIDE>(left, right, rows, column, steps, target);
}

// target[rows, columns] = left[rows, steps] right[steps, columns], from a column on; whole vectors of columns.
template <int WIDE = TILE_VECTORS, class Right>
inline void multiply(const Left& left, const Right& right, long rows, long columns, long steps, const Target& target,
                     long column = 0) {
  for (; column + WIDE * LANES <= columns; column += WIDE * LANES)
    multiply_panel<TILE_ROWS, WIDE>(left, right, rows, column, steps, target);
  if constexpr (WIDE > 1)
    if (column < columns) multiply<WIDE - 1>(left, right, rows, columns, steps, target, column);
}

}  // namespace
