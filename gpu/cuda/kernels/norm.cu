// RMSNorm. The order of the sum depends on the row's length alone, and on whether rows can be read
// 8 elements at a time: short rows are summed by a warp, long ones by a block of fixed size.

struct RMSNormArgs { act* out; const act* x; const float* weight; int rows, cols; float eps, offset; };

__device__ __forceinline__ float norm_scale(const RMSNormArgs& a, float squares) { return 1.0f / sqrtf(squares / a.cols + a.eps); }

__device__ __forceinline__ void scale_row(const RMSNormArgs& a, i64 base, float squares, int from, int step) {
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
  scale_row(a, base, warp_sum(squares), lane_id(), 32);
}

KERNEL rmsnorm_block(RMSNormArgs a) {
  __shared__ float room[33];
  pdl_begin();
  i64 base = (i64)blockIdx.x * a.cols;
  float squares = 0;
  for (int i = threadIdx.x; i < a.cols; i += blockDim.x) squares += square(load(a.x + base + i));
  scale_row(a, base, block_sum(squares, room), threadIdx.x, blockDim.x);
}

// With the bits that a product makes when it takes the norm in.
KERNEL __launch_bounds__(NORM_THREADS) rmsnorm_block_8(RMSNormArgs a) {
  __shared__ float room[33];
  pdl_begin();
  i64 base = (i64)blockIdx.x * a.cols;
  normalize(a.x + base, a.weight, a.out + base, a.cols, a.eps, a.offset, room);
}
