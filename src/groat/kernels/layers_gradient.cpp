// A decoder layer for a learner: forward that keeps what backward needs, and backward to the layer's input and its adapter.

#include "layers.h"
#include "vectors.h"

#include <vector>

extern "C" {

// Where a run's tokens lie among those of a micro-batch: a learner's keys are all in one place, but for those of a prefix,
// whose start is negative.
struct OwnRun {
  int64_t count, start;
};

}  // extern "C"

namespace {

// The runs of keys and values by where they lie: the prefix's, and those that `of_own` finds.
template <class OfOwn>
std::vector<Run> runs_by(const OwnRun* own, long count, const DecoderShape& shape, const Prefix* before,
                         const OfOwn& of_own) {
  std::vector<Run> runs;
  for (long i = 0; i < count; i++) {
    Run run{own[i].count, shape.kv_heads * shape.head_size, shape.head_size, nullptr, nullptr, nullptr, nullptr};
    if (own[i].start >= 0) of_own(own[i].start, run);
    else run.keys = before->keys, run.values = before->values, run.key_scales = before->key_scales,
         run.value_scales = before->value_scales;
    runs.push_back(run);
  }
  return runs;
}

// A layer's own keys and values in fp32, and a prefix's likewise.
std::vector<Run> runs_of(const OwnRun* own, long count, const DecoderShape& shape, const Activations& from,
                         const Prefix* before) {
  return runs_by(own, count, shape, before, [&](long start, Run& run) {
    const long skipped = start * shape.kv_heads * shape.head_size;
    run.keys = from.keys + skipped, run.values = from.values + skipped;
  });
}

// A prefix in fp32, whose exact numbers are in `room` if they are not there already.
Prefix in_floats(const Prefix& prefix, const DecoderShape& shape, Room& room, int threads) {
  Prefix exact = prefix;
  if (!prefix.key_scales) return exact;
  const long heads = prefix.count * shape.kv_heads, size = shape.head_size;
  const auto exactly = [&](const void* codes, const float* scales) {
    float* to = room.take(heads * size);
    in_parallel(heads, heads * size > 8192 ? threads : 1, [&](long head) {
      const int8_t* from = static_cast<const int8_t*>(codes) + head * size;
      for (long i = 0; i < size; i++) to[head * size + i] = from[i] * scales[head];
    });
    return to;
  };
  exact.keys = exactly(prefix.keys, prefix.key_scales), exact.values = exactly(prefix.values, prefix.value_scales);
  exact.key_scales = exact.value_scales = nullptr;
  return exact;
}

// A layer's own keys and values in int8, as a sampler keeps them.
class RoundedHeads {
 public:
  RoundedHeads(const Prefix& to, const DecoderShape& shape)
      : shape(shape), keys(static_cast<int8_t*>(to.keys)), values(static_cast<int8_t*>(to.values)),
        key_scales(to.key_scales), value_scales(to.value_scales) {}
  RoundedHeads(Room& room, const DecoderShape& shape, long rows) : shape(shape) {
    const long heads = rows * shape.kv_heads, floats = (heads * shape.head_size + 3) / 4;
    keys = reinterpret_cast<int8_t*>(room.take(floats)), values = reinterpret_cast<int8_t*>(room.take(floats));
    key_scales = room.take(heads), value_scales = room.take(heads);
  }

  // Rounds the rows from one on, which then are in fp32 what they are in int8.
  void round(const Activations& rows, long from, long count, int threads) const {
    const long head = from * shape.kv_heads, heads = count * shape.kv_heads, size = shape.head_size;
    groat_round_heads(rows.keys, keys + head * size, key_scales + head, heads, size, threads);
    groat_round_heads(rows.values, values + head * size, value_scales + head, heads, size, threads);
  }

  std::vector<Run> runs(const OwnRun* own, long count, const Prefix* before) const {
    return runs_by(own, count, shape, before, [&](long start, Run& run) {
      const long head = start * shape.kv_heads, skipped = head * shape.head_size;
      run.keys = keys + skipped, run.values = values + skipped;
      run.key_scales = key_scales + head, run.value_scales = value_scales + head;
    });
  }

