// RMSNorm. The order of the sum depends on the row's length alone: short rows are summed by a
// warp, long ones by a block of fixed size.

struct RMSNormArgs { float* out; const float* x; const float* weight; int rows, cols; float eps, offset; };

__device__ __forceinline__ void normalize(const RMSNormArgs& a, i64 base, float squares, int from, int step) {
  float scale = 1.0f / sqrtf(squares / a.cols + a.eps);
  for (int i = from; i < a.cols; i += step) a.out[base + i] = a.x[base + i] * scale * (a.weight[i] + a.offset);
}

KERNEL rmsnorm_warp(RMSNormArgs a) {
  int row = blockIdx.x * (blockDim.x >> 5) + warp_id();
  if (row >= a.rows) return;
  i64 base = (i64)row * a.cols;
  float squares = 0;
  for (int i = lane_id(); i < a.cols; i += 32) squares += a.x[base + i] * a.x[base + i];
  normalize(a, base, warp_sum(squares), lane_id(), 32);
}

KERNEL rmsnorm_block(RMSNormArgs a) {
  __shared__ float room[33];
  i64 base = (i64)blockIdx.x * a.cols;
  float squares = 0;
  for (int i = threadIdx.x; i < a.cols; i += blockDim.x) squares += a.x[base + i] * a.x[base + i];
  normalize(a, base, block_sum(squares, room), threadIdx.x, blockDim.x);
}
