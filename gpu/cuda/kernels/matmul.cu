// matmul: out[t, n] = sum_k x[t, k] * w[n, k] + bias[n] + old out. See matmul.cuh.

struct MatMulArgs {
  float* out; const float* x; const u8* w; const float* bias;
  i64 stride; // bytes of a row of w
  int tokens, n, k, accumulate;
};

// Blocks with the same rows of w and neighbouring tokens run together and share them in the
// second-level cache.
template <class W, int T, int R, bool VECTOR>
__device__ void matmul(const MatMulArgs& a) {
  int first = blockIdx.x * T, row0 = (blockIdx.y * WARPS + warp_id()) * R;
  if (row0 >= a.n) return;
  const float* x = a.x + (i64)first * a.k;
  multiply<W, T, R, VECTOR>(
      a.w, a.stride, a.n, a.k, row0, min(T, a.tokens - first),
      [&](int t) { return x + (i64)t * a.k; },
      [&](int row, int t, float sum) {
        i64 at = (i64)(first + t) * a.n + row;
        if (a.bias) sum += a.bias[row];
        a.out[at] = a.accumulate ? sum + a.out[at] : sum;
      });
}

// Two blocks of each multiprocessor hide each other's loads, which bounds the registers.
#define MATMUL(name, W, T, R)                                                                          \
  KERNEL __launch_bounds__(32 * WARPS, 2) matmul_##name##_##T(MatMulArgs a) { matmul<W, T, R, true>(a); } \
  KERNEL __launch_bounds__(32 * WARPS, 2) matmul_##name##_##T##_odd(MatMulArgs a) { matmul<W, T, R, false>(a); }

#define MATMULS(name, W) MATMUL(name, W, 1, 2) MATMUL(name, W, 2, 2) MATMUL(name, W, 4, 4) MATMUL(name, W, 8, 4)

// A module has the kernels of one type of weights.
#if defined(MATMULS_f32)
MATMULS(f32, F32)
#elif defined(MATMULS_f16)
MATMULS(f16, F16)
#elif defined(MATMULS_bf16)
MATMULS(bf16, BF16)
#endif