 private:
  const DecoderShape& shape;
  int8_t *keys, *values;
  float *key_scales, *value_scales;
};

// Of one share of the rows; all pointers are to its own.
class Backward {
 public:
  Backward(const DecoderLayer& layer, const DecoderShape& shape, const Share& share, const Activations& kept,
           float* const* adapter_grads)
      : layer(layer), shape(shape), tokens(share.tokens), kept(kept), adapter_grads(adapter_grads),
        forward(shape, share.tokens, share.threads), threads(share.threads) {}

  // From the output's gradient to that of `middle`, and of what attention has mixed.
  void mlp(const float* grad, float* grad_middle, float* grad_mixed, Room room) const {
    const long rows = tokens.rows, inner_size = shape.inner;
    float* grad_gate_up = room.take(rows * 2 * inner_size);
    {
      Room here = room;
      float *inner = here.take(rows * inner_size), *grad_inner = here.take(rows * inner_size);
      groat_swiglu(kept.gate_up, inner, rows, inner_size, threads);
      linear(layer.down, grad, inner, kept.down_down, grad_inner, down_grads(), here);
      groat_swiglu_backward(grad_inner, kept.gate_up, grad_gate_up, rows, inner_size, threads);
    }
    normed_linear(layer.gate_up, grad_gate_up, kept.middle, layer.mlp_norm, kept.gate_up_down, grad, grad_middle,
                  gate_up_grads(), room);
    linear(layer.output, grad_middle, kept.mixed, kept.output_down, grad_mixed, output_grads(), room);
  }

  // From the gradients of queries, keys and values, and that of `middle`, to the input's, unless it is null.
  void projection(float* grad_queries, float* grad_keys, const float* grad_values, const float* input,
                  const float* grad_middle, float* grad_input, Room room) const {
    const long rows = tokens.rows, size = shape.head_size, heads = shape.heads, kv_heads = shape.kv_heads;
    const long width = (heads + 2 * kv_heads) * size;
    float* grad_qkv = room.take(rows * width);
    take_back(grad_queries, kept.plain_queries, layer.query_norm, heads, grad_qkv, room);
    take_back(grad_keys, kept.plain_keys, layer.key_norm, kv_heads, grad_qkv + heads * size, room);
    for (long row = 0; row < rows; row++)
      std::copy_n(grad_values + row * kv_heads * size, kv_heads * size, grad_qkv + row * width + (heads + kv_heads) * size);
    normed_linear(layer.qkv, grad_qkv, input, layer.input_norm, kept.qkv_down, grad_middle, grad_input, adapter_grads,
                  room);
  }

 private:
  const DecoderLayer& layer;
  const DecoderShape& shape;
  const Tokens& tokens;
  const Activations& kept;
  float* const* adapter_grads;
  const Forward forward;
  const int threads;

  // The gradients of A and the B's, of qkv, output, gate_up and down one behind the other.
  float* const* output_grads() const { return adapter_grads + 1 + layer.qkv.parts; }
  float* const* gate_up_grads() const { return output_grads() + 1 + layer.output.parts; }
  float* const* down_grads() const { return gate_up_grads() + 1 + layer.gate_up.parts; }

