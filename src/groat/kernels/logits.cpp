// What is made of logits: tokens that are drawn, log-probs of those that were, and their gradient. Letters as in Python: S
// sequences or M rows, V the vocabulary.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "vectors.h"
#include "workers.h"

extern "C" {

// Per row of logits[S, V] (already divided by the temperature): the log-sum-exp, and the token at `uniform` of the
// way through the distribution. Sums run over blocks in a fixed order, so a row does not depend on its neighbours.
void groat_draw(const float* logits, long stride, const double* uniforms, int64_t* tokens, float* lse, long rows,
                long vocabulary, int threads) {
  constexpr long BLOCK = 1024;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long row = 0; row < rows; row++) {
    const float* from = logits + row * stride;
    const float maximum = largest(from, vocabulary);
    const long blocks = (vocabulary + BLOCK - 1) / BLOCK;
    std::vector<float> totals(blocks);
    double total = 0;
    for (long block = 0; block < blocks; block++) {
      const long start = block * BLOCK, end = std::min(vocabulary, start + BLOCK);
      Vec partial = {};
      long place = start;
      for (; place + LANES <= end; place += LANES) partial += exponential(load(from + place) - maximum);
      float here = sum(partial);
      for (; place < end; place++) here += std::exp(from[place] - maximum);
      totals[block] = here;
      total += here;
    }
    lse[row] = maximum + float(std::log(total));
    double threshold = uniforms[row] * total;
    long block = 0;
    while (block + 1 < blocks && threshold >= totals[block]) threshold -= totals[block++];
    const long end = std::min(vocabulary, (block + 1) * BLOCK);
    long token = -1;
    for (long place = block * BLOCK; place < end; place++) {
      const float weight = std::exp(from[place] - maximum);
      if (weight > 0) token = place;
      threshold -= weight;
      if (threshold < 0 && weight > 0) break;
    }
    // Rounding may leave nothing drawable behind the threshold: then the last token before it that can be drawn.
    for (long place = block * BLOCK - 1; token < 0 && place >= 0; place--)
      if (std::exp(from[place] - maximum) > 0) token = place;
    tokens[row] = std::max(token, 0L);  // logits that are not numbers: any token, the run reports them
  }
}

// Per row of logits[M, V]: log-sum-exp, log-prob of the given token, and entropy, in nats.
void groat_token_logprobs(const float* logits, const int64_t* tokens, float* lse, float* logprobs, float* entropies,
                          long rows, long vocabulary, int threads) {
  in_parallel(rows, threads, [&](long row) {
    const float* from = logits + row * vocabulary;
    const float maximum = largest(from, vocabulary);
    double total = 0, weighted = 0;  // of exp(x), and of exp(x) x, with x relative to the maximum
    for (long start = 0; start < vocabulary; start += 1024) {
      const long end = std::min(vocabulary, start + 1024);
      Vec partial = {}, partial_weighted = {};
      long i = start;
      for (; i + LANES <= end; i += LANES) {
        const Vec x = load(from + i) - maximum, weight = exponential(x);
        partial += weight;
        partial_weighted += weight * (x < -80.0f ? splat(-80.0f) : x);
      }
      for (; i < end; i++) {
        const float x = std::max(from[i] - maximum, -80.0f), weight = std::exp(from[i] - maximum);
        total += weight;
        weighted += weight * x;
      }
      total += sum(partial);
      weighted += sum(partial_weighted);
    }
    const double relative = std::log(total);
    lse[row] = maximum + float(relative);
    logprobs[row] = from[tokens[row]] - maximum - float(relative);
    entropies[row] = float(relative - weighted / total);
  });
}

// In place, logits become the gradient of sum(grad * logprob): grad * (one-hot(token) - softmax).
void groat_logprob_gradient(float* logits, const int64_t* tokens, const float* lse, const float* grad, long rows,
                            long vocabulary, int threads) {
  in_parallel(rows, threads, [&](long row) {
    float* here = logits + row * vocabulary;
    long i = 0;
    for (; i + LANES <= vocabulary; i += LANES) store(here + i, exponential(load(here + i) - lse[row]) * -grad[row]);
    for (; i < vocabulary; i++) here[i] = std::exp(here[i] - lse[row]) * -grad[row];
    here[tokens[row]] += grad[row];
  });
}

}  // extern "C"
