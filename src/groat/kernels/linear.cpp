// Frozen linear layers in every storage kind, with their adapters.
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
#include "storage.h"
#include "vectors.h"
#include "workers.h"

namespace {

#if defined(__AVX512F__)
constexpr int TILE_ROWS = 12;
#else
constexpr int TILE_ROWS = 6;
#endif
constexpr int BLOCK_ROWS = 384;  // rows that share one tile

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
      sums[row][0] = multiply_add(factor, first, sums[row][0]);
      sums[row][1] = multiply_add(factor, second, sums[row][1]);
    }
  }
  const Vec bias[2] = {end.bias ? load(end.bias) : Vec{}, end.bias ? load(end.bias + LANES) : Vec{}};
#pragma GCC unroll 16
  for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      float* to = out + row * out_stride + half * LANES;
      const Vec value = multiply_add(sums[row][half], splat(end.alpha), bias[half]);
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
      for (int output = 0; output < DOT_OUTPUTS; output++) {
        Vec& sum = sums[row * DOT_OUTPUTS + output];
        sum = multiply_add(left, right[output], sum);
      }
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

}  // extern "C"
