// The kernels that others call from C++ too: all parts of a decoder layer. Whoever defines or calls them includes this, so
// that the compiler compares both.

#pragma once

#include <cstdint>

extern "C" {

// A frozen matrix as Python hands it over; the fields are those of MatrixView in native.py.
struct MatrixView {
  int32_t kind;     // 0 fp32, 1 bf16, 2 int8 in tiles, 3 nf4, 4 fp32 in tiles, 5 int8 by rows
  int32_t compute;  // 0 in fp32, 1 in int8
  int32_t block;
  int64_t rows, columns;
  const void* values;
  const float* scales;  // nf4: per block, or null; int8: bf16 per block
  const uint8_t* scale_codes;
  const float* scale_map;
  const float* scale_scales;
  const float* scale_offsets;
  const float* code;
};

// Keys and values one behind the other: [count, kv heads, head size] with a token's stride and a head's, in numbers. They are
// fp32, or int8 with a scale for each head of a token; scales lie like them, one where they have a head's numbers.
struct Run {
  int64_t count, token_stride, head_stride;
  const void *keys, *values;
  const float *key_scales, *value_scales;  // null for fp32; all runs of a call are alike
};

// Keys or values, as those of a run.
struct Numbers {
  void* first;
  float* scales;
};

// Keys and values [count, kv heads, head size], unbroken, of tokens that come before every root of a forest, kept as those of
// a run are; and gradients that are added up for them, or null.
struct Prefix {
  int64_t count;
  void *keys, *values;
  float *key_scales, *value_scales;
  float *grad_keys, *grad_values;
};

// Rows of tokens that follow one another; the runs of their path, in order, end with the last of them.
struct Span {
  int64_t first_row, rows, position;  // of the first row in its path
  int64_t first_run, runs;
};

void groat_product(const MatrixView* view, int transposed, const float* left, long left_stride, float* out,
                   long out_stride, long rows, const float* bias, void* scratch, int threads);
void groat_adapted_product(const MatrixView* view, const float* x, long x_stride, float* out, long rows,
                           const float* bias, const float* a, float* down, const float* const* bs,
                           const int64_t* sizes, long parts, long rank, float alpha, void* scratch, int threads);
void groat_adapted_gradient(const MatrixView* view, const float* grad, const float* x, const float* down, const float* a,
                            const float* const* bs, const int64_t* sizes, long parts, long rank, float alpha,
                            float* grad_x, float* grad_down, float* grad_a, float* const* grad_bs, long rows,
                            void* scratch, int threads);
void groat_rms_norm(const float* x, long stride, const float* weight, float epsilon, float* out, long out_stride,
                    float* inverse, long rows, long size, int threads);
void groat_rms_norm_backward(const float* grad, const float* x, const float* weight, const float* inverse, float* out,
                             long rows, long size, int threads);
void groat_swiglu(const float* gate_up, float* out, long rows, long size, int threads);
void groat_swiglu_backward(const float* grad, const float* gate_up, float* out, long rows, long size, int threads);
void groat_rotate(const float* x, long stride, const float* cosines, const float* sines, float sign, float* out,
                  long rows, long heads, long size, long half, int threads);
void groat_attend(const float* queries, float* out, float* lse, const Span* spans, long num_spans, const Run* runs,
                  long rows, long heads, long kv_heads, long size, int threads);
void groat_attend_backward(const float* grad, const float* queries, const float* output, const float* lse,
                           const float* keys, const Span* spans, long num_spans, const Run* runs, const Prefix* before,
                           float* grad_queries, float* grad_keys, float* grad_values, long rows, long heads,
                           long kv_heads, long size, int in_halves, int threads);
void groat_remember(const float* keys, const float* values, const Numbers* arena_keys, const Numbers* arena_values,
                    const int64_t* slots, const int64_t* lengths, long rows, long kv_heads, long length, long size);
void groat_hadamard(float* x, long rows, long size, int threads);
void groat_round_heads(float* x, int8_t* codes, float* scales, long rows, long size, int threads);

}  // extern "C"

struct AdapterBackward;

// Whether the gradients of products with this matrix are computed in bf16 rather than in int8 or fp32.
bool gradients_are_in_bfloat16(const MatrixView& view);

// For such a matrix: out = g W and what the adapter adds to it (int8.h); rows are unbroken.
void straight_product_with_adapter(const MatrixView& view, const float* grad, float* out, long rows,
                                   const AdapterBackward& adapter, void* scratch, int threads);
