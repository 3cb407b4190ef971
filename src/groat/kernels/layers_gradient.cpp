// A decoder layer for a learner: forward that keeps what backward needs, and backward to the layer's input and its adapter.

#include "layers.h"

#include <vector>

extern "C" {

// Where a run's tokens lie among those of a micro-batch: a learner's keys are all in one place.
struct OwnRun {
  int64_t start, count;
};

}  // extern "C"

namespace {

// The runs of a layer's own keys and values.
std::vector<Run> runs_of(const OwnRun* own, long count, const DecoderShape& shape, const Activations& from) {
  const long stride = shape.kv_heads * shape.head_size;
  std::vector<Run> runs;
  for (long i = 0; i < count; i++) {
    const long skipped = own[i].start * stride;
    runs.push_back({own[i].count, stride, shape.head_size, from.keys + skipped, from.values + skipped});
  }
  return runs;
}

class Backward {
 public:
  Backward(const DecoderLayer& layer, const DecoderShape& shape, const Tokens& tokens, const Activations& kept,
           int threads)
      : layer(layer), shape(shape), tokens(tokens), kept(kept), forward(shape, tokens, threads), threads(threads) {}

  // From the output's gradient to that of `middle`, and of what attention has mixed.
  void mlp(const float* grad, float* grad_middle, float* grad_mixed, float* const* adapter_grads, Room room) const {
    const long rows = tokens.rows, inner_size = shape.inner;
    float* grad_gate_up = room.take(rows * 2 * inner_size);
    {
      Room here = room;
      float *inner = here.take(rows * inner_size), *grad_inner = here.take(rows * inner_size);
      groat_swiglu(kept.gate_up, inner, rows, inner_size, threads);
      linear(layer.down, grad, inner, kept.down_down, grad_inner, down_grads(adapter_grads), here);
      groat_swiglu_backward(grad_inner, kept.gate_up, grad_gate_up, rows, inner_size, threads);
    }
    normed_linear(layer.gate_up, grad_gate_up, kept.middle, layer.mlp_norm, kept.gate_up_down, grad, grad_middle,
                  gate_up_grads(adapter_grads), room);
    linear(layer.output, grad_middle, kept.mixed, kept.output_down, grad_mixed, output_grads(adapter_grads), room);
  }

  // From the gradient of what attention has mixed, and that of `middle`, to the input's; the latter not if it is null.
  void attention(const OwnRun* own, long num_runs, const float* input, const float* grad_mixed,
                 const float* grad_middle, float* grad_input, float* const* adapter_grads, Room room) const {
    const long rows = tokens.rows, size = shape.head_size, heads = shape.heads, kv_heads = shape.kv_heads;
    const long width = (heads + 2 * kv_heads) * size;
    float* grad_qkv = room.take(rows * width);
    {
      Room here = room;
      float* grad_queries = here.take(rows * heads * size);
      float *grad_keys = here.take(rows * kv_heads * size), *grad_values = here.take(rows * kv_heads * size);
      const std::vector<Run> runs = runs_of(own, num_runs, shape, kept);
      groat_attend_backward(grad_mixed, kept.queries, kept.mixed, kept.lse, kept.keys, tokens.spans, tokens.num_spans,
                            runs.data(), grad_queries, grad_keys, grad_values, rows, heads, kv_heads, size, threads);
      take_back(grad_queries, kept.plain_queries, layer.query_norm, heads, grad_qkv, here);
      take_back(grad_keys, kept.plain_keys, layer.key_norm, kv_heads, grad_qkv + heads * size, here);
      for (long row = 0; row < rows; row++)
        std::copy_n(grad_values + row * kv_heads * size, kv_heads * size,
                    grad_qkv + row * width + (heads + kv_heads) * size);
    }
    normed_linear(layer.qkv, grad_qkv, input, layer.input_norm, kept.qkv_down, grad_middle, grad_input, adapter_grads,
                  room);
  }

 private:
  const DecoderLayer& layer;
  const DecoderShape& shape;
  const Tokens& tokens;
  const Activations& kept;
  const Forward forward;
  const int threads;

  // The gradients of A and the B's, of qkv, output, gate_up and down one behind the other.
  float* const* output_grads(float* const* first) const { return first + 1 + layer.qkv.parts; }
  float* const* gate_up_grads(float* const* first) const { return output_grads(first) + 1 + layer.output.parts; }
  float* const* down_grads(float* const* first) const { return gate_up_grads(first) + 1 + layer.gate_up.parts; }

