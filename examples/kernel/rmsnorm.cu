// RMSNorm with a row in registers: x is read once, and the weights, which no kernel writes, are on their way before the
// kernel ahead has ended. Submit it with --threads 256 --per-block 1 --overlap --cols-min 512 --cols-max 8192 --cols-multiple 8.

constexpr int THREADS = 256, PASSES = 4; // of 8 elements a thread: up to 8192 columns

KERNEL __launch_bounds__(THREADS) rmsnorm_registers(RMSNormArgs a) {
  __shared__ float room[33];
  float x[PASSES][8], w[PASSES][8];
#pragma unroll
  for (int p = 0; p < PASSES; p++) {
    int at = (p * THREADS + threadIdx.x) * 8;
    if (at < a.cols) load8(a.weight + at, w[p]);
  }
  pdl_begin(); // x is what the kernel ahead writes
  i64 base = (i64)blockIdx.x * a.cols;
  float squares = 0;
#pragma unroll
  for (int p = 0; p < PASSES; p++) {
    int at = (p * THREADS + threadIdx.x) * 8;
    if (at >= a.cols) continue;
    load8(a.x + base + at, x[p]);
#pragma unroll
    for (int i = 0; i < 8; i++) squares += x[p][i] * x[p][i];
  }
  float scale = 1.0f / sqrtf(block_sum(squares, room) / a.cols + a.eps);
#pragma unroll
  for (int p = 0; p < PASSES; p++) {
    int at = (p * THREADS + threadIdx.x) * 8;
    if (at >= a.cols) continue;
#pragma unroll
    for (int i = 0; i < 8; i++) x[p][i] *= scale * (w[p][i] + a.offset);
    store8(a.out + base + at, x[p]);
  }
}
