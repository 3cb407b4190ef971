// The gradients of a LoRA adapter: products of which one side is as thin as its rank.

#pragma once

#include "products.h"
#include "workers.h"

#include <algorithm>
#include <vector>

namespace {

constexpr long STRIP = TILE_VECTORS * LANES, STEPS_AT_ONCE = 128;  // that many rows of a strip stay in the first cache

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

// Hands out left[rows, height]' right[rows, width] in strips of columns: their first one, their number, and
// sums[height][STRIP]. Threads share the strips.
template <class Take>
void for_each_outer_strip(const Rows& left, const Rows& right, long rows, long height, long width, const Take& take,
                          int threads) {
  by_workers(threads, [&](const Worker& worker) {
    std::vector<float> sums(height * STRIP), strip(STEPS_AT_ONCE * STRIP);
    worker.each((width + STRIP - 1) / STRIP, [&](long number) {
      const long first = number * STRIP;
      const long count = std::min(STRIP, width - first);
      for (long start = 0; start < rows; start += STEPS_AT_ONCE) {
        const long steps = std::min(STEPS_AT_ONCE, rows - start);
        for (long step = 0; step < steps; step++)
          std::copy_n(right[start + step] + first, count, strip.data() + step * STRIP);
        multiply({left[start], 1, left.stride}, Rows{strip.data(), STRIP}, height, STRIP, steps,
                 {sums.data(), STRIP, start > 0});
      }
      take(first, count, sums.data());
    });
  });
}

}  // namespace