  // Of heads that were normed, if `plain` is not null, and turned: their gradients in their columns of qkv.
  void take_back(float* grad, const float* plain, const float* weight, long count, float* to, Room room) const {
    const long rows = tokens.rows, size = shape.head_size, width = count * size;
    const long half = layer.is_rotated ? tokens.rotated_half : 0, stride = (shape.heads + 2 * shape.kv_heads) * size;
    float* turned = room.take(rows * width);
    groat_rotate(grad, width, tokens.cosines, tokens.sines, -1.0f, turned, rows, count, size, half, threads);
    if (plain) {
      float *normed = room.take(rows * width), *inverse = room.take(rows * count);
      groat_rms_norm(plain, size, weight, shape.epsilon, normed, size, inverse, rows * count, size, threads);
      groat_rms_norm_backward(turned, plain, weight, inverse, turned, rows * count, size, threads);
    }
    for (long row = 0; row < rows; row++) std::copy_n(turned + row * width, width, to + row * stride);
  }

  // A linear layer of a normed input [rows, H] on the residual stream: grad_input = beside + its gradient there.
  void normed_linear(const AdaptedLinear& linear_layer, const float* grad, const float* input, const float* weight,
                     const float* down, const float* beside, float* grad_input, float* const* adapter_grads, Room room) const {
    const long rows = tokens.rows, size = shape.hidden;
    float *normed = room.take(rows * size), *inverse = room.take(rows);
    groat_rms_norm(input, size, weight, shape.epsilon, normed, size, inverse, rows, size, threads);
    float* grad_normed = grad_input ? room.take(rows * size) : nullptr;
    linear(linear_layer, grad, normed, down, grad_normed, adapter_grads, room);
    if (!grad_input) return;
    groat_rms_norm_backward(grad_normed, input, weight, inverse, normed, rows, size, threads);
    forward.add(beside, normed, grad_input);
  }

  // The gradient of a linear layer's input [rows, inputs], unless that is null, and of its A and B's.
  void linear(const AdaptedLinear& linear, const float* grad, const float* input, const float* down, float* grad_input,
              float* const* adapter_grads, Room room) const {
    float* grad_down = room.take(tokens.rows * linear.parts * linear.rank);
    groat_adapted_gradient(linear.weight, grad, input, down, linear.a, linear.bs, linear.sizes, linear.parts, linear.rank,
                           shape.adapter_scale, grad_input, grad_down, adapter_grads[0], adapter_grads + 1, tokens.rows,
                           room.next, threads);
  }
};

}  // namespace

extern "C" {

// output[rows, H] of input[rows, H]. `kept` is what backward is given again, `memory` comes and goes; layers.py has the
// sizes of both.
void groat_layer_forward(const DecoderLayer* layer, const DecoderShape* shape, const Tokens* tokens, const OwnRun* own,
                         long num_runs, const float* input, float* output, float* kept, float* memory, int threads) {
  const Forward forward(*shape, *tokens, threads);
  Room all{kept};
  const Activations to(all, *layer, *shape, tokens->rows);
  forward.project(*layer, input, to, Room{memory});
  forward.attend(to, runs_of(own, num_runs, *shape, to).data(), to.lse);
  forward.finish(*layer, input, to, output, Room{memory});
}

// grad_input[rows, H], which may be null, and all gradients of the adapter from grad[rows, H], that of the output.
void groat_layer_backward(const DecoderLayer* layer, const DecoderShape* shape, const Tokens* tokens, const OwnRun* own,
                          long num_runs, const float* input, float* kept, const float* grad, float* grad_input,
                          float* const* adapter_grads, float* memory, int threads) {
  Room all{kept}, room{memory};
  const Activations activations(all, *layer, *shape, tokens->rows);
  const Backward backward(*layer, *shape, *tokens, activations, threads);
  float* grad_middle = room.take(tokens->rows * shape->hidden);
  float* grad_mixed = room.take(tokens->rows * shape->heads * shape->head_size);
  backward.mlp(grad, grad_middle, grad_mixed, adapter_grads, room);
  backward.attention(own, num_runs, input, grad_mixed, grad_middle, grad_input, adapter_grads, room);
}

}  // extern "C"
