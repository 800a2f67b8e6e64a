// A warp's 16 query rows against tiles of keys, scores laid out as mma's d: a thread has columns
// 2c, 2c+1 of rows g and g+8, where g = lane / 4 and c = lane % 4. For many queries.

constexpr int ROWS = 16;

// Loads rows row0 to row0+15 as mma's a, zeros where there is nothing.
__device__ __forceinline__ void load_queries(const FlashArgs& a, const Queries& queries, int row0, u32 (&q)[DP / 16][4]) {
  bool wide = (a.dim | a.stride | a.q_column) % 2 == 0 && (u64)a.q % 4 == 0;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    int row = row0 + lane_id() / 4 + 8 * r;
    bool real = queries.real(a, row);
    const u16* from = a.q;
    if (real) from += queries.offset(a, row);
#pragma unroll
    for (int i = 0; i < DP / 8; i++) {
      int d = 8 * i + 2 * (lane_id() & 3);
      q[i / 2][i % 2 * 2 + r] = load2(from + d, real && d < a.dim, real && d + 1 < a.dim, wide);
    }
  }
}

// A thread's share of its rows' sums over a part.
struct Sums {
  float o[DP / 8][4];            // weights times values
  float largest[2], total[2][2]; // score, unscaled; weights of even and of odd columns

  __device__ __forceinline__ void clear_values() {
#pragma unroll
    for (int i = 0; i < DP / 8; i++) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
  }
  __device__ __forceinline__ void clear_weights() {
    largest[0] = largest[1] = -INFINITE, total[0][0] = total[0][1] = total[1][0] = total[1][1] = 0;
  }
};

// Adds a tile's scores to the sums, but for o, which has to shrink by `old` first; the scores
// become weights. s[j] is of the keys from tile + 8j on.
__device__ __forceinline__ void take_scores(const FlashArgs& a, float (&s)[TILE / 8][4], Sums& sums, const Sight& sight, int tile, float (&old)[2]) {
  if (a.soft_cap > 0) {
    float in = cap_in(a), out = cap_out(a);
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) s[j][e] = capped(s[j][e], in, out);
  }
  if (!sight.sees_all(tile)) {
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (!sight.sees(e / 2, tile + 8 * j + 2 * (lane_id() & 3) + (e & 1))) s[j][e] = -INFINITE;
  }
  float unit = score_unit(a);
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float largest, base, sum[2] = {0, 0}, half[2] = {sums.largest[r], -INFINITE};
#pragma unroll
    for (int j = 0; j < TILE / 8; j++) half[j & 1] = fmaxf(half[j & 1], fmaxf(s[j][2 * r], s[j][2 * r + 1]));
    largest = fmaxf(half[0], half[1]);
    largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, 2));
    old[r] = rebase(sums.largest[r], largest, unit, base);
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        s[j][2 * r + e] = weight(s[j][2 * r + e], unit, base);
        sum[e] = __fadd_rn(sum[e], s[j][2 * r + e]);
      }
    sums.largest[r] = largest;
#pragma unroll
    for (int e = 0; e < 2; e++) sums.total[r][e] = __fmaf_rn(sums.total[r][e], old[r], sum[e]);
  }
}

__device__ __forceinline__ void shrink(Sums& sums, const float (&old)[2]) {
  if (!__any_sync(FULL, old[0] != 1.0f || old[1] != 1.0f)) return;
#pragma unroll
  for (int i = 0; i < DP / 8; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) sums.o[i][e] = __fmul_rn(sums.o[i][e], old[e / 2]);
}

// Weights of keys 16j to 16j+15 of a tile, as mma's a.
__device__ __forceinline__ void weight_fragment(u32 (&p)[4], const float (&s)[TILE / 8][4], int j) {
  p[0] = pack_bf16(s[2 * j][0], s[2 * j][1]), p[1] = pack_bf16(s[2 * j][2], s[2 * j][3]);
  p[2] = pack_bf16(s[2 * j + 1][0], s[2 * j + 1][1]), p[3] = pack_bf16(s[2 * j + 1][2], s[2 * j + 1][3]);
}

