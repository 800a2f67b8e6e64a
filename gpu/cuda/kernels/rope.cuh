// What kernels that rotate queries and keys, and write keys and values to the pools, share.

struct HeadNormArgs { const float* query; const float* key; int queries; float eps, offset; int unused; }; // query: null without a norm

struct RoPEArgs {
  act* x; const float* cos; const float* sin; i64 n; int stride, column, heads, head_dim, half, unused;
  HeadNormArgs norm;

  __device__ __forceinline__ const float* weight(int head) const { return head < norm.queries ? norm.query : norm.key; }
};

struct KVWriteArgs {
  const act* kv; act* k_pool; act* v_pool; const int* slots;
  i64 n; int stride, k_column, v_column, heads, block_size, dim, slot_count;
};

struct RoPEKVArgs { RoPEArgs rope; KVWriteArgs kv; };

// Rotates a pair in place. Every kernel does it in these operations, so that they give the same bits.
__device__ __forceinline__ void rotate(float& low, float& high, float cos, float sin) {
  float x = __fmaf_rn(low, cos, -__fmul_rn(high, sin));
  high = __fmaf_rn(high, cos, __fmul_rn(low, sin));
  low = x;
}

// The order in which a norm of whole heads, whose dimension is a power of two, adds squares up, whichever threads have
// them: of each pair of elements 8b + 2c, 8b + 2c + 1; then over b, two neighbours at a time; then over c.
__device__ __forceinline__ float squares_of(float first, float second) { return __fmaf_rn(second, second, __fmul_rn(first, first)); }

// Adds up what lanes hold whose numbers differ in the bits of FROM to half of TO.
template <int FROM, int TO>
__device__ __forceinline__ float lanes_sum(float v) {
#pragma unroll
  for (int o = FROM; o < TO; o *= 2) v = __fadd_rn(v, __shfl_xor_sync(FULL, v, o));
  return v;
}

__device__ __forceinline__ float head_scale(const HeadNormArgs& a, float squares, int dim) { return __frcp_rn(__fsqrt_rn(__fadd_rn(__fdiv_rn(squares, dim), a.eps))); }
__device__ __forceinline__ float normed(float x, float scale, float weight, float offset) { return __fmul_rn(__fmul_rn(x, scale), __fadd_rn(weight, offset)); }

// Where element d of a head of the token in slot lies in a pool.
__device__ __forceinline__ i64 pool_place(const KVWriteArgs& a, int slot, int head, int d) {
  return (((i64)(slot / a.block_size) * a.heads + head) * a.block_size + slot % a.block_size) * a.dim + d;
}
