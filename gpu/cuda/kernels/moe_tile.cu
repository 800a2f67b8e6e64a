// Products of experts with many tokens each and bfloat16 weights; and the plan for all such.

struct PlanArgs { const int* experts; int* plan; int pairs, expert_count, rows, _; };

// Sorts the pairs for moe_tile: one block. The dynamic shared memory is a number per expert.
KERNEL moe_plan(PlanArgs a) {
  extern __shared__ int starts[];
  pdl_begin();
  Plan(a.plan, a.pairs).make(a.experts, a.pairs, a.expert_count, a.rows, starts, blockDim.x / 32);
}

struct Plain {
  static constexpr int slab = 64, row_bytes = 2 * slab, tile_bytes = ROWS * row_bytes;

  template <class Copier>
  static __device__ __forceinline__ void copy(const Copier& from, const ExpertsArgs& a, int, int at, int bytes, u32 address) {
    static_assert(32 * WARPS / (row_bytes / 16) == ROWS, "a thread copies the same row of each tile");
    const int row = threadIdx.x / (row_bytes / 16), rows = gated(a) ? ROWS / 2 : ROWS;
#pragma unroll
    for (int i = 0; i < TILES; i++) copy16(address + i * tile_bytes, weights_row(a, from.w + 2 * (i64)at, from.row0 + i * rows, row), bytes);
  }

  template <int M, int N>
  struct Sums {
    float c[M][N][4] = {};

    // Multiplies a warp's part of a slab: M tiles of rows by N times 8 pairs, of which the first `used` are real.
    template <bool ALL>
    __device__ __forceinline__ void take(const u8* w, const u8* x, int used) {
      const int group = lane_id() >> 2;
#pragma unroll
      for (int half = 0; half < slab / 32; half++) {
        const int chunk = 4 * half + (lane_id() & 3);
        uint4 low[M], high[M];
#pragma unroll
        for (int m = 0; m < M; m++) low[m] = *(const uint4*)(w + place<Plain>(m * ROWS + group, chunk)), high[m] = *(const uint4*)(w + place<Plain>(m * ROWS + group + 8, chunk));
#pragma unroll
        for (int n = 0; n < N; n++) {
          if (!ALL && n >= used) break;
          uint4 in = *(const uint4*)(x + place<Plain>(n * 8 + group, chunk));
#pragma unroll
          for (int m = 0; m < M; m++) mma(c[m][n], low[m].x, high[m].x, low[m].y, high[m].y, in.x, in.y);
#pragma unroll
          for (int m = 0; m < M; m++) mma(c[m][n], low[m].z, high[m].z, low[m].w, high[m].w, in.z, in.w);
        }
      }
    }

    __device__ __forceinline__ void put(const ExpertsArgs& a, const u8*, const int* order, int pairs, int first, int m, int n) const { ::put(a, order, pairs, first, c[m][n]); }
  };
};

KERNEL __launch_bounds__(32 * WARPS, 3) moe_tile_32(ExpertsArgs a) { tile<Plain, 2, 4>(a); }
KERNEL __launch_bounds__(32 * WARPS, 3) moe_tile_64(ExpertsArgs a) { tile<Plain, 4, 4>(a); }
KERNEL __launch_bounds__(32 * WARPS, 2) moe_tile_128(ExpertsArgs a) { tile<Plain, 4, 8>(a); }