  // Of heads that were normed, if `plain` is not null, and turned: their gradients, spoiled here, in their columns of qkv.
  void take_back(float* grad, const float* plain, const float* weight, long count, float* to,
                 Room room) const {
    const long rows = tokens.rows, size = shape.head_size, width = count * size;
    const long half = layer.is_rotated ? tokens.rotated_half : 0, stride = (shape.heads + 2 * shape.kv_heads) * size;
    float* turned = room.take(rows * width);
    if (shape.rounds_heads) groat_hadamard(grad, rows * count, size, threads);
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
                     const float* down, const float* beside, float* grad_input, float* const* grads, Room room) const {
    const long rows = tokens.rows, size = shape.hidden;
    float *normed = room.take(rows * size), *inverse = room.take(rows);
    groat_rms_norm(input, size, weight, shape.epsilon, normed, size, inverse, rows, size, threads);
    float* grad_normed = grad_input ? room.take(rows * size) : nullptr;
    linear(linear_layer, grad, normed, down, grad_normed, grads, room);
    if (!grad_input) return;
    groat_rms_norm_backward(grad_normed, input, weight, inverse, normed, rows, size, threads);
    forward.add(beside, normed, grad_input);
  }

  // The gradient of a linear layer's input [rows, inputs], unless that is null, and of its A and B's.
  void linear(const AdaptedLinear& linear, const float* grad, const float* input, const float* down, float* grad_input,
              float* const* grads, Room room) const {
    float* grad_down = room.take(tokens.rows * linear.parts * linear.rank);
    groat_adapted_gradient(linear.weight, grad, input, down, linear.a, linear.bs, linear.sizes, linear.parts, linear.rank,
                           shape.adapter_scale, grad_input, grad_down, grads[0], grads + 1, tokens.rows,
                           room.next, threads);
  }
};

// The gradients of an adapter that each share has found on its own, one behind the other in memory.
class AdapterSums {
 public:
  AdapterSums(const DecoderLayer& layer, long shares, float* memory) {
    for (const AdaptedLinear* linear : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) {
      sizes.push_back(linear->parts * linear->rank * linear->inputs);
      for (long part = 0; part < linear->parts; part++) sizes.push_back(linear->sizes[part] * linear->rank);
    }
    Room room{memory};
    for (long share = 0; share < shares; share++)
      for (const long size : sizes) found.push_back(room.take(size));
  }

  float* const* of(long share) const { return found.data() + share * sizes.size(); }

  void add_to(float* const* grads, int threads) const {
    const long count = sizes.size(), shares = found.size() / count;
    by_workers(threads, [&](const Worker& worker) {
      for (long tensor = 0; tensor < count; tensor++)
        worker.each(sizes[tensor] / LANES, [&](long vector) {
          Vec sum = load(grads[tensor] + vector * LANES);
          for (long share = 0; share < shares; share++) sum += load(found[share * count + tensor] + vector * LANES);
          store(grads[tensor] + vector * LANES, sum);
        });
    });
    for (long tensor = 0; tensor < count; tensor++)
      for (long i = sizes[tensor] / LANES * LANES; i < sizes[tensor]; i++)
        for (long share = 0; share < shares; share++) grads[tensor][i] += found[share * count + tensor][i];
  }

 private:
  std::vector<long> sizes;  // of each tensor
  std::vector<float*> found;  // of each share, then of each tensor
};

}  // namespace

