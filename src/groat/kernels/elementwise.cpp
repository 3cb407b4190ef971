// What lies between the products of a layer: norms, SwiGLU, rotation. A row does not depend on the others.

#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "vectors.h"
#include "workers.h"

extern "C" {

// Rows may lie apart (strides in floats), so that parts of a fused projection are normed in place.
void groat_rms_norm(const float* x, long stride, const float* weight, float epsilon, float* out, long out_stride,
                    float* inverse, long rows, long size, int threads) {
  in_parallel(rows, rows * size > 8192 ? threads : 1, [&](long row) {
    const float* from = x + row * stride;
    float* to = out + row * out_stride;
    Vec squares = {};
    long i = 0;
    for (; i + LANES <= size; i += LANES) squares += load(from + i) * load(from + i);
    float total = sum(squares);
    for (; i < size; i++) total += from[i] * from[i];
    const float factor = 1.0f / std::sqrt(total / float(size) + epsilon);
    inverse[row] = factor;
    for (i = 0; i < size; i++) to[i] = from[i] * factor * weight[i];
  });
}

// out = factor * (grad * weight - x * factor^2 * mean(grad * weight * x)).
void groat_rms_norm_backward(const float* grad, const float* x, const float* weight, const float* inverse, float* out,
                             long rows, long size, int threads) {
  in_parallel(rows, threads, [&](long row) {
    const float *g = grad + row * size, *from = x + row * size;
    float* to = out + row * size;
    Vec partial = {};
    long i = 0;
    for (; i + LANES <= size; i += LANES) partial += load(g + i) * load(weight + i) * load(from + i);
    float along = sum(partial);
    for (; i < size; i++) along += g[i] * weight[i] * from[i];
    const float factor = inverse[row], share = along / float(size) * factor * factor;
    for (i = 0; i < size; i++) to[i] = factor * (g[i] * weight[i] - from[i] * share);
  });
}

// gate_up[M, 2 size]: silu(gate) * up.
void groat_swiglu(const float* gate_up, float* out, long rows, long size, int threads) {
  in_parallel(rows, threads, [&](long row) {
    const float *gate = gate_up + row * 2 * size, *up = gate + size;
    float* to = out + row * size;
    long i = 0;
    for (; i + LANES <= size; i += LANES) {
      const Vec g = load(gate + i);
      store(to + i, g * sigmoid(g) * load(up + i));
    }
    for (; i < size; i++) to[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
  });
}

void groat_swiglu_backward(const float* grad, const float* gate_up, float* out, long rows, long size, int threads) {
  in_parallel(rows, threads, [&](long row) {
    const float *gate = gate_up + row * 2 * size, *up = gate + size, *g = grad + row * size;
    float *to_gate = out + row * 2 * size, *to_up = to_gate + size;
    long i = 0;
    for (; i + LANES <= size; i += LANES) {
      const Vec x = load(gate + i), share = sigmoid(x), here = load(g + i);
      store(to_up + i, here * x * share);
      store(to_gate + i, here * load(up + i) * share * (1.0f + x * (1.0f - share)));
    }
    for (; i < size; i++) {
      const float share = 1.0f / (1.0f + std::exp(-gate[i]));
      to_up[i] = g[i] * gate[i] * share;
      to_gate[i] = g[i] * up[i] * share * (1.0f + gate[i] * (1.0f - share));
    }
  });
}

// The first 2 `half` numbers of each head turned by the row's angles, the others kept; cosines and sines are [M, half].
// `sign` -1 turns back.
void groat_rotate(const float* x, long stride, const float* cosines, const float* sines, float sign, float* out,
                  long rows, long heads, long size, long half, int threads) {
  in_parallel(rows, rows * heads * size > 8192 ? threads : 1, [&](long row) {
    for (long head = 0; head < heads; head++) {
      const float *first = x + row * stride + head * size, *second = first + half;
      const float *c = cosines + row * half, *s = sines + row * half;
      float *to_first = out + (row * heads + head) * size, *to_second = to_first + half;
#pragma GCC ivdep  // `out` may be `x`, but never beside it
      for (long i = 0; i < half; i++) {
        const float a = first[i], b = second[i], sine = sign * s[i];
        to_first[i] = a * c[i] - b * sine;
        to_second[i] = b * c[i] + a * sine;
      }
      std::copy(first + 2 * half, first + size, to_first + 2 * half);
    }
  });
}

}  // extern "C"
