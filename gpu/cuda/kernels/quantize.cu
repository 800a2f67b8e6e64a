// What products with quantized weights need around them.

struct QuantizeRowsArgs {
  u8* codes; float* scales; const act* x;
  int rows, k;
};

// The nearest float of 4 bits of exponent and 3 of mantissa, ties to even, of at most 448 in size.
__device__ __forceinline__ u32 to_e4m3(float v) {
  u32 bits = __float_as_uint(v), sign = bits >> 24 & 0x80;
  float size = fminf(fabsf(v), 448.0f);
  if (v != v) return sign | 0x7f;
  if (size < 0x1p-6f) return sign | (u32)__float2int_rn(size * 512.0f); // subnormal: steps of 2^-9
  bits = __float_as_uint(size);
  bits += 0x7ffff + (bits >> 20 & 1);
  return sign | (bits >> 20) - (127 - 7 << 3);
}

// Rounds each row to 8 bits with a scale of its own. A block per row.
KERNEL __launch_bounds__(256) quantize_rows(QuantizeRowsArgs a) {
  __shared__ float room[33];
  pdl_wait();
  const act* x = a.x + (i64)blockIdx.x * a.k;
  float largest = 0;
  for (int at = threadIdx.x * 8; at < a.k; at += blockDim.x * 8) {
    float v[8];
    load8(x + at, v);
#pragma unroll
    for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(v[i]));
  }
  largest = block_max(largest, room);
  float scale = largest > 0 ? largest / 448.0f : 1.0f;
  if (threadIdx.x == 0) a.scales[blockIdx.x] = scale;
  for (int at = threadIdx.x * 8; at < a.k; at += blockDim.x * 8) {
    float v[8];
    load8(x + at, v);
    u32 code[8];
#pragma unroll
    for (int i = 0; i < 8; i++) code[i] = to_e4m3(v[i] / scale);
    *(uint2*)(a.codes + (i64)blockIdx.x * a.k + at) =
        make_uint2(code[0] | code[1] << 8 | code[2] << 16 | code[3] << 24, code[4] | code[5] << 8 | code[6] << 16 | code[7] << 24);
  }
}

struct FillArgs { u32* out; i64 n; u64 seed; u32 mask, value; };

// Random bits where mask has ones, and value's elsewhere.
KERNEL fill_words(FillArgs a) {
  pdl_wait();
  for (i64 i = global_thread(); i < a.n; i += (i64)gridDim.x * blockDim.x) {
    u64 z = a.seed + 0x9e3779b97f4a7c15ull * (u64)(i + 1);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    a.out[i] = (u32)(z >> 32) & a.mask | a.value & ~a.mask;
  }
}