// Ends a part: merged takes its weights. largest becomes an exponent of two.
__device__ __forceinline__ void end_part(const FlashArgs& a, const float (&largest)[2], const float (&total)[2][2], Merged (&merged)[2]) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float all = __fadd_rn(total[r][0], total[r][1]);
    all = __fadd_rn(all, __shfl_xor_sync(FULL, all, 1));
    all = __fadd_rn(all, __shfl_xor_sync(FULL, all, 2));
    merged[r].take(__fmul_rn(largest[r], score_unit(a)), all);
  }
}

// Writes row r (0: g, 1: g+8) of a thread to the output.
__device__ __forceinline__ void write_row(const FlashArgs& a, const float (&o)[DP / 8][4], float total, int r, int token, int head) {
  u16* out = a.out + ((i64)token * a.heads + head) * a.dim;
  bool wide = a.dim % 2 == 0 && (u64)a.out % 4 == 0;
  float inverse = __frcp_rn(total);
#pragma unroll
  for (int i = 0; i < DP / 8; i++) {
    int d = 8 * i + 2 * (lane_id() & 3);
    u32 two = pack_bf16(mean(o[i][2 * r], inverse), mean(o[i][2 * r + 1], inverse));
    if (wide) {
      if (d < a.dim) *(u32*)(out + d) = two;
    } else {
      if (d < a.dim) out[d] = (u16)two;
      if (d + 1 < a.dim) out[d + 1] = (u16)(two >> 16);
    }
  }
}

// The sequence of tile number `tile`: the last s with query_start[s]/per + s <= tile. Every
// sequence has room for its tiles between one such number and the next.
__device__ int find_sequence(const int* query_start, int sequences, int per, int tile) {
  int low = 0, high = sequences - 1;
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (query_start[middle] / per + middle <= tile) low = middle;
    else high = middle - 1;
  }
  return low;
}

// The query rows of block (x: KV head, y: tile from the end, z: group of heads), none if tokens
// is 0, and the keys they see. The last tiles see the most keys, so they go first.
struct Work {
  Queries queries;
  Keys keys;

  __device__ explicit Work(const FlashArgs& a) {
    int number = gridDim.y - 1 - blockIdx.y, per = a.tokens_per_tile, s = find_sequence(a.query_start, a.sequences, per, number);
    int start = a.query_start[s], end = a.query_start[s + 1], group = a.heads / a.kv_heads;
    queries.token0 = start + (number - (start / per + s)) * per;
    queries.tokens = end - start > a.few ? max(0, min(per, end - queries.token0)) : 0;
    if (queries.tokens == 0) return;
    queries.head0 = blockIdx.x * group + blockIdx.z * a.heads_per_tile;
    queries.heads = min(a.heads_per_tile, group - (int)blockIdx.z * a.heads_per_tile);
    keys.table = a.tables + (i64)clamp_index(a.slots[s], a.table_rows) * a.table_width;
    keys.head = blockIdx.x;
    keys.first = a.window > 0 ? max(0, a.positions[queries.token0] - a.window + 1) : 0;
    keys.last = a.positions[queries.token0 + queries.tokens - 1];
  }

  __device__ __forceinline__ void look(const FlashArgs& a, int row0, Sight& sight) const {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      int row = row0 + lane_id() / 4 + 8 * r;
      sight.set(a, r, queries.real(a, row) ? a.positions[queries.token(a, row)] : -1);
    }
  }

  __device__ __forceinline__ void write(const FlashArgs& a, int row0, const float (&o)[DP / 8][4], const Merged (&merged)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      int row = row0 + lane_id() / 4 + 8 * r;
      if (queries.real(a, row)) write_row(a, o, merged[r].total, r, queries.token(a, row), queries.head(a, row));
    }
  }
};
