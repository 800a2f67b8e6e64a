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

// Rows that can be read 8 elements at a time, by blocks of NORM_THREADS threads.
constexpr int NORM_THREADS = 256;
constexpr int NORM_KEPT = 4; // groups of 8 elements that a thread keeps: those of a row of up to 8192

// The norm's weights, read before the row is there: a step's other weights have pushed them out of the caches.
struct NormWeight {
  const float* all;
  float kept[NORM_KEPT][8];

  __device__ __forceinline__ NormWeight(const float* weight, int k) : all(weight) {
#pragma unroll
    for (int i = 0; i < NORM_KEPT; i++) {
      int at = (i * NORM_THREADS + threadIdx.x) * 8;
      if (at < k) load8(weight + at, kept[i]);
    }
  }
};

__device__ __forceinline__ float squares8(const float (&v)[8], float sum) {
#pragma unroll
  for (int i = 0; i < 8; i++) sum += v[i] * v[i];
  return sum;
}

__device__ __forceinline__ void scale8(act* out, const float (&v)[8], const float (&w)[8], float scale, float offset) {
  float y[8];
#pragma unroll
  for (int i = 0; i < 8; i++) y[i] = v[i] * scale * (w[i] + offset);
  store8(out, y);
}

__device__ __forceinline__ void normalize(const act* x, const NormWeight& weight, act* out, int k, float eps, float offset, float* room) {
  const int kept = NORM_KEPT * NORM_THREADS * 8, mine = threadIdx.x * 8;
  float squares = 0, v[NORM_KEPT][8];
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++)
    if (i * NORM_THREADS * 8 + mine < k) load8(x + i * NORM_THREADS * 8 + mine, v[i]);
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++)
    if (i * NORM_THREADS * 8 + mine < k) squares = squares8(v[i], squares);
  for (int at = kept + mine; at < k; at += NORM_THREADS * 8) {
    float more[8];
    load8(x + at, more);
    squares = squares8(more, squares);
  }
  float scale = 1.0f / sqrtf(block_sum(squares, room) / k + eps);
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++)
    if (i * NORM_THREADS * 8 + mine < k) scale8(out + i * NORM_THREADS * 8 + mine, v[i], weight.kept[i], scale, offset);
  for (int at = kept + mine; at < k; at += NORM_THREADS * 8) {
    float more[8], w[8];
    load8(x + at, more);
    load8(weight.all + at, w);
    scale8(out + at, more, w, scale, offset);
  }
}

KERNEL __launch_bounds__(NORM_THREADS) rmsnorm_block_8(RMSNormArgs a) {
  __shared__ float room[33];
  pdl_launch();
  NormWeight weight(a.weight, a.cols);
  pdl_wait();
  i64 base = (i64)blockIdx.x * a.cols;
  normalize(a.x + base, weight, a.out + base, a.cols, a.eps, a.offset, room);
}
