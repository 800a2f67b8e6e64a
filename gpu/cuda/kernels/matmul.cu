// matmul: out[t, n] = sum_k x[t, k] * w[n, k] + bias[n] + old out. See matmul.cuh.

struct MatMulArgs {
  void* out; const act* x; const u8* w; const float* bias;
  i64 stride; // bytes of a row of w
  int tokens, n, k, accumulate, out_f32;
};

template <class O>
__device__ __forceinline__ void finish(const MatMulArgs& a, i64 at, float sum) {
  O* out = (O*)a.out + at;
  store(out, a.accumulate ? sum + load(out) : sum);
}

// Blocks with the same rows of w and neighbouring tokens run together and share them in the
// second-level cache.
template <class W, int T, int R, bool VECTOR>
__device__ void matmul(const MatMulArgs& a) {
  pdl_wait();
  int first = blockIdx.x * T, row0 = (blockIdx.y * WARPS + warp_id()) * R;
  if (row0 >= a.n) return;
  const act* x = a.x + (i64)first * a.k;
  multiply<W, T, R, VECTOR>(
      a.w, a.stride, a.n, a.k, row0, min(T, a.tokens - first),
      [&](int t) { return x + (i64)t * a.k; },
      [&](int row, int t, float sum) {
        i64 at = (i64)(first + t) * a.n + row;
        if (a.bias) sum += a.bias[row];
        if (a.out_f32) finish<float>(a, at, sum);
        else finish<act>(a, at, sum);
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
