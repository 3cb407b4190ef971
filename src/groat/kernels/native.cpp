// CPU kernels for frozen linear layers in every storage kind, for decoding, and for the elementwise work between them.
//
// Written with the compiler's vector extensions: the width is that of the machine it is compiled on. Built by
// build.py at first use; where there is no compiler, ops.py computes the same with torch.
//
// Letters as in Python: M rows (tokens), N outputs, K inputs of a linear layer; weights lie as [N, K].

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "int8.h"
#include "kernels.h"
#include "vectors.h"
#include "workers.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int TILE_ROWS = 12;
#else
constexpr int TILE_ROWS = 6;
#endif
constexpr int TILE_COLS = 2 * LANES;  // of the output, per tile
constexpr int DEPTH = 192;            // summed in one go: sums of short sums lose fewer bits than one long sum
constexpr int BLOCK_ROWS = 384;       // rows that share one tile


// ---- Storage kinds: how a row of weights becomes fp32 ----

struct Float32 {
  const float* values;
  long columns;
  const float* segment(long row, long column, int, float*) const { return values + row * columns + column; }
};

struct BFloat16 {
  const uint16_t* values;
  long columns;
  const float* segment(long row, long column, int count, float* buffer) const {
    const uint16_t* from = values + row * columns + column;
    for (int i = 0; i < count; i++) {
      const uint32_t bits = uint32_t(from[i]) << 16;
      std::memcpy(buffer + i, &bits, sizeof bits);
    }
    return buffer;
  }
};

// Pairs of NF4 values by byte, the first element in the high half (QLoRA, arXiv:2305.14314, appendix E).
struct NF4Pairs {
  const float* code;
  float pair[256][2];
  explicit NF4Pairs(const float* values) : code(values) {
    for (int byte = 0; byte < 256; byte++) pair[byte][0] = code[byte >> 4], pair[byte][1] = code[byte & 15];
  }
};

struct NF4 {  // blocks run over the flattened weights and may straddle rows
  const uint8_t* values;
  const float* scales;  // one per block; null where they are quantized themselves, into the next four
  const uint8_t* scale_codes;
  const float* scale_map;
  const float* scale_scales;   // one per 256 blocks
  const float* scale_offsets;  // one per 256 blocks
  long columns;
  int block;
  const NF4Pairs* pairs;
  float scale(long number) const {
    if (scales) return scales[number];
    return scale_map[scale_codes[number]] * scale_scales[number >> 8] + scale_offsets[number >> 8];
  }
  const float* segment(long row, long column, int count, float* buffer) const {
    long place = row * columns + column;
    const long end = place + count;
    float* to = buffer;
    while (place < end) {
      const long number = place / block, stop = std::min(end, (number + 1) * block);
      const float factor = scale(number);
      if (place & 1) *to++ = pairs->pair[values[place >> 1]][1] * factor, place++;
#if defined(__AVX2__)
      const __m256 low = _mm256_loadu_ps(pairs->code), high = _mm256_loadu_ps(pairs->code + 8);
      const __m256i shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
      for (; place + 8 <= stop; place += 8, to += 8) {
        int32_t four;
        std::memcpy(&four, values + (place >> 1), 4);
        const __m256i codes = _mm256_srlv_epi32(_mm256_set1_epi32(four), shifts);  // the low 4 bits of each lane
        const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28));    // bit 3 as the sign
        const __m256 value = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, codes),
                                              _mm256_permutevar8x32_ps(high, codes), upper);
        _mm256_storeu_ps(to, _mm256_mul_ps(value, _mm256_set1_ps(factor)));
      }
#endif
      for (; place + 1 < stop; place += 2, to += 2) {
        const float* pair = pairs->pair[values[place >> 1]];
        to[0] = pair[0] * factor, to[1] = pair[1] * factor;
      }
      if (place < stop) *to++ = pairs->pair[values[place >> 1]][0] * factor, place++;
    }
    return buffer;
  }
};

