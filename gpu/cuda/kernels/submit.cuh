// What kernels that are submitted to a running engine are given: one struct by value, by the op that they execute. It is put
// behind common.cuh and in front of the submitted text. These structs are a promise to the kernels' authors (docs/kernels.md):
// fields are only ever appended.

// RMSNorm: out[r, c] = x[r, c] / sqrt(mean(x[r]^2) + eps) * (weight[c] + offset). A unit is a row. out may be x.
struct RMSNormArgs { act* out; const act* x; const float* weight; int rows, cols; float eps, offset; };

// ActMul: out[r, c] = f(x[r, c]) * x[r, cols + c] for rows of 2 * cols in x; f is SiLU::of, or GELUTanh::of if gelu. A unit is an
// element of out.
struct ActMulArgs { act* out; const act* x; int rows, cols, gelu; };

// RoPE, in place: of each head, that is x[r, column + h * dim] and on, elements i and cols + i for i < cols are rotated by
// cos[r, i] and sin[r, i]; rows of x have stride elements. A unit is a pair.
struct RoPEArgs { act* x; const float* cos; const float* sin; int rows, cols, stride, column, heads, dim; };

// MatMul: out[r, o] = sum over c of x[r, c] * w[o, c], plus bias[o] unless bias is 0, plus what out holds if accumulate. w is in
// bfloat16, in rows of stride elements, which lie on 16 bytes. out is float32 if out_f32, and otherwise act. A unit is an o: a
// block computes it for all rows.
struct MatMulArgs { void* out; const act* x; const u16* w; const float* bias; int rows, cols, outputs, stride, accumulate, out_f32; };
