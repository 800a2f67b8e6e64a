// Attention for sequences with many queries, bound by arithmetic, on any GPU with bfloat16 tensor
// cores: four warps with 16 query rows each share the tiles of keys and values.

constexpr int WARPS = 4;

// Adds the tile in shared memory to the sums of a warp's rows.
__device__ __forceinline__ void take_tile(const FlashArgs& a, const u32 (&q)[DP / 16][4], const u16* keys, const u16* values, Sums& sums, const Sight& sight, int tile) {
  int row = lane_id() & 7, matrix = lane_id() >> 3;
  u32 k = shared_address(keys) + ((row + (matrix >> 1) * 8) * PITCH + (matrix & 1) * 8) * 2;
  u32 v = shared_address(values) + ((row + (matrix & 1) * 8) * PITCH + (matrix >> 1) * 8) * 2;
  float s[TILE / 8][4], old[2];
#pragma unroll
  for (int j = 0; j < TILE / 8; j++) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
#pragma unroll
  for (int d = 0; d < DP / 16; d++)
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) {
      u32 b[4];
      load_matrices(b, k + (j * 16 * PITCH + d * 16) * 2);
      mma(s[2 * j], q[d], b[0], b[1]);
      mma(s[2 * j + 1], q[d], b[2], b[3]);
    }
  take_scores(a, s, sums, sight, tile, old);
  shrink(sums, old);
#pragma unroll
  for (int j = 0; j < TILE / 16; j++) {
    u32 p[4];
    weight_fragment(p, s, j);
#pragma unroll
    for (int d = 0; d < DP / 16; d++) {
      u32 b[4];
      load_transposed(b, v + (j * 16 * PITCH + d * 16) * 2);
      mma(sums.o[2 * d], p, b[0], b[1]);
      mma(sums.o[2 * d + 1], p, b[2], b[3]);
    }
  }
}

// Merges a part, in sums, with those before it, which lie in store, [DP / 8][32] by lane. Unless
// the part is the last they go back there; the merged sums are in sums.o.
__device__ __forceinline__ void merge_part(const FlashArgs& a, Sums& sums, Merged (&merged)[2], float4* store, bool first, bool last) {
  end_part(a, sums.largest, sums.total, merged);
  if (first && last) return;
#pragma unroll
  for (int i = 0; i < DP / 8; i++) {
    if (!first) {
      float4 x = store[i * 32 + lane_id()];
      sums.o[i][0] = merged[0].of(x.x, sums.o[i][0]), sums.o[i][1] = merged[0].of(x.y, sums.o[i][1]);
      sums.o[i][2] = merged[1].of(x.z, sums.o[i][2]), sums.o[i][3] = merged[1].of(x.w, sums.o[i][3]);
    }
    if (!last) store[i * 32 + lane_id()] = make_float4(sums.o[i][0], sums.o[i][1], sums.o[i][2], sums.o[i][3]);
  }
}

KERNEL __launch_bounds__(32 * WARPS, DP <= 128 ? 2 : 1) FLASH(prefill)(FlashArgs a) {
  extern __shared__ uint4 room[];
  u16* stages = (u16*)room;                // [2][keys, values]
  int* rows = (int*)(stages + 4 * HALF);   // [2][TILE]
  float4* store = (float4*)(rows + 2 * TILE) + warp_id() * DP * 4;
  pdl_wait();
  Work work(a);
  if (work.queries.tokens == 0) return;
  int thread = threadIdx.x, row0 = warp_id() * ROWS;
  u32 q[DP / 16][4];
  Sight sight;
  Sums sums;
  Merged merged[2];
  load_queries(a, work.queries, row0, q);
  work.look(a, row0, sight);
  merged[0].clear(), merged[1].clear();
  sums.clear_values(), sums.clear_weights();

  int tile = work.keys.first & ~(TILE - 1), stage = 0, next_row = -1;
  bool first = true;
  if (thread < TILE) {
    rows[thread] = pool_row(a, work.keys, tile + thread);
    next_row = pool_row(a, work.keys, tile + TILE + thread);
  }
  __syncthreads();
  load_half<32 * WARPS>(a, a.k_pool, stages, rows, thread);
  load_half<32 * WARPS>(a, a.v_pool, stages + HALF, rows, thread);
  copies_end();
  for (; tile <= work.keys.last; tile += TILE, stage ^= 1) {
    bool last = tile + TILE > work.keys.last;
    u16 *here = stages + stage * 2 * HALF, *there = stages + (stage ^ 1) * 2 * HALF;
    if (thread < TILE) rows[(stage ^ 1) * TILE + thread] = next_row;
    copies_wait<0>();
    __syncthreads(); // this tile is here, and the one before has been used
    if (!last) {
      load_half<32 * WARPS>(a, a.k_pool, there, rows + (stage ^ 1) * TILE, thread);
      load_half<32 * WARPS>(a, a.v_pool, there + HALF, rows + (stage ^ 1) * TILE, thread);
      if (thread < TILE) next_row = pool_row(a, work.keys, tile + 2 * TILE + thread);
    }
    copies_end();
    take_tile(a, q, here, here + HALF, sums, sight, tile);
    if (last || (tile + TILE) % PART == 0) {
      merge_part(a, sums, merged, store, first, last);
      if (!last) sums.clear_values(), sums.clear_weights();
      first = false;
    }
  }
  work.write(a, row0, sums.o, merged);
}
