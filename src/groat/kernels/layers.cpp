// All layers of a decoder on the newest token of each sequence, without a way back to Python between their parts. Every
// part is the kernel that the learner's forward calls, so a row has the same numbers in both, bit for bit.

#include "kernels.h"

#include <algorithm>

extern "C" {

// The structures are those of layers.py.

// A frozen layer with its LoRA adapter; without one, `a` is null.
struct AdaptedLinear {
  const MatrixView* weight;
  int64_t outputs, inputs;
  const float* bias;  // or null
  const float* a;
  const float* const* bs;
  const int64_t* sizes;  // outputs of each of the parts that have a B of their own
  int64_t parts, rank;
};

struct DecoderLayer {
  AdaptedLinear qkv, output, gate_up, down;
  const float *input_norm, *mlp_norm, *query_norm, *key_norm;  // the last two may be null
  int64_t is_rotated;
};

struct DecoderShape {
  int64_t layers, hidden, inner, heads, kv_heads, head_size;
  float epsilon, adapter_scale;
};

struct DecodeStep {
  int64_t rows, rotated_half;
  const float *cosines, *sines;  // [rows, rotated_half]
  const Span* spans;
  int64_t num_spans;
  const Run* runs;  // [layers, num_runs]
  int64_t num_runs;
  float* const* keys;  // of each layer the arena [slots, kv heads, length, head size]
  float* const* values;
  const int64_t *slots, *places;
  int64_t arena_length;
};

}  // extern "C"

namespace {

// Takes its parts from a block of memory, each where a cache line begins.
struct Room {
  float* next;
  float* take(long count) {
    float* taken = next;
    next += (count + 15) / 16 * 16;
    return taken;
  }
};

struct Pass {
  const DecoderShape& shape;
  const DecodeStep& step;
  float *hidden, *normed, *result, *inverse;
  Room rest;  // of attention, then of the MLP
  int threads;

  void run(const DecoderLayer& layer, long index) {
    Room before = rest;
    attention(layer, index);
    rest = before;
    mlp(layer);
    rest = before;
  }

  void attention(const DecoderLayer& layer, long index) {
    const long rows = step.rows, size = shape.head_size, heads = shape.heads, kv_heads = shape.kv_heads;
    const long width = (heads + 2 * kv_heads) * size;
    float* qkv = rest.take(rows * width);
    float* queries = rest.take(rows * heads * size);
    float* keys = rest.take(rows * kv_heads * size);
    float* values = rest.take(rows * kv_heads * size);
    float* mixed = rest.take(rows * heads * size);
    norm(hidden, shape.hidden, layer.input_norm, normed, rows, shape.hidden);
    multiply(layer.qkv, normed, qkv);
    turn(layer, layer.query_norm, qkv, width, heads, queries);
    turn(layer, layer.key_norm, qkv + heads * size, width, kv_heads, keys);
    for (long row = 0; row < rows; row++)
      std::copy_n(qkv + row * width + (heads + kv_heads) * size, kv_heads * size, values + row * kv_heads * size);
    groat_remember(keys, values, step.keys[index], step.values[index], step.slots, step.places, rows, kv_heads,
                   step.arena_length, size);
    groat_attend(queries, mixed, nullptr, step.spans, step.num_spans, step.runs + index * step.num_runs, rows, heads,
                 kv_heads, size, threads);
    multiply(layer.output, mixed, result);
    add_result();
  }

  void mlp(const DecoderLayer& layer) {
    float* gate_up = rest.take(step.rows * 2 * shape.inner);
    float* inner = rest.take(step.rows * shape.inner);
    norm(hidden, shape.hidden, layer.mlp_norm, normed, step.rows, shape.hidden);
    multiply(layer.gate_up, normed, gate_up);
    groat_swiglu(gate_up, inner, step.rows, shape.inner, threads);
    multiply(layer.down, inner, result);
    add_result();
  }

  void norm(const float* from, long stride, const float* weight, float* to, long rows, long size) {
    groat_rms_norm(from, stride, weight, shape.epsilon, to, size, inverse, rows, size, threads);
  }

  // Heads out of qkv, normed if the model does that, and turned to their positions.
  void turn(const DecoderLayer& layer, const float* weight, float* from, long stride, long heads, float* to) {
    const long size = shape.head_size;
    if (weight)
      for (long row = 0; row < step.rows; row++) norm(from + row * stride, size, weight, from + row * stride, heads, size);
    groat_rotate(from, stride, step.cosines, step.sines, 1.0f, to, step.rows, heads, size,
                 layer.is_rotated ? step.rotated_half : 0, threads);
  }

  void multiply(const AdaptedLinear& linear, const float* from, float* to) {
    Room here = rest;
    float* down = here.take(step.rows * linear.parts * linear.rank);
    if (linear.a)
      groat_adapted_product(linear.weight, from, linear.inputs, to, step.rows, linear.bias, linear.a, down, linear.bs,
                            linear.sizes, linear.parts, linear.rank, shape.adapter_scale, here.next, threads);
    else
      groat_product(linear.weight, 1, from, linear.inputs, to, linear.outputs, step.rows, linear.bias, here.next, threads);
  }

  void add_result() {
    const long count = step.rows * shape.hidden;
    for (long i = 0; i < count; i++) hidden[i] = result[i] + hidden[i];
  }
};

}  // namespace

extern "C" {

// hidden[rows, H] goes through all layers, in place; `room` is as large as layers.py says.
void groat_decode(const DecoderLayer* layers, const DecoderShape* shape, const DecodeStep* step, float* hidden,
                  float* room, int threads) {
  Room all{room};
  float* normed = all.take(step->rows * shape->hidden);
  float* result = all.take(step->rows * shape->hidden);
  float* inverse = all.take(step->rows * shape->heads);
  Pass pass{*shape, *step, hidden, normed, result, inverse, all, threads};
  for (long index = 0; index < shape->layers; index++) pass.run(layers[index], index);
}

}  // extern "C"
