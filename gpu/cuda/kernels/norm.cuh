// RMSNorm of a row by a block of NORM_THREADS threads, in one order whoever asks for it.
constexpr int NORM_THREADS = 256;

__device__ __forceinline__ void normalize(const act* x, const float* weight, act* out, int k, float eps, float offset, float* room) {
  float squares = 0;
  for (int at = threadIdx.x * 8; at < k; at += NORM_THREADS * 8) {
    float v[8];
    load8(x + at, v);
#pragma unroll
    for (int i = 0; i < 8; i++) squares += v[i] * v[i];
  }
  float scale = 1.0f / sqrtf(block_sum(squares, room) / k + eps);
  for (int at = threadIdx.x * 8; at < k; at += NORM_THREADS * 8) {
    float v[8], w[8];
    load8(x + at, v);
    load8(weight + at, w);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = v[i] * scale * (w[i] + offset);
    store8(out + at, v);
  }
}
