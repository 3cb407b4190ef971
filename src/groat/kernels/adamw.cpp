// AdamW with moments of 8 bits: what adamw.py does with torch, without the fp32 moments ever being there.

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace {

constexpr int BLOCK = 256, CODES = 256;

// 256 numbers as bytes: the nearest value of an ascending code times the largest magnitude of the block.
struct Moment {
  uint8_t* codes;
  float* scales;
  const float* values;
  const float* middles;

  void widen(long start, int size, float* to) const {
    for (int i = 0; i < size; i++) to[i] = scales[start / BLOCK] * values[codes[start + i]];
  }
  // Numbers that are not zero stay so: `least` is the first code for them.
  void round(long start, int size, const float* from, int least) const {
    float largest = 0;
    for (int i = 0; i < size; i++) largest = std::max(largest, std::fabs(from[i]));
    scales[start / BLOCK] = largest;
    for (int i = 0; i < size; i++) {
      const float relative = largest > 0 ? from[i] / largest : 0.0f;
      const int code = int(std::lower_bound(middles, middles + CODES - 1, relative) - middles);
      codes[start + i] = uint8_t(relative > 0 ? std::max(code, least) : code);
    }
  }
};

}  // namespace

struct AdamWNumbers {
  float rate, beta1, beta2, epsilon, weight_decay, correction1, correction2;
};

extern "C" void groat_adamw_8bit(float* weights, const float* grads, long count, uint8_t* mean_codes,
                                 float* mean_scales, const float* mean_values, const float* mean_middles,
                                 uint8_t* square_codes, float* square_scales, const float* square_values,
                                 const float* square_middles, const AdamWNumbers* numbers, int threads) {
  const Moment means{mean_codes, mean_scales, mean_values, mean_middles};
  const Moment squares{square_codes, square_scales, square_values, square_middles};
  const AdamWNumbers by = *numbers;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long start = 0; start < count; start += BLOCK) {
    const int size = int(std::min(long(BLOCK), count - start));
    float mean[BLOCK], square[BLOCK];
    means.widen(start, size, mean);
    squares.widen(start, size, square);
    for (int i = 0; i < size; i++) {
      const float grad = grads[start + i];
      mean[i] = by.beta1 * mean[i] + (1 - by.beta1) * grad;
      square[i] = by.beta2 * square[i] + (1 - by.beta2) * grad * grad;
      const float step = mean[i] / by.correction1 / (std::sqrt(square[i] / by.correction2) + by.epsilon);
      weights[start + i] = weights[start + i] * (1 - by.rate * by.weight_decay) - by.rate * step;
    }
    means.round(start, size, mean, 0);
    squares.round(start, size, square, 1);
  }
}
