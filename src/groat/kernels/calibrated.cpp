// Rounding to NF4 with what the inputs are like in mind; calibrated.py says how and does the same with torch.
//
// Letters as in Python: N outputs, K inputs of a layer; weights lie as [N, K]; blocks run over the flattened whole.

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int CODES = 16, BLOCK = 64, MOST_DIRECTIONS = 8;

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t IntVec __attribute__((vector_size(LANES * 4)));

inline Vec splat(float value) { return value - Vec{}; }

struct Code {  // NF4's values and the middles between neighbours
  Vec values[CODES], middles[CODES - 1];

  explicit Code(const float* code) {
    for (int i = 0; i < CODES; i++) values[i] = splat(code[i]);
    for (int i = 0; i + 1 < CODES; i++) middles[i] = splat((code[i] + code[i + 1]) / 2);
  }

  inline Vec nearest(Vec x) const {
    Vec value = values[0];
    for (int i = 0; i + 1 < CODES; i++) value = x > middles[i] ? values[i + 1] : value;
    return value;
  }

  inline IntVec number(Vec x) const {
    IntVec number{};
    for (int i = 0; i + 1 < CODES; i++) number -= x > middles[i];  // true is -1
    return number;
  }
};

// The sum of importance * (rounded - weight)^2 over a block.
inline float block_error(const Code& code, const Vec* weights, const Vec* importances, float scale) {
  const Vec by = splat(scale), inverse = splat(1.0f / scale);
  Vec total{};
  for (int i = 0; i < BLOCK / LANES; i++) {
    const Vec error = code.nearest(weights[i] * inverse) * by - weights[i];
    total += importances[i] * error * error;
  }
  float sum = 0;
  for (int lane = 0; lane < LANES; lane++) sum += total[lane];
  return sum;
}

}  // namespace

extern "C" {

// Of each block's largest weight times each factor, the scale with the least weighted error; importances are per input.
void groat_nf4_scales(const float* weights, int64_t count, const float* importances_K, int64_t columns,
                      const float* code_values, const float* factors, int64_t num_factors, float* scales,
                      int threads) {
  const Code code(code_values);
  const int64_t blocks = (count + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t block = 0; block < blocks; block++) {
    alignas(64) float w[BLOCK] = {}, importance[BLOCK] = {};
    const int64_t start = block * BLOCK, here = std::min<int64_t>(BLOCK, count - start);
    float largest = 0;
    for (int64_t i = 0, k = start % columns; i < here; i++, k = k + 1 == columns ? 0 : k + 1) {
      w[i] = weights[start + i], importance[i] = importances_K[k];
      largest = std::max(largest, std::fabs(w[i]));
    }
    float best = INFINITY, scale = largest;
    for (int64_t f = 0; f < num_factors && largest > 0; f++) {
      const float error = block_error(code, reinterpret_cast<Vec*>(w), reinterpret_cast<Vec*>(importance),
                                      largest * factors[f]);
      if (error < best) best = error, scale = largest * factors[f];
    }
    scales[block] = scale;
  }
}

// Rounds the inputs' columns in the given order; what a row's rounding has added along each direction so far is
// answered by the columns after it. `answers_KD` holds how much each column takes on.
void groat_nf4_feedback(const float* weights, int64_t rows, int64_t columns, const float* scales,
                        const float* code_values, const int64_t* order_K, const float* directions_KD,
                        const float* answers_KD, int64_t directions, uint8_t* codes, int threads) {
  const Code code(code_values);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t first = 0; first < rows; first += LANES) {
    const int live = static_cast<int>(std::min<int64_t>(LANES, rows - first));
    Vec added[MOST_DIRECTIONS] = {};
    for (int64_t step = 0; step < columns; step++) {
      const int64_t k = order_K[step];
      Vec weight{}, scale = splat(1.0f);
      for (int lane = 0; lane < live; lane++) {
        const int64_t place = (first + lane) * columns + k;
        weight[lane] = weights[place], scale[lane] = scales[place / BLOCK];
      }
      Vec aim = weight;
      for (int64_t d = 0; d < directions; d++) aim -= splat(answers_KD[k * directions + d]) * added[d];
      const Vec relative = scale > 0 ? aim / scale : Vec{};
      const Vec error = code.nearest(relative) * scale - weight;
      for (int64_t d = 0; d < directions; d++) added[d] += splat(directions_KD[k * directions + d]) * error;
      const IntVec number = code.number(relative);
      for (int lane = 0; lane < live; lane++) codes[(first + lane) * columns + k] = static_cast<uint8_t>(number[lane]);
    }
  }
}

}  // extern "C"
