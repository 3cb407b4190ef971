// A decoder layer forward: for the newest tokens of a sampler and for a learner's micro-batch alike, of the same kernels in
// the same order, so a row has the same numbers in both, bit for bit.

#pragma once

#include "kernels.h"
#include "workers.h"

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
  int64_t hidden, inner, heads, kv_heads, head_size;
  int64_t rounds_heads;  // whether keys and values are kept in int8
  float epsilon, adapter_scale;
};

struct Tokens {
  int64_t rows, rotated_half;
  const float *cosines, *sines;  // [rows, rotated_half]
  const Span* spans;
  int64_t num_spans;
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

constexpr long ROUNDING = 512;  // floats that pieces of memory lose by beginning where a cache line does; as in layers.py

inline long down_size(const AdaptedLinear& linear) { return linear.a ? linear.parts * linear.rank : 0; }

// What a layer makes of its input on the way to its output, and its backward needs again; a row for each token.
struct Activations {
  float *queries, *keys, *values, *mixed, *lse, *middle, *gate_up;
  float *plain_queries, *plain_keys;                        // before their norms; null where there are none
  float *qkv_down, *output_down, *gate_up_down, *down_down;  // inputs times the A of each adapter

  Activations(Room& room, const DecoderLayer& layer, const DecoderShape& shape, long rows) {
    const long query_size = shape.heads * shape.head_size, kv_size = shape.kv_heads * shape.head_size;
    queries = room.take(rows * query_size), keys = room.take(rows * kv_size), values = room.take(rows * kv_size);
    mixed = room.take(rows * query_size), lse = room.take(rows * shape.heads);
    middle = room.take(rows * shape.hidden), gate_up = room.take(rows * 2 * shape.inner);
    plain_queries = layer.query_norm ? room.take(rows * query_size) : nullptr;
    plain_keys = layer.key_norm ? room.take(rows * kv_size) : nullptr;
    qkv_down = room.take(rows * down_size(layer.qkv)), output_down = room.take(rows * down_size(layer.output));
    gate_up_down = room.take(rows * down_size(layer.gate_up)), down_down = room.take(rows * down_size(layer.down));
  }

  // The same from a row on; `lse`, which lies by heads, stays.
  Activations from(long row, const DecoderLayer& layer, const DecoderShape& shape) const {
    const long query_size = shape.heads * shape.head_size, kv_size = shape.kv_heads * shape.head_size;
    Activations rest = *this;
    rest.queries += row * query_size, rest.keys += row * kv_size, rest.values += row * kv_size;
    rest.mixed += row * query_size, rest.middle += row * shape.hidden, rest.gate_up += row * 2 * shape.inner;
    if (plain_queries) rest.plain_queries += row * query_size;
    if (plain_keys) rest.plain_keys += row * kv_size;
    rest.qkv_down += row * down_size(layer.qkv), rest.output_down += row * down_size(layer.output);
    rest.gate_up_down += row * down_size(layer.gate_up), rest.down_down += row * down_size(layer.down);
    return rest;
  }
};

// Rows that one thread takes through all that does not mix rows, so that what it has made is in its own cache when it is
// needed; or all rows, for all threads.
struct Share {
  Tokens tokens;
  long from;
  int threads;
};

constexpr long LEAST_SHARE = 160;  // rows for which it is worth it that a thread reads all weights

inline long num_shares(long rows, int threads) { return rows >= LEAST_SHARE * threads ? threads : 1; }

// Calls with each share, which is whole sixteens but for the last, its number, and its part of memory for `row_floats` a
// row.
template <class Work>
void by_shares(const Tokens& tokens, float* memory, long row_floats, int threads, const Work& work) {
  const long count = num_shares(tokens.rows, threads), sixteens = (tokens.rows + 15) / 16;
  in_parallel(count, int(count), [&](long number) {
    const long from = 16 * (sixteens * number / count), to = 16 * (sixteens * (number + 1) / count);
    Tokens some = tokens;
    some.rows = std::min<long>(to, tokens.rows) - from;
    some.cosines += from * tokens.rotated_half, some.sines += from * tokens.rotated_half;
    work(Share{some, from, count > 1 ? 1 : threads}, number, Room{memory + from * row_floats + number * ROUNDING});
  });
}

// Heads of some rows that lie `stride` apart, one row's behind the other.
struct Heads {
  float* first;
  long stride, count;
};

class Forward {
 public:
  Forward(const DecoderShape& shape, const Tokens& tokens, int threads)
      : shape(shape), tokens(tokens), threads(threads) {}

