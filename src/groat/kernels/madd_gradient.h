// Gradients by AVX2: 16 bits of the gradient times the weights' 8, two outputs at a time. Nearer to fp32 than rounding to
// int8, and at the same speed.

#pragma once

#include "madd.h"
#include "workers.h"

#include <memory>

namespace {

constexpr long DEPTH_OF_SUMS = 256;      // products of 16 and 8 bits that an int32 can hold the sum of
constexpr float GRADIENT_STEPS = 32767;  // either side of zero
constexpr long STRIP = 16;               // inputs whose sums are held in registers
constexpr long GRADIENT_ROWS = 3 * ROWS_AT_ONCE;

// Weights of so many outputs and WIDTH inputs, which have one scale an output: [WIDTH / STRIP][pairs of outputs][STRIP][2].
template <long WIDTH>
struct Panel {
  static constexpr long STRIP_NUMBERS = DEPTH_OF_SUMS * STRIP;
  alignas(64) Rounded values[WIDTH / STRIP * STRIP_NUMBERS];
  alignas(64) float factors[DEPTH_OF_SUMS];  // scales relative to the largest
  float scale;                               // the magnitude of that

  // `weights.read_pairs(output, input, to)` puts 16 inputs of 8 outputs, a pair of them after the other.
  template <class Weights>
  void fill(const Weights& weights, long output, long count, long input, long width) {
    std::fill_n(factors, DEPTH_OF_SUMS, 0.0f);
    weights.read_scales(output, count, input, factors);
    scale = 0;  // those that were quantized themselves may lie below 0
    for (float factor : factors) scale = std::max(scale, std::fabs(factor));
    for (float& factor : factors) factor = scale > 0 ? factor / scale : 0.0f;
    for (long strip = 0; strip < width; strip += STRIP)
      for (long i = 0; i < count; i += EIGHT)
        weights.read_pairs(output + i, input + strip, values + strip / STRIP * STRIP_NUMBERS + i * STRIP);
  }
};

// Rows of a gradient times the scales of the weights they meet, in 16 bits.
struct GradientRows {
  alignas(64) Rounded values[GRADIENT_ROWS][DEPTH_OF_SUMS];
  float scales[GRADIENT_ROWS];

  // `most`: the largest magnitude of the row's `count` numbers. What is past them, up to whole strips, counts as zeros.
  template <long WIDTH>
  void round(long row, const float* grad, float most, const Panel<WIDTH>& panel, long count) {
    const Vec steps = splat(most > 0 ? GRADIENT_STEPS / most : 0.0f);
    scales[row] = most / GRADIENT_STEPS * panel.scale;
    const auto put = [&](long i, Vec first, Vec second) __attribute__((always_inline)) {
      const __m256i sixteen = rounded_sixteen(first * steps * load(panel.factors + i),
                                              second * steps * load(panel.factors + i + LANES));
      _mm256_store_si256(reinterpret_cast<__m256i*>(values[row] + i), sixteen);
    };
    long i = 0;
    for (; i + STRIP <= count; i += STRIP) put(i, load(grad + i), load(grad + i + LANES));
    if (i < count) put(i, load_part(grad + i, count - i), load_part(grad + i + LANES, count - i - LANES));
  }
};

// ROWS rows times a strip of a panel: STRIP numbers of each row of `out`.
template <int ROWS>
__attribute__((noinline)) void multiply_strip(const Rounded* strip, const GradientRows& left, long row, long pairs, bool add,
                                              float* out, long out_stride) {
  __m256i sums[ROWS][2];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++) sums[i][0] = sums[i][1] = _mm256_setzero_si256();
  for (long pair = 0; pair < pairs; pair++) {
    const __m256i* weights = reinterpret_cast<const __m256i*>(strip + pair * 2 * STRIP);
    const __m256i first = _mm256_load_si256(weights), second = _mm256_load_si256(weights + 1);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) {
      int32_t two;
      std::memcpy(&two, left.values[row + i] + 2 * pair, sizeof two);
      const __m256i factor = _mm256_set1_epi32(two);
      add_products(sums[i][0], first, factor);
      add_products(sums[i][1], second, factor);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++)
    for (int half = 0; half < 2; half++) {
      float* to = out + i * out_stride + half * LANES;
      const Vec sum = (Vec)_mm256_cvtepi32_ps(sums[i][half]) * left.scales[row + i];
      store(to, add ? load(to) + sum : sum);
    }
}

