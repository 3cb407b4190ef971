// Queries and keys turned so that rounding costs little, and keys and values rounded to int8.

#include "keys_values.h"
#include "workers.h"

namespace {

constexpr long LARGEST_TURN = 64;

// The largest power of two up to 64 that divides a head.
long turn_of(long size) { return std::min(size & -size, LARGEST_TURN); }

void add_and_subtract(float* first, float* second) {
  const Vec a = load(first), b = load(second);
  store(first, a + b), store(second, a - b);
}

// Of every 2 * step lanes the lower ones become sums, the upper ones differences.
Vec crossed(Vec here, int step) {
  const IntVec lanes = lane_numbers(), is_upper = (lanes & step) != 0;
  return __builtin_shuffle(here, lanes ^ step) + (is_upper ? -here : here);
}

void hadamard(float* head, long size) {
  const long turn = turn_of(size);
  const float scale = 1.0f / std::sqrt(float(turn));
  for (long i = 0; i < size; i += LANES) {
    Vec here = load_part(head + i, size - i);
    for (int step = 1; step < std::min(long(LANES), turn); step *= 2) here = crossed(here, step);
    store_part(head + i, size - i, here * scale);
  }
  for (long step = LANES; step < turn; step *= 2)
    for (long first = 0; first < size; first += 2 * step)
      for (long i = first; i < first + step; i += LANES) add_and_subtract(head + i, head + i + step);
}

float to_int8(const float* head, long size, int8_t* to) {
  const RoundedHead rounded(head, size);
  for (long i = 0; i < size; i += LANES) store_part(to + i, size - i, rounded.part(i));
  return rounded.scale;
}

// A head's numbers, at a place where there is room for one after the other.
void keep(const float* head, const Numbers& in, long place, long size) {
  if (in.scales) in.scales[place] = to_int8(head, size, static_cast<int8_t*>(in.first) + place * size);
  else std::copy_n(head, size, static_cast<float*>(in.first) + place * size);
}

}  // namespace

extern "C" {

// Each of the heads x[rows, size], in place: blocks of it times a Hadamard matrix with orthonormal rows, which is its own inverse.
void groat_hadamard(float* x, long rows, long size, int threads) {
  in_parallel(rows, rows * size > 8192 ? threads : 1, [&](long row) { hadamard(x + row * size, size); });
}

// Heads x[rows, size] in int8, `scales` one each; in place they become what those stand for.
void groat_round_heads(float* x, int8_t* codes, float* scales, long rows, long size, int threads) {
  in_parallel(rows, rows * size > 8192 ? threads : 1, [&](long row) {
    float* head = x + row * size;
    scales[row] = to_int8(head, size, codes + row * size);
    for (long i = 0; i < size; i += LANES)
      store_part(head + i, size - i, exact(load_part(codes + row * size + i, size - i), scales[row]));
  });
}

// Heads x[rows, size] in int8, `scales` one each.
void groat_heads_to_int8(const float* x, int8_t* out, float* scales, long rows, long size, int threads) {
  in_parallel(rows, rows * size > 8192 ? threads : 1, [&](long row) {
    scales[row] = to_int8(x + row * size, size, out + row * size);
  });
}

// One new token per row: keys and values [S, kv heads, D] into slots of an arena [slots, kv heads, length, D].
void groat_remember(const float* keys, const float* values, const Numbers* arena_keys, const Numbers* arena_values,
                    const int64_t* slots, const int64_t* lengths, long rows, long kv_heads, long length, long size) {
  in_parallel(rows, 1, [&](long row) {
    for (long head = 0; head < kv_heads; head++) {
      const long from = (row * kv_heads + head) * size;
      const long place = (slots[row] * kv_heads + head) * length + lengths[row];
      keep(keys + from, *arena_keys, place, size);
      keep(values + from, *arena_values, place, size);
    }
  });
}

}  // extern "C"
