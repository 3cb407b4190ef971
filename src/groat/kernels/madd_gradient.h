// Gradients by AVX2: 16 bits of the gradient times the weights' 8, two outputs at a time. Nearer to fp32 than rounding to
// int8, and at the same speed.

#pragma once

#include "madd.h"
#include "workers.h"

#include <memory>

namespace {

constexpr long DEPTH_OF_SUMS = 256;     // products of 16 and 8 bits that an int32 can hold the sum of
constexpr float GRADIENT_STEPS = 32767;  // either side of zero
constexpr long STRIP = 16;               // inputs whose sums are held in registers

// Rows of a gradient times the scales of the weights they meet, in 16 bits.
struct GradientRows {
  alignas(64) Rounded values[SIXTEEN][DEPTH_OF_SUMS];
  float scales[SIXTEEN];

  // What is past `count`, up to whole strips, counts as zeros.
  void round(long row, const float* grad, const float* factors, long count) {
    alignas(64) float products[DEPTH_OF_SUMS];
    const long whole = count / STRIP * STRIP, end = (count + STRIP - 1) / STRIP * STRIP;
    __m256i most = _mm256_setzero_si256();
    const auto multiply = [&](long i, Vec numbers) {
      const Vec product = numbers * load(factors + i);
      most = larger_bits(most, product);
      store(products + i, product);
    };
    for (long i = 0; i < whole; i += LANES) multiply(i, load(grad + i));
    for (long i = whole; i < end; i += LANES) multiply(i, load_part(grad + i, count - i));
    scale(row, products, end, largest_lane(most));
  }

 private:
  void scale(long row, const float* products, long end, int32_t bits) {
    const bool is_finite = bits < 0x7F800000;
    float most;
    std::memcpy(&most, &bits, sizeof most);
    const Vec steps = splat(is_finite && most > 0 ? GRADIENT_STEPS / most : 0.0f);
    scales[row] = is_finite ? most / GRADIENT_STEPS : NAN;
    for (long i = 0; i < end; i += STRIP) {
      const __m256i sixteen = rounded_sixteen(load(products + i) * steps, load(products + i + LANES) * steps);
      _mm256_store_si256(reinterpret_cast<__m256i*>(values[row] + i), sixteen);
    }
  }
};

// Weights of so many outputs and WIDTH inputs, which have one scale an output: [WIDTH / STRIP][pairs of outputs][STRIP][2].
template <long WIDTH>
struct Panel {
  static constexpr long STRIP_NUMBERS = DEPTH_OF_SUMS * STRIP;
  alignas(64) Rounded values[WIDTH / STRIP * STRIP_NUMBERS];
  alignas(64) float scales[DEPTH_OF_SUMS];

  // `weights.read_pairs(output, input, to)` puts 16 inputs of 8 outputs, a pair of them after the other.
  template <class Weights>
  void fill(const Weights& weights, long output, long count, long input, long width) {
    std::fill_n(scales, DEPTH_OF_SUMS, 0.0f);
    weights.read_scales(output, count, input, scales);
    for (long strip = 0; strip < width; strip += STRIP)
      for (long i = 0; i < count; i += EIGHT)
        weights.read_pairs(output + i, input + strip, values + strip / STRIP * STRIP_NUMBERS + i * STRIP);
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

// All of up to sixteen rows.
inline void multiply_strip_by(const Rounded* strip, const GradientRows& left, long rows, long pairs, bool add, float* out,
                              long out_stride) {
  constexpr decltype(&multiply_strip<1>) by_rows[] = {nullptr, multiply_strip<1>, multiply_strip<2>, multiply_strip<3>,
                                                      multiply_strip<4>, multiply_strip<5>, multiply_strip<6>};
  const long parts = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
  for (long part = 0; part < parts; part++) {
    const long row = rows * part / parts, size = rows * (part + 1) / parts - row;
    by_rows[size](strip, left, row, pairs, add, out + row * out_stride, out_stride);
  }
}

// out[rows, inputs] = g W; a row does not depend on the others.
template <class Weights>
void multiply_straight(const Weights& weights, const float* grad, long grad_stride, float* out, long out_stride, long rows,
                       int threads) {
  constexpr long WIDTH = Weights::WIDTH;
  const long panels = (weights.inputs + WIDTH - 1) / WIDTH, sixteens = sixteens_of(rows);
  const long row_parts = panels < 4 * threads ? threads : 1;
  by_workers(threads, [&](const Worker& worker) {
    const std::unique_ptr<Panel<WIDTH>> panel(new Panel<WIDTH>);
    const std::unique_ptr<GradientRows> left(new GradientRows);
    worker.each(row_parts * panels, [&](long task) {
      const long input = task % panels * WIDTH, width = std::min(WIDTH, weights.inputs - input), part = task / panels;
      const long first = SIXTEEN * (sixteens * part / row_parts);
      const long end = std::min(rows, SIXTEEN * (sixteens * (part + 1) / row_parts));
      for (long output = 0; output < weights.outputs && first < end; output += DEPTH_OF_SUMS) {
        const long count = std::min(DEPTH_OF_SUMS, weights.outputs - output);
        panel->fill(weights, output, count, input, width);
        for (long row = first; row < end; row += SIXTEEN) {
          const long here = std::min(SIXTEEN, end - row);
          for (long i = 0; i < here; i++) left->round(i, grad + (row + i) * grad_stride + output, panel->scales, count);
          for (long strip = 0; strip < width; strip += STRIP)
            multiply_strip_by(panel->values + strip / STRIP * Panel<WIDTH>::STRIP_NUMBERS, *left, here, (count + 1) / 2,
                              output > 0, out + row * out_stride + input + strip, out_stride);
        }
      }
    });
  });
}

}  // namespace