// All of up to GRADIENT_ROWS rows.
inline void multiply_strip_by(const Rounded* strip, const GradientRows& left, long rows, long pairs, bool add, float* out,
                              long out_stride) {
  constexpr decltype(&multiply_strip<1>) by_rows[] = {nullptr,           multiply_strip<1>, multiply_strip<2>,
                                                      multiply_strip<3>, multiply_strip<4>, multiply_strip<5>,
                                                      multiply_strip<6>};
  const long parts = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
  for (long part = 0; part < parts; part++) {
    const long row = rows * part / parts, size = rows * (part + 1) / parts - row;
    by_rows[size](strip, left, row, pairs, add, out + row * out_stride, out_stride);
  }
}

// g W, a part of it at a time.
template <class Weights>
struct StraightProduct {
  static constexpr long WIDTH = Weights::WIDTH;
  const Weights& weights;
  const float* grad;
  long grad_stride;
  float* out;
  long out_stride;
  float* largest;  // of each row's magnitudes, [rows, depths]

  long panels() const { return (weights.inputs + WIDTH - 1) / WIDTH; }
  long depths() const { return (weights.outputs + DEPTH_OF_SUMS - 1) / DEPTH_OF_SUMS; }
  long outputs_of(long depth) const { return std::min(DEPTH_OF_SUMS, weights.outputs - depth * DEPTH_OF_SUMS); }
  const float* grad_of(long row, long depth) const { return grad + row * grad_stride + depth * DEPTH_OF_SUMS; }

  // NaN where not all are finite, so that the product is not a number either, and the step is noticed.
  void find_largest(long row) const {
    for (long depth = 0; depth < depths(); depth++) {
      const float* numbers = grad_of(row, depth);
      const long count = outputs_of(depth);
      const auto part = [&](long i) { return load_part(numbers + i * LANES, count - i * LANES); };
      const float most = largest_magnitude((count + LANES - 1) / LANES, part);
      largest[row * depths() + depth] = std::isfinite(most) ? most : NAN;
    }
  }

  // Rows that stay in the cache meet all panels of a depth before the next one's come.
  void multiply(long row, long row_end, long panel, long panel_end) const {
    const std::unique_ptr<Panel<WIDTH>> right(new Panel<WIDTH>);
    const std::unique_ptr<GradientRows> left(new GradientRows);
    for (; row < row_end; row += ROWS_IN_CACHE)
      for (long depth = 0; depth < depths(); depth++)
        for (long number = panel; number < panel_end; number++) {
          const long input = number * WIDTH, width = std::min(WIDTH, weights.inputs - input);
          right->fill(weights, depth * DEPTH_OF_SUMS, outputs_of(depth), input, width);
          for (long first = row; first < std::min(row_end, row + ROWS_IN_CACHE); first += GRADIENT_ROWS)
            multiply_panel(*right, *left, first, std::min(GRADIENT_ROWS, row_end - first), depth, input, width);
        }
  }

 private:
  static constexpr long ROWS_IN_CACHE = 8 * GRADIENT_ROWS;

  void multiply_panel(const Panel<WIDTH>& right, GradientRows& left, long first, long rows, long depth, long input,
                      long width) const {
    const long count = outputs_of(depth);
    for (long i = 0; i < rows; i++)
      left.round(i, grad_of(first + i, depth), largest[(first + i) * depths() + depth], right, count);
    for (long strip = 0; strip < width; strip += STRIP)
      multiply_strip_by(right.values + strip / STRIP * Panel<WIDTH>::STRIP_NUMBERS, left, rows, (count + 1) / 2, depth > 0,
                        out + first * out_stride + input + strip, out_stride);
  }
};

// out[rows, inputs] = g W; a row does not depend on the others. `scratch`: a number for each row and DEPTH_OF_SUMS outputs.
template <class Weights>
void multiply_straight(const Weights& weights, const float* grad, long grad_stride, float* out, long out_stride, long rows,
                       float* scratch, int threads) {
  const StraightProduct<Weights> product{weights, grad, grad_stride, out, out_stride, scratch};
  const bool by_rows = product.panels() < 4 * threads;
  by_workers(threads, [&](const Worker& worker) {
    worker.each(rows, [&](long row) { product.find_largest(row); });
    worker.wait();
    const long panels = product.panels();
    if (by_rows)
      product.multiply(worker.begin(rows), worker.end(rows), 0, panels);
    else
      product.multiply(0, rows, worker.begin(panels), worker.end(panels));
  });
}

}  // namespace
