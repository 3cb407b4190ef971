// The gradients of a linear layer with its LoRA adapter.

#include "int8.h"
#include "kernels.h"
#include "outer.h"

#if defined(MULTIPLIES_BY_VNNI)
#include "bfloat16.h"
#endif

namespace {

// In fp32, some rows at a time. Not for members of a team: each would have sums of its own.
class FloatGradients {
 public:
  FloatGradients(const AdapterBackward& adapter, long rows, int threads)
      : adapter(adapter), rank(adapter.rank), downs(adapter.parts * rank), rows(rows), threads(threads) {}

  // Of so many rows from one on.
  void find_grad_down(const Rows& grad, long start, long count) const {
    each_part([&](long part, long first, long size) {
      multiply_thin({grad[start] + first, grad.stride}, {adapter.bs[part], rank}, count, rank, size, adapter.alpha,
                    {adapter.grad_down + start * downs + part * rank, downs, false}, threads);
    });
  }

  // grad_down, and the gradients of the B's. Until the end those of LANES outputs lie turned, [rank][LANES], where they will be.
  void of_outputs(const Rows& grad, const float* down, float* const* grad_bs) const {
    std::vector<OuterProduct> products;
    each_part([&](long part, long, long size) { products.emplace_back(rank, size, grad_bs[part], rank * LANES, LANES); });
    const long most = rows_at_once(grad.stride, threads);
    for (long start = 0; start < rows; start += most) {
      const long count = std::min(most, rows - start);
      find_grad_down(grad, start, count);
      each_part([&](long part, long first, long) {
        products[part].add({down + start * downs + part * rank, downs}, {grad[start] + first, grad.stride}, count,
                           start == 0, threads);
      });
    }
    std::vector<float> turned(rank * LANES);
    each_part([&](long part, long, long size) {
      for (long first = 0; first < size; first += LANES) {
        float* to = grad_bs[part] + first * rank;
        std::copy_n(first + LANES <= size ? to : products[part].rest_of(0), rank * LANES, turned.data());
        for (long i = 0; i < std::min(long(LANES), size - first); i++)
          for (long j = 0; j < rank; j++) to[i * rank + j] = adapter.alpha * turned[j * LANES + i];
      }
    });
  }

  // grad_x, unless it is null, has what comes through A added; and the gradient of A.
  void of_inputs(const float* x, float* grad_x, float* grad_a) const {
    const long inputs = adapter.inputs, whole = inputs / LANES * LANES, most = rows_at_once(2 * inputs, threads);
    OuterProduct product(downs, inputs, grad_a, LANES, inputs);
    for (long start = 0; start < rows; start += most) {
      const long count = std::min(most, rows - start);
      const Rows grads{adapter.grad_down + start * downs, downs};
      if (grad_x)
        multiply_thin(grads, {adapter.a, inputs}, count, inputs, downs, 1.0f, {grad_x + start * inputs, inputs, true}, threads);
      product.add(grads, {x + start * inputs, inputs}, count, start == 0, threads);
    }
    if (whole < inputs)
      for (long i = 0; i < downs; i++) std::copy_n(product.rest_of(i), inputs - whole, grad_a + i * inputs + whole);
  }

 private:
  const AdapterBackward& adapter;
  const long rank, downs, rows;
  const int threads;

  // Calls with each part, its first output and their number.
  template <class Act>
  void each_part(const Act& act) const {
    for (long part = 0, first = 0; part < adapter.parts; first += adapter.sizes[part++]) act(part, first, adapter.sizes[part]);
  }
};

#if defined(MULTIPLIES_IN_BFLOAT16)
// Of A and the B's in bf16, given grad_down.
void gradients_in_halves(const AdapterBackward& adapter, const Rows& grad, const float* x, const float* down, float* grad_a,
                         float* const* grad_bs, long rows, int threads) {
  const long rank = adapter.rank, downs = adapter.parts * rank;
  for (long part = 0, first = 0; part < adapter.parts; first += adapter.sizes[part++]) {
    const auto turn_out = [&](long from, long count, const float* sums) {
      for (long column = 0; column < count; column++)
        for (long i = 0; i < rank; i++)
          grad_bs[part][(from + column) * rank + i] = adapter.alpha * sums[i * TILE_OUTPUTS + column];
    };
    for_each_outer_strip_in_halves({down + part * rank, downs}, {grad.first + first, grad.stride}, rows, rank,
                                   adapter.sizes[part], turn_out, threads);
  }
  const auto copy_out = [&](long from, long count, const float* sums) {
    for (long i = 0; i < downs; i++) std::copy_n(sums + i * TILE_OUTPUTS, count, grad_a + i * adapter.inputs + from);
  };
  for_each_outer_strip_in_halves({adapter.grad_down, downs}, {x, adapter.inputs}, rows, downs, adapter.inputs, copy_out,
                                 threads);
}
#endif

}  // namespace

extern "C" {

// Of x W' + alpha down_p B_p' with down = x A', given grad[rows, outputs]: the gradients of x, unless `grad_x` is null, of
// A and of the B's; of one row at least. `grad_down`: [rows, parts * rank], what comes and goes; `scratch` as for
// `groat_product`, and for each part its rank in whole 32s.
void groat_adapted_gradient(const MatrixView* view, const float* grad, const float* x, const float* down, const float* a,
                            const float* const* bs, const int64_t* sizes, long parts, long rank, float alpha,
                            float* grad_x, float* grad_down, float* grad_a, float* const* grad_bs, long rows,
                            void* scratch, int threads) {
  const long outputs = view->rows, inputs = view->columns;
  const AdapterBackward adapter{a, bs, sizes, parts, rank, inputs, alpha, grad_down};
  const Rows grad_rows{grad, outputs};
#if defined(MULTIPLIES_IN_BFLOAT16)
  if (gradients_are_in_bfloat16(*view)) {
    if (grad_x) straight_product_with_adapter(*view, grad, grad_x, rows, adapter, scratch, threads);
    else FloatGradients(adapter, rows, threads).find_grad_down(grad_rows, 0, rows);
    return gradients_in_halves(adapter, grad_rows, x, down, grad_a, grad_bs, rows, threads);
  }
#endif
  const FloatGradients gradients(adapter, rows, threads);
  gradients.of_outputs(grad_rows, down, grad_bs);
  if (grad_x) groat_product(view, 0, grad, outputs, grad_x, inputs, rows, nullptr, scratch, threads);
  gradients.of_inputs(x, grad_x, grad_a);
}

}  // extern "C"
