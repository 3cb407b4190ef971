// The gradients of a LoRA adapter: products of which one side is as thin as its rank.

#pragma once

#include "products.h"
#include "workers.h"

#include <algorithm>
#include <vector>

namespace {

// Rows of less than a vector, which is filled up by zeros.
struct ShortRows {
  Rows rows;
  long columns;
  Vec part(long row, long column) const { return load_part(rows[row] + column, columns - column); }
};

// As `multiply`, of any number of columns: sums of those that fill no vector are copied.
inline void multiply_any(const Left& left, const Rows& right, long rows, long columns, long steps, const Target& target) {
  const long whole = columns / LANES * LANES, rest = columns - whole;
  multiply(left, right, rows, whole, steps, target);
  if (!rest) return;
  std::vector<float> sums(rows * LANES);
  for (long row = 0; target.adds && row < rows; row++)
    std::copy_n(target.first + row * target.stride + whole, rest, sums.data() + row * LANES);
  const ShortRows last{{right.first + whole, right.stride}, rest};
  multiply<1>(left, last, rows, LANES, steps, {sums.data(), LANES, target.adds});
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

// Rows of `width` numbers, so many for each thread, that stay in its second cache while they are read again, unless they are
// very wide. They are few enough for the CPU to know the page of each.
inline long rows_at_once(long width, int threads) {
  return threads * std::clamp((1L << 17) / width / 12 * 12, 12L, 48L);
}

// left[rows, height]' right[rows, width], added up over some rows after the other, a vector of columns at a time: so each is
// read once for as many sums as there are registers for. The sums of vector i of columns are at `first + i * vector_stride`,
// rows `row_stride` apart; those of columns that fill no vector are kept here.
class OuterProduct {
 public:
  OuterProduct(long height, long width, float* first, long vector_stride, long row_stride)
      : height(height), width(width), first(first), vector_stride(vector_stride), row_stride(row_stride),
        rest(width % LANES ? height * LANES : 0) {}

  // Some rows; with the first ones the sums begin. Threads share the columns.
  void add(const Rows& left, const Rows& right, long rows, bool begins, int threads) {
    const TurnedLeft turned{left.first, left.stride};
    in_parallel((width + LANES - 1) / LANES, threads, [&](long number) {
      const long column = number * LANES, left_over = width - column;
      if (left_over >= LANES)
        return multiply_panel<TALL, 1>(turned, Rows{right[0] + column, right.stride}, height, 0, rows,
                                       {first + number * vector_stride, row_stride, !begins});
      const ShortRows last{{right[0] + column, right.stride}, left_over};
      multiply_panel<TALL, 1>(turned, last, height, 0, rows, {rest.data(), LANES, !begins});
    });
  }

  const float* rest_of(long row) const { return rest.data() + row * LANES; }

 private:
  static constexpr int TALL = LANES == 16 ? 16 : 8;
  const long height, width;
  float* const first;
  const long vector_stride, row_stride;
  std::vector<float> rest;
};

}  // namespace
