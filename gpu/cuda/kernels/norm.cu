// RMSNorm. The order of the sum depends on the row's length alone, and on whether rows can be read
// 8 elements at a time: short rows are summed by a warp, long ones by a block of fixed size.

struct RMSNormArgs { act* out; const act* x; const float* weight; int rows, cols; float eps, offset; };

__device__ __forceinline__ float norm_scale(const RMSNormArgs& a, float squares) { return 1.0f / sqrtf(squares / a.cols + a.eps); }

__device__ __forceinline__ void normalize(const RMSNormArgs& a, i64 base, float squares, int from, int step) {
  float scale = norm_scale(a, squares);
  for (int i = from; i < a.cols; i += step) store(a.out + base + i, load(a.x + base + i) * scale * (a.weight[i] + a.offset));
}

__device__ __forceinline__ float square(float v) { return v * v; }

KERNEL rmsnorm_warp(RMSNormArgs a) {
  pdl_begin();
  int row = blockIdx.x * (blockDim.x >> 5) + warp_id();
  if (row >= a.rows) return;
  i64 base = (i64)row * a.cols;
  float squares = 0;
  for (int i = lane_id(); i < a.cols; i += 32) squares += square(load(a.x + base + i));
  normalize(a, base, warp_sum(squares), lane_id(), 32);
}

KERNEL rmsnorm_block(RMSNormArgs a) {
  __shared__ float room[33];
  pdl_begin();
  i64 base = (i64)blockIdx.x * a.cols;
  float squares = 0;
  for (int i = threadIdx.x; i < a.cols; i += blockDim.x) squares += square(load(a.x + base + i));
  normalize(a, base, block_sum(squares, room), threadIdx.x, blockDim.x);
}

KERNEL rmsnorm_block_8(RMSNormArgs a) {
  __shared__ float room[33];
  pdl_begin();
  const act* x = a.x + (i64)blockIdx.x * a.cols;
  act* out = a.out + (i64)blockIdx.x * a.cols;
  float v[8], w[8], squares = 0;
  for (int i = threadIdx.x * 8; i < a.cols; i += blockDim.x * 8) {
    load8(x + i, v);
#pragma unroll
    for (int j = 0; j < 8; j++) squares += square(v[j]);
  }
  float scale = norm_scale(a, block_sum(squares, room));
  for (int i = threadIdx.x * 8; i < a.cols; i += blockDim.x * 8) {
    load8(x + i, v);
    load8(a.weight + i, w);
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = v[j] * scale * (w[j] + a.offset);
    store8(out + i, v);
  }
}
