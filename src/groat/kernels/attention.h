// What attention and its gradient share: where keys and values lie, and how the work is cut into tasks.

#pragma once

#include "keys_values.h"
#include "products.h"

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
  // How many of the `most` keys that follow position `start`.
  int seen(long query, long start, int most) const {
    return int(std::min(long(most), span->position + from + query / shape->group() + 1 - start));
  }
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
  static long lines_of(long floats) { return CacheLine::holding(floats); }
  void clear() { used = 0; }
  float* take(long floats) {
    float* taken = lines.data()[used].floats;
    used += lines_of(floats);
    return taken;
  }

 private:
  std::vector<CacheLine> lines;
  long used = 0;
};

}  // namespace