struct RowInt8 {  // one scale per row
  const int8_t* values;
  const float* scales;
  long columns;
  const float* segment(long row, long column, int count, float* buffer) const {
    const int8_t* from = values + row * columns + column;
    const float scale = scales[row];
    for (int i = 0; i < count; i++) buffer[i] = scale * float(from[i]);
    return buffer;
  }
};

// ---- Packing: a tile of weights as [depth][TILE_COLS] ----

#if defined(__AVX2__)
inline void transpose8(const float* from, long stride, float* to, long to_stride) {
  __m256 rows[8], pairs[8], fours[8];
  for (int i = 0; i < 8; i++) rows[i] = _mm256_loadu_ps(from + i * stride);
  for (int i = 0; i < 4; i++) {
    pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
    pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
  }
  for (int half = 0; half < 8; half += 4) {
    fours[half] = _mm256_shuffle_ps(pairs[half], pairs[half + 2], 0x44);
    fours[half + 1] = _mm256_shuffle_ps(pairs[half], pairs[half + 2], 0xEE);
    fours[half + 2] = _mm256_shuffle_ps(pairs[half + 1], pairs[half + 3], 0x44);
    fours[half + 3] = _mm256_shuffle_ps(pairs[half + 1], pairs[half + 3], 0xEE);
  }
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps(to + i * to_stride, _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * to_stride, _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31));
  }
}
#endif

// tile[k][i] = from[i][k] for `rows` <= TILE_COLS rows; the rest are zeros.
void pack_transposed(const float* from, long stride, int rows, int depth, float* tile) {
  int k = 0;
#if defined(__AVX2__)
  if (rows == TILE_COLS)
    for (; k + 8 <= depth; k += 8)
      for (int i = 0; i < TILE_COLS; i += 8) transpose8(from + i * stride + k, stride, tile + k * TILE_COLS + i, TILE_COLS);
#endif
  for (; k < depth; k++)
    for (int i = 0; i < TILE_COLS; i++) tile[k * TILE_COLS + i] = i < rows ? from[i * stride + k] : 0.0f;
}

// tile[k][i] = from[k][i] for `columns` <= TILE_COLS columns; the rest are zeros.
void pack_row(const float* from, int columns, float* to) {
  if (columns == TILE_COLS) {
    store(to, load(from));
    store(to + LANES, load(from + LANES));
    return;
  }
  for (int i = 0; i < TILE_COLS; i++) to[i] = i < columns ? from[i] : 0.0f;
}

// W as the right side of a product: the tile [depth][TILE_COLS] from place (start, first), made in `room` if need be;
// and where the tile of the next columns lies, if it is in memory as it will be read.
template <class Weights>
struct Transposed {  // x W': columns are outputs, that is rows of W
  const Weights& weights;
  const float* tile(long first, int width, long start, int depth, float* room) const {
    alignas(64) float buffer[TILE_COLS * DEPTH];
    const float* from = weights.segment(first, start, depth, buffer);
    if (from != buffer) {
      pack_transposed(from, weights.columns, width, depth, room);
      return room;
    }
    for (int i = 1; i < width; i++) weights.segment(first + i, start, depth, buffer + i * DEPTH);
    pack_transposed(buffer, DEPTH, width, depth, room);
    return room;
  }
  const char* after(const float*) const { return nullptr; }
};
template <class Weights>
struct Straight {  // g W: columns are inputs, that is columns of W, and the depth runs over its rows
  const Weights& weights;
  const float* tile(long first, int width, long start, int depth, float* room) const {
    alignas(64) float buffer[TILE_COLS];
    for (int k = 0; k < depth; k++)
      pack_row(weights.segment(start + k, first, width, buffer), width, room + k * TILE_COLS);
    return room;
  }
  const char* after(const float*) const { return nullptr; }
};