  // Queries, keys and values of the input [rows, H]; turned, but not yet rounded, where they will be.
  void project(const DecoderLayer& layer, const float* input, const Activations& to, Room room) const {
    const long rows = tokens.rows, size = shape.head_size, heads = shape.heads, kv_heads = shape.kv_heads;
    const long width = (heads + 2 * kv_heads) * size;
    float *qkv = room.take(rows * width), *normed = room.take(rows * shape.hidden);
    norm(input, layer.input_norm, normed, rows, shape.hidden, room);
    multiply(layer.qkv, normed, qkv, to.qkv_down, room);
    place({qkv, width, heads}, layer, layer.query_norm, to.plain_queries, to.queries, room);
    place({qkv + heads * size, width, kv_heads}, layer, layer.key_norm, to.plain_keys, to.keys, room);
    in_parallel(rows, 1, [&](long row) {
      std::copy_n(qkv + row * width + (heads + kv_heads) * size, kv_heads * size, to.values + row * kv_heads * size);
    });
  }

  void attend(const Activations& to, const Run* runs, float* lse) const {
    groat_attend(to.queries, to.mixed, lse, tokens.spans, tokens.num_spans, runs, tokens.rows, shape.heads,
                 shape.kv_heads, shape.head_size, threads);
  }

  // From attention to the layer's output, which may lie where its input does.
  void finish(const DecoderLayer& layer, const float* input, const Activations& to, float* output, Room room) const {
    const long rows = tokens.rows;
    float *normed = room.take(rows * shape.hidden), *inner = room.take(rows * shape.inner);
    multiply(layer.output, to.mixed, to.middle, to.output_down, room);
    add(input, to.middle, to.middle);
    norm(to.middle, layer.mlp_norm, normed, rows, shape.hidden, room);
    multiply(layer.gate_up, normed, to.gate_up, to.gate_up_down, room);
    groat_swiglu(to.gate_up, inner, rows, shape.inner, threads);
    multiply(layer.down, inner, output, to.down_down, room);
    add(to.middle, output, output);
  }

  void norm(const float* from, const float* weight, float* to, long rows, long size, Room room) const {
    groat_rms_norm(from, size, weight, shape.epsilon, to, size, room.take(rows), rows, size, threads);
  }

  // sum[rows, H] = a + b.
  void add(const float* a, const float* b, float* sum) const {
    const long count = tokens.rows * shape.hidden;
    in_parallel(tokens.rows, count > 65536 ? threads : 1, [&](long row) {
      const long first = row * shape.hidden;
      for (long i = first; i < first + shape.hidden; i++) sum[i] = a[i] + b[i];
    });
  }

 private:
  const DecoderShape& shape;
  const Tokens& tokens;
  const int threads;

  // Heads out of qkv, normed if the model does that, and turned to their positions.
  void place(const Heads& heads, const DecoderLayer& layer, const float* weight, float* plain, float* to,
             Room room) const {
    const long rows = tokens.rows, size = shape.head_size, width = heads.count * size;
    const long half = layer.is_rotated ? tokens.rotated_half : 0;
    Heads placed = heads;
    if (weight) {
      placed = {room.take(rows * width), width, heads.count};
      in_parallel(rows, 1, [&](long row) { std::copy_n(heads.first + row * heads.stride, width, plain + row * width); });
      norm(plain, weight, placed.first, rows * heads.count, size, room);
    }
    groat_rotate(placed.first, placed.stride, tokens.cosines, tokens.sines, 1.0f, to, rows, heads.count, size, half, threads);
    if (shape.rounds_heads) groat_hadamard(to, rows * heads.count, size, threads);
  }

  void multiply(const AdaptedLinear& linear, const float* from, float* to, float* down, Room room) const {
    if (linear.a)
      groat_adapted_product(linear.weight, from, linear.inputs, to, tokens.rows, linear.bias, linear.a, down, linear.bs,
                            linear.sizes, linear.parts, linear.rank, shape.adapter_scale, room.next, threads);
    else
      groat_product(linear.weight, 1, from, linear.inputs, to, linear.outputs, tokens.rows, linear.bias, room.next,
                    threads);
  }
};

}  // namespace
