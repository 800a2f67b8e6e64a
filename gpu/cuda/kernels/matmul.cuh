// The product behind matmul and moe_experts, in one order of summation whatever the batch:
// lane l of a warp sums the elements [256i+8l, 256i+8l+8) in ascending order with fused
// multiply-adds, and the 32 partial sums are added as a tree over the lane's bits, high bit
// first. A warp computes R rows of W for T tokens at once; neither changes that order, so the
// bits of an output do not depend on which T the batch was given.
//
// Rows of W are padded with zeros to a multiple of 8 elements, so that every load has 16 bytes.

constexpr int WARPS = 8; // per block

// Eight activations at k0 of a row of k; zeros past its end.
template <bool VECTOR>
__device__ __forceinline__ void load_x(const act* row, int k0, int k, float (&x)[8]) {
  if (VECTOR) {
    load8(row + k0, x);
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = k0 + i < k ? load(row + k0 + i) : 0.0f;
  }
}

// Adds up each of the V partial sums over the warp. Where lanes and sums are both many, a lane
// passes on those that others finish: sum number i ends in v[i % per] of the lanes from
// i / per * (32 / lanes), with per = max(1, V / 32).
template <int V>
__device__ __forceinline__ void fold(float (&v)[V]) {
  int count = V, lane = lane_id();
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) {
    if (count > 1) {
      count /= 2;
#pragma unroll
      for (int i = 0; i < V / 2; i++) {
        if (i >= count) break;
        float low = v[i], high = v[i + count];
        float mine = lane & o ? high : low, other = lane & o ? low : high;
        v[i] = mine + __shfl_xor_sync(FULL, other, o);
      }
    } else {
      v[0] += __shfl_xor_sync(FULL, v[0], o);
    }
  }
}

// Calls store(row, token, sum) for rows [row0, row0+R) under n and tokens [0, tokens), each from
// one lane; tokens <= T. row_of(t) is token t's row of k activations. stride: bytes.
template <class W, int T, int R, bool VECTOR, class RowOf, class Store>
__device__ __forceinline__ void multiply(const u8* w, i64 stride, int n, int k, int row0, int tokens, RowOf row_of, Store store) {
  float sum[R * T];
#pragma unroll
  for (int i = 0; i < R * T; i++) sum[i] = 0;
  const u8* rows[R];
#pragma unroll
  for (int r = 0; r < R; r++) rows[r] = w + min(row0 + r, n - 1) * stride;
  const int last = (k - 1) & ~7; // the compiler loads ahead, past the end of the loop, too
#pragma unroll(T == 1 ? 4 : T == 2 ? 2 : 1)
  for (int k0 = lane_id() * 8; k0 < k; k0 += 256) {
    float weight[R][8];
#pragma unroll
    for (int r = 0; r < R; r++) W::load8(rows[r] + (i64)min(k0, last) * W::size, weight[r]);
#pragma unroll
    for (int t = 0; t < T; t++) {
      float x[8];
      load_x<VECTOR>(row_of(min(t, tokens - 1)), k0, k, x);
#pragma unroll
      for (int r = 0; r < R; r++)
#pragma unroll
        for (int i = 0; i < 8; i++) sum[r * T + t] = fmaf(weight[r][i], x[i], sum[r * T + t]);
    }
  }
  fold(sum);
  constexpr int per = R * T >= 32 ? R * T / 32 : 1, lanes = R * T >= 32 ? 1 : 32 / (R * T);
  if (lane_id() % lanes != 0) return;
#pragma unroll
  for (int i = 0; i < per; i++) {
    int at = lane_id() / lanes * per + i, row = row0 + at / T, t = at % T;
    if (row < n && t < tokens) store(row, t, sum[i]);
  }
}