// fp32 weights stored as the tiles of x W' lie one behind the other: [N / TILE_COLS][K][TILE_COLS].
struct TiledTransposed {
  const float* values;
  long inputs;
  const float* tile(long first, int, long start, int, float*) const {
    return values + first * inputs + start * TILE_COLS;
  }
  const char* after(const float* tile) const { return reinterpret_cast<const char*>(tile + inputs * TILE_COLS); }
};
struct TiledStraight {
  const float* values;
  long inputs;
  const float* tile(long first, int width, long start, int depth, float* room) const {
    for (int k = 0; k < depth; k += TILE_COLS)
      pack_transposed(values + (start + k) * inputs + first * TILE_COLS, TILE_COLS, width,
                      std::min(TILE_COLS, depth - k), room + k * TILE_COLS);
    return room;
  }
  const char* after(const float*) const { return nullptr; }
};

// int8 weights (int8.h), of inputs that are turned already; tiles of ours lie within one of theirs.
struct Int8Transposed {
  const Int8Tiles& weights;
  static_assert(TILE_OUTPUTS % TILE_COLS == 0 && DEPTH % BLOCK == 0);
  const float* tile(long first, int, long start, int depth, float* room) const {
    weights.widen(first, TILE_COLS, start, depth, room, TILE_COLS);
    return room;
  }
  const char* after(const float*) const { return nullptr; }
};
struct Int8Straight {
  const Int8Tiles& weights;
  const float* tile(long first, int, long start, int depth, float* room) const {
    alignas(64) float turned[TILE_COLS * TILE_COLS];
    for (int k = 0; k < depth; k += TILE_COLS) {
      weights.widen(start + k, TILE_COLS, first, TILE_COLS, turned, TILE_COLS);
      pack_transposed(turned, TILE_COLS, TILE_COLS, std::min(TILE_COLS, depth - k), room + k * TILE_COLS);
    }
    return room;
  }
  const char* after(const float*) const { return nullptr; }
};

// ---- Matrix products ----

struct Epilogue {
  float alpha;
  bool add;           // to what is there already
  const float* bias;  // or null
};

// `left` holds ROWS rows interleaved: [depth][ROWS].
template <int ROWS>
void multiply_tile(int depth, const float* left, const float* tile, float* out, long out_stride, const Epilogue& end) {
  Vec sums[ROWS][2];
#pragma GCC unroll 16
  for (int row = 0; row < ROWS; row++) {
    sums[row][0] = sums[row][1] = Vec{};
    __builtin_prefetch(out + row * out_stride, 1);
  }
  for (int k = 0; k < depth; k++) {
    const Vec first = load(tile + k * TILE_COLS), second = load(tile + k * TILE_COLS + LANES);
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; row++) {
      const Vec factor = splat(left[k * ROWS + row]);
      sums[row][0] += factor * first;
      sums[row][1] += factor * second;
    }
  }
  const Vec bias[2] = {end.bias ? load(end.bias) : Vec{}, end.bias ? load(end.bias + LANES) : Vec{}};
#pragma GCC unroll 16
  for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      float* to = out + row * out_stride + half * LANES;
      const Vec value = sums[row][half] * end.alpha + bias[half];
      store(to, end.add ? value + load(to) : value);
    }
}

typedef void (*TileProduct)(int, const float*, const float*, float*, long, const Epilogue&);
template <int... ROWS>
struct TileProducts {
  static constexpr TileProduct by_rows[] = {nullptr, multiply_tile<ROWS>...};
};
#if defined(__AVX512F__)
constexpr const TileProduct* tile_product = TileProducts<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12>::by_rows;
#else
constexpr const TileProduct* tile_product = TileProducts<1, 2, 3, 4, 5, 6>::by_rows;
#endif

// Rows cut into equal parts of at most TILE_ROWS, none of them thin.
struct Parts {
  int rows, count;
  explicit Parts(int all) : rows(all), count((all + TILE_ROWS - 1) / TILE_ROWS) {}
  int start(int part) const { return int(long(rows) * part / count); }
  int size(int part) const { return start(part + 1) - start(part); }
};

