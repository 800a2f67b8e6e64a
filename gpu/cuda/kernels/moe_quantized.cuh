// Experts with quantized weights: how a warp copies a tile of them, and the sums of their products. See quantized.cuh for the
// formats. Codes become the first factors of products on their way out of shared memory, so that weights are moved as codes.
//
// The sums of a group's codes are float32 and are scaled as a whole, in one order, whichever kernel computes them and whatever
// the batch.
//
// Where gates are wanted, a tile of 8-bit codes has 8 rows of the gate and the 8 of the up projection that belong to
// them, as in bfloat16. 4-bit codes lie in memory in whole tiles: there some of the gate go with as many of the up
// projection, and are called paired.

// The rows of w where the halves of a tile begin. Past the last rows the last ones stand in, and are not stored.
struct Halves {
  int low, high;

  // Of a tile that begins at a row of w, or, if it is not paired, of the gate.
  __device__ __forceinline__ Halves(const ExpertsArgs& a, int first, bool paired) {
    low = min(first, a.n - ROWS / 2), high = gated(a) && !paired ? low + a.n : min(first + ROWS / 2, a.n - ROWS / 2);
  }
  __device__ __forceinline__ Halves(int low, int high) : low(low), high(high) {}
  __device__ __forceinline__ Halves further(int rows) const { return Halves(low + rows, high + rows); }
};

// What a lane copies of a tile's pieces, one after another. The whole warp copies a piece.
template <class F>
struct TileSource {
  static constexpr int chunks = F::group_bytes / 2; // of 16 bytes, of what 8 rows have of a group
  const u8 *low, *high, *meta;                      // 4-bit codes have no high

  __device__ __forceinline__ void begin(const ExpertsArgs& a, const u8* w, const Halves& rows, int piece) {
    const int lane = lane_id(), pieces = (a.k + PIECE - 1) / PIECE;
    if constexpr (F::bits == 8) {
      const u8* from = w + piece * PIECE + (lane & 7) * 16;
      low = from + (rows.low + (lane >> 3)) * a.stride, high = from + (rows.high + (lane >> 3)) * a.stride;
    } else {
      low = w + ((i64)(rows.low / ROWS) * pieces + piece) * F::code_bytes + lane * 16;
    }
    const int group = lane / (2 * chunks), row = lane / chunks & 1 ? rows.high : rows.low;
    meta = w + a.meta + ((i64)(row / ROWS) * pieces + piece) * F::meta_bytes + (group * ROWS + row % ROWS) * F::group_bytes + lane % chunks * 16;
  }

  // Copies 16 bytes each, or writes zeros.
  __device__ __forceinline__ void copy(const ExpertsArgs& a, u32 to, int bytes) const {
    const int lane = lane_id();
    if constexpr (F::bits == 8) {
      const int r = lane >> 3, column = lane & 7;
      u32 at = to + r * PIECE + ((column >> 1) ^ r) * 32 + (column & 1) * 16;
      copy16(at, low, bytes), copy16(at + 4 * PIECE, low + 4 * a.stride, bytes);
      copy16(at + 8 * PIECE, high, bytes), copy16(at + 12 * PIECE, high + 4 * a.stride, bytes);
    } else {
      copy16(to + lane * 16, low, bytes), copy16(to + lane * 16 + 512, low + 512, bytes);
    }
    if (lane * 16 < F::meta_bytes) copy16(to + F::code_bytes + lane * 16, meta, bytes);
  }

  __device__ __forceinline__ void next() {
    constexpr int step = F::bits == 8 ? PIECE : F::code_bytes;
    low += step, meta += F::meta_bytes;
    if (F::bits == 8) high += step;
  }
};

// What M tiles make with N times 8 pairs.
template <class F, int M, int N>
struct QuantizedSums {
  float c[M][N][4] = {};
  float part[M][N][4], ones[N][4]; // of a group: of products and, in all rows, of activations

  // Multiplies a quarter of each tile's piece by that of the pairs, of which the first 8 * used are real: x(n) has a thread's.
  template <bool ALL, class X>
  __device__ __forceinline__ void take(const u8* tiles, int quarter, int used, X x) {
    const int g = lane_id() >> 2;
    u32 low[M][4], high[M][4];
#pragma unroll
    for (int m = 0; m < M; m++) expand_quarter<F>(tiles + m * F::piece_bytes, quarter, low[m], high[m]);
    if (F::groups && quarter % F::span == 0) clear();
#pragma unroll
    for (int n = 0; n < N; n++) {
      if (!ALL && n >= used) break;
      uint4 v = x(n);
      if constexpr (F::bits == 8) F::code::activations(v.x, v.y), F::code::activations(v.z, v.w);
#pragma unroll
      for (int m = 0; m < M; m++) mma(F::groups ? part[m][n] : c[m][n], low[m][0], high[m][0], low[m][1], high[m][1], v.x, v.y);
#pragma unroll
      for (int m = 0; m < M; m++) mma(F::groups ? part[m][n] : c[m][n], low[m][2], high[m][2], low[m][3], high[m][3], v.z, v.w);
      if (F::bits == 4) {
        constexpr u32 one = 0x3f803f80u;
        mma(ones[n], one, one, one, one, v.x, v.y);
        mma(ones[n], one, one, one, one, v.z, v.w);
      }
    }
    if (!F::groups || (quarter + 1) % F::span != 0) return;
#pragma unroll
    for (int m = 0; m < M; m++) {
      const u8* piece = tiles + m * F::piece_bytes;
      u32 of_low = group_of<F>(piece, quarter / F::span, g), of_high = group_of<F>(piece, quarter / F::span, g + 8);
#pragma unroll
      for (int n = 0; n < N; n++) {
        float(&p)[4] = part[m][n], (&sum)[4] = ones[n], (&to)[4] = c[m][n];
        take_group<F>(of_low, {p[0], p[1]}, {sum[0], sum[1]}, to[0], to[1]);
        take_group<F>(of_high, {p[2], p[3]}, {sum[0], sum[1]}, to[2], to[3]);
      }
    }
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        ones[n][e] = 0;
#pragma unroll
        for (int m = 0; m < M; m++) part[m][n][e] = 0;
      }
  }

  // A tile's sums as those of bfloat16 weights are; of paired tiles those of 8 rows of the gate, the m-th, and of up.
  template <bool PAIRED>
  __device__ __forceinline__ void get(int m, int n, float (&to)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = PAIRED ? c[m / 2 + (i < 2 ? 0 : M / 2)][n][2 * (m % 2) + i % 2] : c[m][n][i];
  }
};

// What the sums of a thread's rows of a tile are multiplied with at last.
template <class F>
__device__ __forceinline__ float2 scales_of(const ExpertsArgs& a, const u8* w, const Halves& rows) {
  if constexpr (F::shared != ROW_SCALE) return make_float2(F::code::unit, F::code::unit);
  const float* scales = (const float*)(w + a.meta) + (lane_id() >> 2);
  return make_float2(F::code::unit * scales[rows.low], F::code::unit * scales[rows.high]);
}

// Stores a tile's products with 8 pairs.
__device__ __forceinline__ void put_scaled(const ExpertsArgs& a, const int* order, int pairs, int first, float2 scale, float (&c)[4]) {
  c[0] *= scale.x, c[1] *= scale.x, c[2] *= scale.y, c[3] *= scale.y;
  put(a, order, pairs, first, c);
}