extern "C" {

// output[rows, H] of input[rows, H], which come after the prefix `before`, or are to be remembered as the prefix `made`, or
// neither. `kept` is what backward is given again, `memory` comes and goes, `row_floats` a row; layers.py has the sizes of
// both.
void groat_layer_forward(const DecoderLayer* layer, const DecoderShape* shape, const Tokens* tokens, const OwnRun* own,
                         long num_runs, const Prefix* before, const Prefix* made, const float* input, float* output,
                         float* kept, float* memory, long row_floats, int threads) {
  Room all{kept}, room{memory};
  const Activations to(all, *layer, *shape, tokens->rows);
  const bool rounds = shape->rounds_heads;
  const RoundedHeads rounded =
      rounds && made ? RoundedHeads(*made, *shape) : RoundedHeads(room, *shape, rounds ? tokens->rows : 0);
  float* rest = room.next;
  by_shares(*tokens, rest, row_floats, threads, [&](const Share& share, long, Room room) {
    const Forward forward(*shape, share.tokens, share.threads);
    const Activations own_rows = to.from(share.from, *layer, *shape);
    forward.project(*layer, input + share.from * shape->hidden, own_rows, room);
    if (rounds) rounded.round(own_rows, share.from, share.tokens.rows, share.threads);
  });
  if (made && !rounds) {
    const long numbers = tokens->rows * shape->kv_heads * shape->head_size;
    std::copy_n(to.keys, numbers, static_cast<float*>(made->keys));
    std::copy_n(to.values, numbers, static_cast<float*>(made->values));
  }
  const std::vector<Run> runs =
      rounds ? rounded.runs(own, num_runs, before) : runs_of(own, num_runs, *shape, to, before);
  Forward(*shape, *tokens, threads).attend(to, runs.data(), to.lse);
  by_shares(*tokens, rest, row_floats, threads, [&](const Share& share, long, Room room) {
    const long first = share.from * shape->hidden;
    Forward(*shape, share.tokens, share.threads)
        .finish(*layer, input + first, to.from(share.from, *layer, *shape), output + first, room);
  });
}

// grad_input[rows, H], which may be null, from grad[rows, H], that of the output; the adapter's gradients are added to, and
// those of the prefix `before`; what was found for the prefix `made` is part of the rows' own. `memory` likewise, the
// adapter's size for each thread, and a prefix in fp32.
void groat_layer_backward(const DecoderLayer* layer, const DecoderShape* shape, const Tokens* tokens, const OwnRun* own,
                          long num_runs, const Prefix* before, const Prefix* made, const float* input, float* kept,
                          const float* grad, float* grad_input, float* const* adapter_grads, float* memory,
                          long row_floats, int threads) {
  const long rows = tokens->rows, hidden = shape->hidden;
  const long query_size = shape->heads * shape->head_size, kv_size = shape->kv_heads * shape->head_size;
  Room all{kept}, room{memory};
  const Activations activations(all, *layer, *shape, rows);
  float *grad_middle = room.take(rows * hidden), *grad_mixed = room.take(rows * query_size);
  float* grad_queries = room.take(rows * query_size);
  float *grad_keys = room.take(rows * kv_size), *grad_values = room.take(rows * kv_size);
  const long shares = num_shares(rows, threads);
  const Prefix exact = before ? in_floats(*before, *shape, room, threads) : Prefix{};
  const Prefix* exact_before = before ? &exact : nullptr;
  float* rest = room.next;
  const AdapterSums sums(*layer, shares, rest + (rows + 15) / 16 * 16 * row_floats + shares * ROUNDING);
  by_shares(*tokens, rest, row_floats, threads, [&](const Share& share, long number, Room here) {
    const Activations own_rows = activations.from(share.from, *layer, *shape);
    Backward(*layer, *shape, share, own_rows, sums.of(number))
        .mlp(grad + share.from * hidden, grad_middle + share.from * hidden, grad_mixed + share.from * query_size, here);
  });
  groat_attend_backward(grad_mixed, activations.queries, activations.mixed, activations.lse, activations.keys,
                        tokens->spans, tokens->num_spans,
                        runs_of(own, num_runs, *shape, activations, exact_before).data(), exact_before, grad_queries,
                        grad_keys, grad_values, rows, shape->heads, shape->kv_heads, shape->head_size,
                        shape->rounds_heads, threads);
  if (made)
    for (long i = 0; i < rows * kv_size; i++) grad_keys[i] += made->grad_keys[i], grad_values[i] += made->grad_values[i];
  by_shares(*tokens, rest, row_floats, threads, [&](const Share& share, long number, Room here) {
    const Activations own_rows = activations.from(share.from, *layer, *shape);
    const long first = share.from * hidden, first_kv = share.from * kv_size;
    Backward(*layer, *shape, share, own_rows, sums.of(number))
        .projection(grad_queries + share.from * query_size, grad_keys + first_kv, grad_values + first_kv, input + first,
                    grad_middle + first, grad_input ? grad_input + first : nullptr, here);
  });
  sums.add_to(adapter_grads, threads);
}

}  // extern "C"