// Part by part, interleaved as multiply_tile reads them.
void pack_left(const Parts& parts, const float* left, long stride, int depth, float* packed) {
  for (int part = 0; part < parts.count; part++) {
    const int size = parts.size(part);
    const float* from = left + parts.start(part) * stride;
    float* to = packed + parts.start(part) * depth;
    for (int row = 0; row < size; row++)
      for (int k = 0; k < depth; k++) to[k * size + row] = from[row * stride + k];
  }
}

// out[rows, columns] from packed rows and a tile; meanwhile asks for the tile that will be needed next, or null.
void multiply_parts(const Parts& parts, int columns, int depth, const float* packed, const float* tile, float* out,
                    long out_stride, const Epilogue& end, const char* next = nullptr) {
  const long next_bytes = next ? depth * TILE_COLS * long(sizeof(float)) : 0;
  for (int part = 0; part < parts.count; part++) {
    for (long at = next_bytes * part / parts.count; at < next_bytes * (part + 1) / parts.count; at += 64)
      __builtin_prefetch(next + at, 0, 2);
    const int size = parts.size(part);
    const float* left = packed + parts.start(part) * depth;
    float* to = out + parts.start(part) * out_stride;
    if (columns == TILE_COLS) {
      tile_product[size](depth, left, tile, to, out_stride, end);
      continue;
    }
    alignas(64) float edge[TILE_ROWS * TILE_COLS];
    tile_product[size](depth, left, tile, edge, TILE_COLS, Epilogue{end.alpha, false, nullptr});
    for (int i = 0; i < size; i++)
      for (int j = 0; j < columns; j++) {
        const float value = edge[i * TILE_COLS + j] + (end.bias ? end.bias[j] : 0.0f);
        to[i * out_stride + j] = end.add ? to[i * out_stride + j] + value : value;
      }
  }
}

// A share of the product: rows [row, row + count) and tiles [tile_from, tile_to).
template <class Right>
void multiply_share(const Right& right, const float* left, long left_stride, float* out, long out_stride, long row,
                    int count, long tile_from, long tile_to, long columns, long inner, const Epilogue& end) {
  alignas(64) float room[DEPTH * TILE_COLS];
  thread_local std::vector<float> packed;
  packed.resize(size_t(count) * DEPTH);
  const Parts parts(count);
  const auto width = [&](long number) { return int(std::min(long(TILE_COLS), columns - number * TILE_COLS)); };
  for (long start = 0; start < inner; start += DEPTH) {
    const int depth = int(std::min(long(DEPTH), inner - start));
    pack_left(parts, left + row * left_stride + start, left_stride, depth, packed.data());
    for (long number = tile_from; number < tile_to; number++) {
      const long first = number * TILE_COLS;
      const float* tile = right.tile(first, width(number), start, depth, room);
      const Epilogue here{end.alpha, end.add || start, start || !end.bias ? nullptr : end.bias + first};
      multiply_parts(parts, width(number), depth, packed.data(), tile, out + row * out_stride + first, out_stride,
                     here, number + 1 < tile_to ? right.after(tile) : nullptr);
    }
  }
}

// out[rows, columns] (+)= alpha * left[rows, inner] * right (+ bias). Threads share the tiles; few tiles, the rows.
template <class Right>
void multiply(const Right& right, const float* left, long left_stride, float* out, long out_stride, long rows,
              long columns, long inner, const Epilogue& end, int threads) {
  const long tiles = (columns + TILE_COLS - 1) / TILE_COLS;
  const long by_rows = tiles < 4 * threads ? std::min(long(threads), rows) : 1, by_tiles = threads / by_rows;
  in_parallel(by_rows * by_tiles, threads, [&](long share) {
    const long tile_share = share % by_tiles, row_share = share / by_tiles;
    const long row_from = rows * row_share / by_rows, row_to = rows * (row_share + 1) / by_rows;
    const long blocks = (row_to - row_from + BLOCK_ROWS - 1) / BLOCK_ROWS;
    for (long block = 0; block < blocks; block++) {
      const long row = row_from + (row_to - row_from) * block / blocks;
      const long next = row_from + (row_to - row_from) * (block + 1) / blocks;
      multiply_share(right, left, left_stride, out, out_stride, row, int(next - row), tiles * tile_share / by_tiles,
                     tiles * (tile_share + 1) / by_tiles, columns, inner, end);
    }
  });
}

