// All layers of a decoder on the newest token of each sequence, without a way back to Python between their parts.

#include "layers.h"

extern "C" {

struct Past {  // as in layers.py
  const Run* runs;  // [layers, num_runs]
  int64_t num_runs;
  const Numbers *keys, *values;  // of each layer the arena [slots, kv heads, length, head size]
  const int64_t *slots, *places;
  int64_t arena_length;
};

// hidden[rows, H] goes through all layers, in place; `memory` is as large as layers.py says.
void groat_decode(const DecoderLayer* layers, long num_layers, const DecoderShape* shape, const Tokens* tokens,
                  const Past* past, float* hidden, float* memory, int threads) {
  const Forward forward(*shape, *tokens, threads);
  as_a_team(threads, [&] {
    for (long index = 0; index < num_layers; index++) {
      Room room{memory};
      const DecoderLayer& layer = layers[index];
      const Activations here(room, layer, *shape, tokens->rows);
      forward.project(layer, hidden, here, room);
      groat_remember(here.keys, here.values, &past->keys[index], &past->values[index], past->slots, past->places,
                     tokens->rows, shape->kv_heads, past->arena_length, shape->head_size);
      forward.attend(here, past->runs + index * past->num_runs, nullptr);
      forward.finish(layer, hidden, here, hidden, room);
    }
  });
}

}  // extern "C"
