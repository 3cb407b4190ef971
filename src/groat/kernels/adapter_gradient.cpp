// The gradients of a linear layer with its LoRA adapter.

#include "int8.h"
#include "kernels.h"
#include "outer.h"

#if defined(MULTIPLIES_BY_VNNI)
#include "bfloat16.h"
#endif

namespace {

// out[height, width] = left[rows, height]' right[rows, width], or turned and times alpha.
template <class Strips>
void outer(const Strips& for_each_strip, const Rows& left, const Rows& right, long rows, long height, long width,
           float* out, int threads) {
  const auto take = [&](long first, long count, const float* sums) {
    for (long i = 0; i < height; i++) std::copy_n(sums + i * Strips::WIDTH, count, out + i * width + first);
  };
  for_each_strip(left, right, rows, height, width, take, threads);
}

template <class Strips>
void outer_turned(const Strips& for_each_strip, const Rows& left, const Rows& right, long rows, long height, long width,
                  float alpha, float* out, int threads) {
  const auto take = [&](long first, long count, const float* sums) {
    for (long column = 0; column < count; column++)
      for (long i = 0; i < height; i++) out[(first + column) * height + i] = alpha * sums[i * Strips::WIDTH + column];
  };
  for_each_strip(left, right, rows, height, width, take, threads);
}

struct InFloats {
  static constexpr long WIDTH = STRIP;
  template <class... Given>
  void operator()(const Given&... given) const {
    for_each_outer_strip(given...);
  }
};

#if defined(MULTIPLIES_IN_BFLOAT16)
struct InHalves {
  static constexpr long WIDTH = TILE_OUTPUTS;
  template <class... Given>
  void operator()(const Given&... given) const {
    for_each_outer_strip_in_halves(given...);
  }
};
#endif

// Of A and the B's, given grad_down, that of x A'.
template <class Strips>
void pair_gradients(const Strips& strips, const AdapterBackward& adapter, const Rows& grad, const float* x,
                    const float* down, float* grad_a, float* const* grad_bs, long rows, int threads) {
  const long downs = adapter.parts * adapter.rank;
  for (long part = 0, first = 0; part < adapter.parts; first += adapter.sizes[part++])
    outer_turned(strips, {down + part * adapter.rank, downs}, {grad.first + first, grad.stride}, rows, adapter.rank,
                 adapter.sizes[part], adapter.alpha, grad_bs[part], threads);
  outer(strips, {adapter.grad_down, downs}, {x, adapter.inputs}, rows, downs, adapter.inputs, grad_a, threads);
}

void grad_down_in_floats(const AdapterBackward& adapter, const Rows& grad, long rows, int threads) {
  const long rank = adapter.rank, downs = adapter.parts * rank;
  for (long part = 0, first = 0; part < adapter.parts; first += adapter.sizes[part++])
    multiply_thin({grad.first + first, grad.stride}, {adapter.bs[part], rank}, rows, rank, adapter.sizes[part],
                  adapter.alpha, {adapter.grad_down + part * rank, downs, false}, threads);
}

}  // namespace

extern "C" {

// Of x W' + alpha down_p B_p' with down = x A', given grad[rows, outputs]: the gradients of x, unless `grad_x` is null, of
// A and of the B's. `grad_down`: [rows, parts * rank], what comes and goes; `scratch` as for `groat_product`, and for each
// part its rank in whole 32s.
void groat_adapted_gradient(const MatrixView* view, const float* grad, const float* x, const float* down, const float* a,
                            const float* const* bs, const int64_t* sizes, long parts, long rank, float alpha,
                            float* grad_x, float* grad_down, float* grad_a, float* const* grad_bs, long rows,
                            void* scratch, int threads) {
  const long outputs = view->rows, inputs = view->columns, downs = parts * rank;
  const AdapterBackward adapter{a, bs, sizes, parts, rank, inputs, alpha, grad_down};
  const Rows grad_rows{grad, outputs};
  const bool in_halves = gradients_are_in_bfloat16(*view);
  if (grad_x && in_halves) {
    straight_product_with_adapter(*view, grad, grad_x, rows, adapter, scratch, threads);
  } else {
    grad_down_in_floats(adapter, grad_rows, rows, threads);
    if (grad_x) {
      groat_product(view, 0, grad, outputs, grad_x, inputs, rows, nullptr, scratch, threads);
      multiply_thin({grad_down, downs}, {a, inputs}, rows, inputs, downs, 1.0f, {grad_x, inputs, true}, threads);
    }
  }
#if defined(MULTIPLIES_IN_BFLOAT16)
  if (in_halves) return pair_gradients(InHalves{}, adapter, grad_rows, x, down, grad_a, grad_bs, rows, threads);
#endif
  pair_gradients(InFloats{}, adapter, grad_rows, x, down, grad_a, grad_bs, rows, threads);
}

}  // extern "C"