// Products of few outputs, as the A of an adapter has, by rows of x and of W as they lie: nothing is packed for them.
constexpr int DOT_OUTPUTS = 4, DOT_ROWS = LANES / DOT_OUTPUTS;
constexpr long DOT_BLOCK = 16;  // rows that stay in the cache while all outputs pass

// to[DOT_ROWS][DOT_OUTPUTS] = the products of these rows.
void dots(const float* const* rows, const float* const* outputs, long inner, float* to) {
  Vec sums[LANES] = {};
  long i = 0;
  for (; i + LANES <= inner; i += LANES) {
    Vec right[DOT_OUTPUTS];
#pragma GCC unroll 4
    for (int output = 0; output < DOT_OUTPUTS; output++) right[output] = load(outputs[output] + i);
#pragma GCC unroll 4
    for (int row = 0; row < DOT_ROWS; row++) {
      const Vec left = load(rows[row] + i);
#pragma GCC unroll 4
      for (int output = 0; output < DOT_OUTPUTS; output++) sums[row * DOT_OUTPUTS + output] += left * right[output];
    }
  }
  Vec total = sums_of(sums);
  for (; i < inner; i++)
    for (int place = 0; place < LANES; place++)
      total[place] += rows[place / DOT_OUTPUTS][i] * outputs[place % DOT_OUTPUTS][i];
  store(to, total);
}

// out[rows, columns] = left[rows, inner] W', with W [columns, inner] in fp32.
void multiply_dots(const float* weights, const float* left, long left_stride, float* out, long rows, long columns,
                   long inner, int threads) {
  in_parallel(threads, threads, [&](long share) {
    const long groups = (rows + DOT_ROWS - 1) / DOT_ROWS;
    const long from = DOT_ROWS * (groups * share / threads), to = std::min(rows, DOT_ROWS * (groups * (share + 1) / threads));
    for (long block = from; block < to; block += DOT_BLOCK)
      for (long column = 0; column < columns; column += DOT_OUTPUTS)
        for (long row = block; row < std::min(to, block + DOT_BLOCK); row += DOT_ROWS) {
          const float *lefts[DOT_ROWS], *rights[DOT_OUTPUTS];  // those past the end are the last ones again
          for (int i = 0; i < DOT_ROWS; i++) lefts[i] = left + std::min(row + i, rows - 1) * left_stride;
          for (int i = 0; i < DOT_OUTPUTS; i++) rights[i] = weights + std::min(column + i, columns - 1) * inner;
          alignas(64) float found[LANES];
          dots(lefts, rights, inner, found);
          for (long i = 0; i < std::min(long(DOT_ROWS), rows - row); i++)
            std::copy_n(found + i * DOT_OUTPUTS, std::min(long(DOT_OUTPUTS), columns - column),
                        out + (row + i) * columns + column);
        }
  });
}

template <class Weights>
void product(const Weights& weights, bool transposed, const float* left, long left_stride, float* out, long out_stride,
             long rows, long outputs, long inputs, const Epilogue& end, int threads) {
  if (!rows) return;
  if (transposed)
    multiply(Transposed<Weights>{weights}, left, left_stride, out, out_stride, rows, outputs, inputs, end, threads);
  else
    multiply(Straight<Weights>{weights}, left, left_stride, out, out_stride, rows, inputs, outputs, end, threads);
}

}  // namespace

