// Blocks of keys on the way to attention: where their numbers are, and how weights follow from their scores.

#pragma once

#include "attention.h"

namespace {

constexpr int KEYS = 64;  // of a block

// What the next task will read of its own tokens, asked for little by little while this one computes: evenly, since the
// CPU has few requests under way at a time, and more hold up what it computes. In four places at once, because the CPU goes
// on reading from each of them by itself.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const Run& run, long kv_head, long size, long number_bytes) {
    if (run.token_stride != size) return;
    const long half = std::min(run.count * size * number_bytes, MOST) / 2 / LINE;
    const long skipped = kv_head * run.head_stride;
    const char* both[2] = {static_cast<const char*>(run.keys), static_cast<const char*>(run.values)};
    for (int i = 0; i < 2; i++) {
      const char* begin = both[i] + skipped * number_bytes;
      places[i] = begin + half * LINE, places[i + 2] = begin + 2 * half * LINE;
    }
    if (run.key_scales) {
      const long count = 2 * half * LINE / size;
      scales[0] = run.key_scales + skipped / size + count, scales[1] = run.value_scales + skipped / size + count;
    }
    head = size, ahead = -half;
  }

  void fetch(long lines) {
    const long end = std::min(0L, ahead + lines);
    for (; ahead < end; ahead++) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) __builtin_prefetch(places[i] + ahead * LINE, 0, 2);
      if (scales[0] && ahead % 8 == 0)
        for (const float* behind : scales) __builtin_prefetch(behind + ahead * 2 * LINE / head, 0, 2);
    }
  }

 private:
  static constexpr long LINE = 64, MOST = 1 << 17;  // so many bytes of keys and of values wait in the second cache
  const char* places[4] = {};   // where they end
  const float* scales[2] = {};  // likewise, of int8
  long head = 0, ahead = 0;     // numbers of a head; lines that are left in each place, negative
};

// Of one kv head the numbers of some tokens, each token's in one place, and what they are to be multiplied with.
template <class Number>
struct Heads {
  const Number* numbers[KEYS];
  float scales[KEYS];  // of int8

  Vec part(long token, long column, long size) const {
    return exact(load_part(numbers[token] + column, size - column), scales[token]);
  }

  // The tokens from the first one of `run_numbers` and `run_scales` on, `stride` numbers apart, `scale_stride` scales.
  void take(long at, long count, const Number* run_numbers, long stride, const float* run_scales, long scale_stride) {
    for (long i = 0; i < count; i++, run_numbers += stride) numbers[at + i] = run_numbers;
    if (sizeof(Number) == sizeof(float)) return;
    if (scale_stride == 1 && count == KEYS) std::memcpy(scales, run_scales, sizeof scales);
    else if (scale_stride == 1) std::copy_n(run_scales, count, scales + at);
    else
      for (long i = 0; i < count; i++) scales[at + i] = run_scales[i * scale_stride];
  }
};

// Up to KEYS keys and their values.
template <class Number>
struct KeyBlock {
  Heads<Number> keys, values;
  int count;
  Ahead ahead;

  // Keys behind the last one, up to whole vectors of so many, are as the first: nobody sees them.
  int fill(int together) {
    const int whole = (count + together - 1) / together * together;
    for (Heads<Number>* heads : {&keys, &values})
      for (int key = count; key < whole; key++)
        heads->numbers[key] = heads->numbers[0], heads->scales[key] = heads->scales[0];
    return whole;
  }
};

// Goes along the runs of a span and gives out their keys a block at a time.
template <class Number>
struct Walk {
  const Run* run;
  long kv_head, size, inside = 0;

  void next(int count, KeyBlock<Number>& block) {
    block.count = count;
    for (int key = 0; key < count;) {
      const long some = std::min(long(count - key), run->count - inside);
      take(run->keys, run->key_scales, some, key, block.keys);
      take(run->values, run->value_scales, some, key, block.values);
      key += some, inside += some;
      if (inside == run->count) run++, inside = 0;
    }
  }

 private:
  // The next tokens of the run, of its keys or its values.
  void take(const void* numbers, const float* scales, long count, int at, Heads<Number>& to) const {
    const long first = inside * run->token_stride + kv_head * run->head_stride;
    to.take(at, count, static_cast<const Number*>(numbers) + first, run->token_stride,
            scales ? scales + first / size : nullptr, run->token_stride / size);
  }
};

inline float largest_lane(Vec value) {
  const IntVec lanes = lane_numbers();
#pragma GCC unroll 4
  for (int step = LANES / 2; step; step /= 2) {
    const Vec other = __builtin_shuffle(value, lanes ^ step);
    value = value > other ? value : other;
  }
  return value[0];
}

// The softmax of one query so far (arXiv:2205.14135): its maximum, its sum by lanes, and its output of `padded` numbers.
struct Softmax {
  float *maximum, *sums, *output;
  long padded;

  // Scores become weights relative to the running maximum; what was summed before is scaled to a new maximum. Not
  // inlined: compiled once, it rounds in one way.
  __attribute__((noinline)) void weigh(float* scores, int count) const {
    const int whole = (count + LANES - 1) / LANES * LANES;
    if (whole > count) {
      float* last = scores + whole - LANES;
      store(last, lane_numbers() < count % LANES ? load(last) : splat(-std::numeric_limits<float>::infinity()));
    }
    const float before = *maximum;
    Vec highest = splat(before), total = load(sums);
    for (int key = 0; key < whole; key += LANES) {
      const Vec here = load(scores + key);
      highest = here > highest ? here : highest;
    }
    const float now = largest_lane(highest);
    if (now > before) {
      const Vec factor = exponential(splat(before - now));
      total *= factor;
      for (long i = 0; i < padded; i += LANES) store(output + i, load(output + i) * factor);
      *maximum = now;
    }
    for (int key = 0; key < whole; key += LANES) {
      const Vec weight = exponential(load(scores + key) - now);
      store(scores + key, weight);
      total += weight;
    }
    store(sums, total);
  }

  float total() const { return sum(load(sums)); }
};

}  // namespace
