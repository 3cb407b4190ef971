// The gradients of a LoRA adapter: products of which one side is as thin as its rank.

#pragma once

#include "products.h"
#include "workers.h"

#include <algorithm>
#include <vector>

namespace {

// As `multiply`, of any number of columns: those that fill no vector are multiplied in a copy.
inline void multiply_any(const Left& left, const Rows& right, long rows, long columns, long steps, const Target& target) {
  const long whole = columns / LANES * LANES, rest = columns - whole;
  multiply(left, right, rows, whole, steps, target);
  if (!rest) return;
  std::vector<float> edge(steps * LANES), sums(rows * LANES);
  for (long step = 0; step < steps; step++) std::copy_n(right[step] + whole, rest, edge.data() + step * LANES);
  for (long row = 0; target.adds && row < rows; row++)
    std::copy_n(target.first + row * target.stride + whole, rest, sums.data() + row * LANES);
  multiply(left, Rows{edge.data(), LANES}, rows, LANES, steps, {sums.data(), LANES, target.adds});
  for (long row = 0; row < rows; row++)
    std::copy_n(sums.data() + row * LANES, rest, target.first + row * target.stride + whole);
}

// target[rows, columns] = alpha left[rows, inner] right[inner, columns], or without alpha added to what is there. Threads
// share the rows.
inline void multiply_thin(const Rows& left, const Rows& right, long rows, long columns, long inner, float alpha,
                          const Target& target, int threads) {
  in_parallel(threads, threads, [&](long part) {
    const long from = rows * part / threads, count = rows * (part + 1) / threads - from;
    float* to = target.first + from * target.stride;
    multiply_any({left[from], left.stride, 1}, right, count, columns, inner, {to, target.stride, target.adds});
    for (long row = 0; !target.adds && row < count; row++)
      for (long i = 0; i < columns; i++) to[row * target.stride + i] *= alpha;
  });
}

// Rows of `width` numbers that stay in the second cache while they are read again. They are few enough for the CPU to know
// the page of each.
inline long rows_at_once(long width) { return std::clamp((1L << 17) / width / 12 * 12, 12L, 48L); }

// left[rows, height]' right[rows, width], added up over some rows after the other, a vector of columns at a time: so each is
// read once for as many sums as there are registers for.
class OuterProduct {
 public:
  OuterProduct(long height, long width) : height(height), width(width), sums((width + LANES - 1) / LANES * height) {}

  // Threads share the columns.
  void add(const Rows& left, const Rows& right, long rows, int threads) {
    const TurnedLeft turned{left.first, left.stride};
    in_parallel((width + LANES - 1) / LANES, threads, [&](long number) {
      const long first = number * LANES;
      const Target target{sums[number * height].floats, LANES, true};
      if (first + LANES <= width) return add_vector(turned, Rows{right[0] + first, right.stride}, rows, target);
      std::vector<Sums> last(rows);
      for (long row = 0; row < rows; row++) std::copy_n(right[row] + first, width - first, last[row].floats);
      add_vector(turned, Rows{last[0].floats, LANES}, rows, target);
    });
  }

  float at(long row, long column) const { return sums[column / LANES * height + row].floats[column % LANES]; }

 private:
  static constexpr int TALL = LANES == 16 ? 16 : 8;
  struct alignas(LANES * 4) Sums {
    float floats[LANES] = {};
  };
  const long height, width;
  std::vector<Sums> sums;  // [vectors of columns][height]

  void add_vector(const TurnedLeft& left, const Rows& right, long rows, const Target& target) const {
    multiply_panel<TALL, 1>(left, right, height, 0, rows, target);
  }
};

}  // namespace