namespace {

template <class Use>
void with_weights(const MatrixView& view, const Use& use) {
  switch (view.kind) {
    case 0: return use(Float32{static_cast<const float*>(view.values), view.columns});
    case 1: return use(BFloat16{static_cast<const uint16_t*>(view.values), view.columns});
    case 5: return use(RowInt8{static_cast<const int8_t*>(view.values), static_cast<const float*>(view.scales),
                               view.columns});
    default: {
      const NF4Pairs pairs(view.code);
      return use(NF4{static_cast<const uint8_t*>(view.values), view.scales, view.scale_codes, view.scale_map,
                     view.scale_scales, view.scale_offsets, view.columns, view.block, &pairs});
    }
  }
}

Int8Tiles int8_tiles(const MatrixView& view) {
  return {static_cast<const uint8_t*>(view.values), reinterpret_cast<const uint16_t*>(view.scales), view.rows,
          blocks_of(view.columns)};
}

NF4Rows nf4_rows(const MatrixView& view) {
  return {static_cast<const uint8_t*>(view.values), view.scales, view.scale_codes, view.scale_map, view.scale_scales,
          view.scale_offsets, view.code, view.rows, view.columns};
}

// Rows turned block by block, [rows, blocks * BLOCK]: what lies past `columns` counts as zeros.
void turn(const float* from, long stride, long rows, long columns, float* to, int threads) {
  const long blocks = blocks_of(columns);
  in_parallel(rows * blocks, threads, [&](long place) {
    const long first = place % blocks * BLOCK, count = std::min(long(BLOCK), columns - first);
    float block[BLOCK] = {};
    for (long i = 0; i < count; i++) block[i] = from[place / blocks * stride + first + i] * 0.125f;
    hadamard(block);
    std::copy_n(block, BLOCK, to + place * BLOCK);
  });
}

void product_of(const Int8Tiles& weights, long inputs, bool transposed, const float* left, long left_stride, float* out,
                long out_stride, long rows, const Epilogue& end, float* turned, int threads) {
  const long width = weights.blocks * BLOCK;
  if (transposed) {
    turn(left, left_stride, rows, inputs, turned, threads);
    multiply(Int8Transposed{weights}, turned, width, out, out_stride, rows, weights.outputs, width, end, threads);
    return;
  }
  multiply(Int8Straight{weights}, left, left_stride, turned, width, rows, width, weights.outputs, end, threads);
  turn(turned, width, rows, width, turned, threads);
  for (long row = 0; row < rows; row++) std::copy_n(turned + row * width, inputs, out + row * out_stride);
}

bool in_int8(const MatrixView& view) {
  return view.compute == 1 && (view.kind == 2 || (view.kind == 3 && view.columns % BLOCK == 0));
}

// g W by products in int8, or in bf16.
void straight_product_of(const MatrixView& view, const float* grad, long grad_stride, float* out, long out_stride,
                         long rows, const AdapterBackward* adapter, void* scratch, int threads) {
  if (view.kind == 2)
    int8_straight_product(int8_tiles(view), grad, grad_stride, view.columns, out, out_stride, rows, adapter, scratch,
                          threads);
  else
    nf4_straight_product(nf4_rows(view), grad, grad_stride, out, out_stride, rows, adapter, scratch, threads);
}

// An adapter is added by products in int8 alone.
void product_of(const MatrixView& view, bool transposed, const float* left, long left_stride, float* out,
                long out_stride, long rows, const Epilogue& end, const Adapter* adapter, void* scratch, int threads) {
  if (!rows) return;
  if (in_int8(view) && !transposed)
    return straight_product_of(view, left, left_stride, out, out_stride, rows, nullptr, scratch, threads);
  if (in_int8(view) && view.kind == 2)
    return int8_product(int8_tiles(view), left, left_stride, view.columns, out, out_stride, rows, end.bias, adapter,
                        scratch, threads);
  if (in_int8(view))
    return nf4_product(nf4_rows(view), left, left_stride, out, out_stride, rows, end.bias, adapter, scratch, threads);
  if (view.kind == 2)
    return product_of(int8_tiles(view), view.columns, transposed, left, left_stride, out, out_stride, rows, end,
                      static_cast<float*>(scratch), threads);
  const float* tiles = static_cast<const float*>(view.values);
  if (view.kind == 4 && transposed)
    multiply(TiledTransposed{tiles, view.columns}, left, left_stride, out, out_stride, rows, view.rows, view.columns,
             end, threads);
  else if (view.kind == 4)
    multiply(TiledStraight{tiles, view.columns}, left, left_stride, out, out_stride, rows, view.columns, view.rows, end,
             threads);
  else
    with_weights(view, [&](const auto& weights) {
      product(weights, transposed, left, left_stride, out, out_stride, rows, view.rows, view.columns, end, threads);
    });
}

}  // namespace

