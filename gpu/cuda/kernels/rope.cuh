// What kernels that rotate queries and keys, and write keys and values to the pools, share.

struct RoPEArgs { act* x; const float* cos; const float* sin; i64 n; int stride, column, heads, head_dim, half; };

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

// Where element d of a head of the token in slot lies in a pool.
__device__ __forceinline__ i64 pool_place(const KVWriteArgs& a, int slot, int head, int d) {
  return (((i64)(slot / a.block_size) * a.heads + head) * a.block_size + slot % a.block_size) * a.dim + d;
}