bool gradients_are_in_bfloat16(const MatrixView& view) { return in_int8(view) && has_bfloat16_tiles(); }

void straight_product_with_adapter(const MatrixView& view, const float* grad, float* out, long rows,
                                   const AdapterBackward& adapter, void* scratch, int threads) {
  if (rows) straight_product_of(view, grad, view.rows, out, view.columns, rows, &adapter, scratch, threads);
}

extern "C" {

// transposed: out[M, N] = x[M, K] W' (+ bias); else out[M, K] = g[M, N] W. `scratch`, for int8 weights: room for the rows
// as they are read, rounded or turned, and for the result before it is turned back.
void groat_product(const MatrixView* view, int transposed, const float* left, long left_stride, float* out,
                   long out_stride, long rows, const float* bias, void* scratch, int threads) {
  product_of(*view, transposed, left, left_stride, out, out_stride, rows, Epilogue{1.0f, false, bias}, nullptr, scratch,
             threads);
}

// Rows of int8 weights by number, [count, columns].
void groat_int8_rows(const MatrixView* view, const int64_t* ids, long count, float* out) {
  const Int8Tiles weights = int8_tiles(*view);
  for (long row = 0; row < count; row++)
    for (long first = 0; first < view->columns; first += BLOCK) {
      float block[BLOCK];
      weights.row_block(ids[row], first / BLOCK, block);
      std::copy_n(block, std::min(long(BLOCK), view->columns - first), out + row * view->columns + first);
    }
}

// Columns of a tile: what tiled weights are tiled by.
int groat_tile_columns() { return TILE_COLS; }

// A layer with its LoRA adapter: out = x W' + bias + alpha down_p B_p' for each part p of the outputs, where
// down = x A' and A is [parts * rank, inputs].
void groat_adapted_product(const MatrixView* view, const float* x, long x_stride, float* out, long rows,
                           const float* bias, const float* a, float* down, const float* const* bs,
                           const int64_t* sizes, long parts, long rank, float alpha, void* scratch, int threads) {
  const long outputs = view->rows, inputs = view->columns;
  const Adapter adapter{down, bs, sizes, parts, rank, alpha};
  multiply_dots(a, x, x_stride, down, rows, parts * rank, inputs, threads);
  product_of(*view, true, x, x_stride, out, outputs, rows, Epilogue{1.0f, false, bias}, &adapter, scratch, threads);
  if (in_int8(*view)) return;
  for (long part = 0, first = 0; part < parts; first += sizes[part++])
    product(Float32{bs[part], rank}, true, down + part * rank, parts * rank, out + first, outputs, rows, sizes[part],
            rank, Epilogue{alpha, true, nullptr}, threads);
}

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
      store(to + i, g / (1.0f + exponential(-g)) * load(up + i));
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
      const Vec x = load(gate + i), sigmoid = 1.0f / (1.0f + exponential(-x)), here = load(g + i);
      store(to_up + i, here * x * sigmoid);
      store(to_gate + i, here * load(up + i) * sigmoid * (1.0f + x * (1.0f - sigmoid)));
    }
    for (; i < size; i++) {
      const float sigmoid = 1.0f / (1.0f + std::exp(-gate[i]));
      to_up[i] = g[i] * gate[i] * sigmoid;
      to_gate[i] = g[i] * up[i] * sigmoid * (1.0f + gate[i] * (1.0f - sigmoid));
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

// Per row of logits[S, V] (already divided by the temperature): the log-sum-exp, and the token at `uniform` of the
// way through the distribution. Sums run over blocks in a fixed order, so a row does not depend on its neighbours.
void groat_draw(const float* logits, long stride, const double* uniforms, int64_t* tokens, float* lse, long rows,
                long vocabulary, int threads) {
  constexpr long BLOCK = 1024;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long row = 0; row < rows; row++) {
    const float* from = logits + row * stride;
    const float maximum = largest(from, vocabulary);
    const long blocks = (vocabulary + BLOCK - 1) / BLOCK;
    std::vector<float> totals(blocks);
    double total = 0;
    for (long block = 0; block < blocks; block++) {
      const long start = block * BLOCK, end = std::min(vocabulary, start + BLOCK);
      Vec partial = {};
      long place = start;
      for (; place + LANES <= end; place += LANES) partial += exponential(load(from + place) - maximum);
      float here = sum(partial);
      for (; place < end; place++) here += std::exp(from[place] - maximum);
      totals[block] = here;
      total += here;
    }
    lse[row] = maximum + float(std::log(total));
    double threshold = uniforms[row] * total;
    long block = 0;
    while (block + 1 < blocks && threshold >= totals[block]) threshold -= totals[block++];
    const long end = std::min(vocabulary, (block + 1) * BLOCK);
    long token = -1;
    for (long place = block * BLOCK; place < end; place++) {
      const float weight = std::exp(from[place] - maximum);
      if (weight > 0) token = place;
      threshold -= weight;
      if (threshold < 0 && weight > 0) break;
    }
    // Rounding may leave nothing drawable behind the threshold: then the last token before it that can be drawn.
    for (long place = block * BLOCK - 1; token < 0 && place >= 0; place--)
      if (std::exp(from[place] - maximum) > 0) token = place;
    tokens[row] = std::max(token, 0L);  // logits that are not numbers: any token, the run reports them
  }
}

// Per row of logits[M, V]: log-sum-exp, log-prob of the given token, and entropy, in nats.
void groat_token_logprobs(const float* logits, const int64_t* tokens, float* lse, float* logprobs, float* entropies,
                          long rows, long vocabulary, int threads) {
  in_parallel(rows, threads, [&](long row) {
    const float* from = logits + row * vocabulary;
    const float maximum = largest(from, vocabulary);
    double total = 0, weighted = 0;  // of exp(x), and of exp(x) x, with x relative to the maximum
    for (long start = 0; start < vocabulary; start += 1024) {
      const long end = std::min(vocabulary, start + 1024);
      Vec partial = {}, partial_weighted = {};
      long i = start;
      for (; i + LANES <= end; i += LANES) {
        const Vec x = load(from + i) - maximum, weight = exponential(x);
        partial += weight;
        partial_weighted += weight * (x < -80.0f ? splat(-80.0f) : x);
      }
      for (; i < end; i++) {
        const float x = std::max(from[i] - maximum, -80.0f), weight = std::exp(from[i] - maximum);
        total += weight;
        weighted += weight * x;
      }
      total += sum(partial);
      weighted += sum(partial_weighted);
    }
    const double relative = std::log(total);
    lse[row] = maximum + float(relative);
    logprobs[row] = from[tokens[row]] - maximum - float(relative);
    entropies[row] = float(relative - weighted / total);
  });
}

// In place, logits become the gradient of sum(grad * logprob): grad * (one-hot(token) - softmax).
void groat_logprob_gradient(float* logits, const int64_t* tokens, const float* lse, const float* grad, long rows,
                            long vocabulary, int threads) {
  in_parallel(rows, threads, [&](long row) {
    float* here = logits + row * vocabulary;
    long i = 0;
    for (; i + LANES <= vocabulary; i += LANES) store(here + i, exponential(load(here + i) - lse[row]) * -grad[row]);
    for (; i < vocabulary; i++) here[i] = std::exp(here[i] - lse[row]) * -grad[row];
    here[tokens[row]] += grad[row];
  });
}
}
